"""What to start, checked, and the reasons why it cannot be."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field

from greenagent.values.errors import GreenagentError

LACKS = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
TEMPORARY = LACKS | {errno.ETXTBSY}

_SHOWN = 200
"""Characters of a name that are quoted when it cannot be started."""


@dataclass(frozen=True)
class SpawnRequest:
    """A program to start.

    ``executable``: without a slash it is searched in the agent's PATH; relative with a slash it is
    meant inside ``directory`` (protocol 2.2). ``arguments`` come after the program's own name.
    ``environment`` is the whole environment. ``directory`` None is the agent's own.
    """

    executable: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: str | None = None


class SpawnError(GreenagentError):
    """A program that could not be started, with the reason in one line.

    ``missing``: there is no such program or it cannot be executed, so trying again is useless.
    ``temporary``: trying again later may help, and nothing was started.
    ``lack``: what no program can be started without just now (processes, memory, descriptors), or "".
    """

    def __init__(self, reason: str, *, temporary: bool = False, missing: bool = False, lack: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.temporary = temporary
        self.missing = missing
        self.lack = lack


@dataclass(frozen=True)
class Program:
    """A request in the bytes the system takes."""

    name: str
    arguments: tuple[bytes, ...]
    environment: tuple[bytes, ...]
    directory: str | None

    def failure(self, reason: str, *, temporary: bool = False, missing: bool = False, lack: bool = False) -> SpawnError:
        return SpawnError(
            f"cannot start {_shorten(self.name)!r}: {reason}",
            temporary=temporary,
            missing=missing,
            lack=reason if lack else "",
        )


def encode(request: SpawnRequest) -> Program:
    """Checks what can be checked without the file system. Raises SpawnError."""
    program = Program(request.executable, (), (), request.directory)
    if not request.executable:
        raise program.failure("no executable is named", missing=True)
    words = [_bytes(program, request.executable, "its name")]
    words += [
        _bytes(program, argument, f"argument {number}") for number, argument in enumerate(request.arguments, start=1)
    ]
    variables = []
    for name, value in request.environment.items():
        if not name or "=" in name:
            raise program.failure(f"{name!r} is no name for an environment variable")
        variables.append(_bytes(program, f"{name}={value}", f"environment variable {name!r}"))
    if request.directory is not None:
        _bytes(program, request.directory, "the working directory")
    return Program(request.executable, tuple(words), tuple(variables), request.directory)


def _bytes(program: Program, text: str, what: str) -> bytes:
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise program.failure(f"{what} contains half a character (a lone surrogate)") from error
    if b"\0" in data:
        raise program.failure(f"{what} contains a NUL character")
    return data


def locate(program: Program, search_path: str) -> str:
    """The file to execute. Touches the file system, so it belongs in a native thread. Raises SpawnError."""
    if program.directory is not None:
        _check_directory(program, program.directory)
    if "/" in program.name:
        path = os.path.join(os.getcwd(), program.directory or "", program.name)
        reason = _not_executable(path)
        if reason is not None:
            where = "" if path == program.name else f" ({_shorten(path)})"
            raise program.failure(f"{reason}{where}", missing=True)
        return path
    found: str | None = None
    for folder in search_path.split(os.pathsep):
        if not folder:
            continue
        path = os.path.join(os.getcwd(), folder, program.name)  # absolute: the child changes its directory first
        reason = _not_executable(path)
        if reason is None:
            return path
        if os.path.lexists(path) and found is None:
            found = f"{reason} ({path})"
    raise program.failure(found or f"no such file or directory (searched PATH {search_path})", missing=True)


def _not_executable(path: str) -> str | None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return _words(error)
    if stat.S_ISDIR(mode):
        return "is a directory"
    if not stat.S_ISREG(mode) or not os.access(path, os.X_OK):
        return "permission denied: the file is not executable"
    return None


def _check_directory(program: Program, directory: str) -> None:
    try:
        mode = os.stat(directory).st_mode
    except OSError as error:
        raise program.failure(f"working directory {_shorten(directory)!r}: {_words(error)}") from error
    if not stat.S_ISDIR(mode):
        raise program.failure(f"working directory {_shorten(directory)!r}: not a directory")
    if not os.access(directory, os.X_OK):
        raise program.failure(f"working directory {_shorten(directory)!r}: permission denied")


def explain(program: Program, path: str, error: OSError) -> SpawnError:
    """The reason for a start that the system refused although ``path`` was there."""
    number = error.errno
    if number == errno.ENOENT:
        return program.failure(f"the interpreter that {path} names does not exist", missing=True)
    if number == errno.ENOEXEC:
        return program.failure(f"{path} is neither a program nor a script that begins with #!", missing=True)
    if number == errno.EACCES:
        return program.failure(f"permission denied ({path}, its interpreter, or the working directory)", missing=True)
    if number == errno.E2BIG:
        return program.failure("argument list too long: give large input as data (stdin)")
    if number == errno.EAGAIN:
        reason = "no more processes are allowed here (limit of the user or the system)"
        return program.failure(reason, temporary=True, lack=True)
    return program.failure(_words(error), temporary=number in TEMPORARY, lack=number in LACKS)


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _words(error: OSError) -> str:
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]
