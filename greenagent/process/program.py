"""A program to start: checked, looked for, started by posix_spawn; and the reasons why it cannot be.

``os.posix_spawn`` keeps the interpreter lock until the child has exec'd, knows no directory and passes on the
signals Python ignores; ``ctypes`` through ``CDLL`` does not (design, section 3).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any

from greenagent.runtime.plain_files import open_plain
from greenagent.values.errors import GreenagentError

LACKS = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
TEMPORARY = LACKS | {errno.ETXTBSY}

_SHOWN = 200
"""Characters of a name that are quoted when it cannot be started."""
_SETSIGDEF = 0x04
_SETSIGMASK = 0x08
_SETSID = 0x80

_Opaque = ctypes.c_ulonglong * 64
"""512 bytes: more than posix_spawnattr_t, the file actions and sigset_t need in glibc (336, 80, 128) and musl."""

_FEW = 1000
"""Texts that ctypes is given one by one."""

_libc = ctypes.CDLL(None, use_errno=True)
_quick_libc = ctypes.PyDLL(None)
"""Keeps the interpreter lock: for what takes less time than getting it back."""


@dataclass(frozen=True)
class SpawnRequest:
    """A program to start.

    ``executable``: without a slash it is searched in the agent's PATH; relative with a slash it is
    meant inside ``directory`` (protocol 2.2). ``arguments`` come after the program's own name.
    ``environment`` is the whole environment. ``directory`` None is the agent's own. ``stdin``: a descriptor that
    becomes the child's standard input in place of a pipe; whoever asks closes it once the program has started.
    """

    executable: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: str | None = None
    stdin: int | None = None


class SpawnError(GreenagentError):
    """A program that could not be started, with the reason in one line.

    ``missing``: there is no such program or it cannot be executed, so trying again is useless; ``absent``: the former.
    ``temporary``: trying again later may help, and nothing was started.
    ``lack``: what no program can be started without just now (processes, memory, descriptors), or "".
    """

    def __init__(
        self, reason: str, *, temporary: bool = False, missing: bool = False, absent: bool = False, lack: str = ""
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.temporary = temporary
        self.missing = missing or absent
        self.absent = absent
        self.lack = lack


class Program:
    """A request in the bytes the system takes."""

    def __init__(self, request: SpawnRequest) -> None:
        """Checks what can be checked without the file system. Raises SpawnError."""
        self.name = request.executable
        self.directory = request.directory
        if not self.name:
            raise self.failure("no executable is named", missing=True)
        words = [self._bytes(self.name, "its name")]
        words += [self._bytes(word, "argument {}", number) for number, word in enumerate(request.arguments, start=1)]
        self.arguments = tuple(words)
        variables = []
        for name, value in request.environment.items():
            if not name or "=" in name:
                raise self.failure(f"{name!r} is no name for an environment variable")
            variables.append(self._bytes(f"{name}={value}", "environment variable {!r}", name))
        self.environment = tuple(variables)
        if self.directory is not None:
            self._bytes(self.directory, "the working directory")

    def _bytes(self, text: str, what: str, which: object = None) -> bytes:
        """``what`` with ``which`` in it names the text where it cannot be taken."""
        try:
            data = text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise self.failure(f"{what.format(which)} contains half a character (a lone surrogate)") from error
        if b"\0" in data:
            raise self.failure(f"{what.format(which)} contains a NUL character")
        return data

    def failure(
        self, reason: str, *, missing: bool = False, absent: bool = False, number: int | None = 0
    ) -> SpawnError:
        """The error to raise; ``number``: the system's, where it refused."""
        return SpawnError(
            f"cannot start {_shorten(self.name)!r}: {reason}",
            missing=missing,
            absent=absent,
            temporary=number in TEMPORARY,
            lack=reason if number in LACKS else "",
        )

    @property
    def known_path(self) -> str | None:
        """The file to execute where the name tells it, there or not; None where it is to be searched."""
        return self._absolute(os.path.join(self.directory or "", self.name)) if "/" in self.name else None

    def locate(self, search_path: str) -> str:
        """The file to execute. Touches the file system, so it belongs in a native thread. Raises SpawnError."""
        if self.directory is not None:
            self._check_directory(self.directory)
        path = self.known_path
        if path is not None:
            reason = _not_executable(path)
            if reason is not None:
                where = "" if path == self.name else f" ({_shorten(path)})"
                raise self.failure(f"{reason}{where}", missing=True, absent=not os.path.lexists(path))
            return path
        found = ""
        for folder in filter(None, search_path.split(os.pathsep)):
            path = self._absolute(os.path.join(folder, self.name))  # the child changes its directory first
            reason = _not_executable(path)
            if reason is None:
                return path
            if os.path.lexists(path) and not found:
                found = f"{reason} ({path})"
        if found:
            raise self.failure(found, missing=True)
        raise self.failure(f"no such file or directory (searched PATH {search_path})", absent=True)

    def _absolute(self, path: str) -> str:
        try:
            return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
        except FileNotFoundError as gone:
            raise self.failure("the folder that the agent was started in is gone") from gone

    def _check_directory(self, directory: str) -> None:
        reason = ""
        try:
            if not stat.S_ISDIR(os.stat(directory).st_mode):
                reason = "not a directory"
            elif not os.access(directory, os.X_OK):
                reason = "permission denied"
        except OSError as error:
            reason = _words(error)
        if reason:
            raise self.failure(f"working directory {_shorten(directory)!r}: {reason}")

    def refused(self, path: str, error: OSError) -> SpawnError:
        """The error for a start that the system refused although ``path`` was there."""
        if error.errno == errno.ENOENT:
            return self.failure(_missing_interpreter(path), missing=True)
        reason = _UNUSABLE.get(error.errno or 0)
        if reason is not None:
            return self.failure(reason.replace("PATH", path), missing=True)
        return self.failure(_REFUSALS.get(error.errno or 0) or _words(error), number=error.errno)


_UNUSABLE = {
    errno.ENOEXEC: "PATH is neither a program nor a script that begins with #!",
    errno.EACCES: "permission denied (PATH, its interpreter, or the working directory)",
}
_REFUSALS = {
    errno.E2BIG: "argument list too long: give large input as data (stdin)",
    errno.EAGAIN: "no more processes are allowed here (limit of the user or the system)",
}


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


def _missing_interpreter(path: str) -> str:
    """Words for a file that is there while what is to run it is not: the first line of a script names that."""
    try:
        with open(open_plain(Path(path)), "rb") as file:
            line = file.readline(_SHOWN)
    except OSError:
        line = b""
    words = line[2:].strip(b" \t\n").split(None, 1) if line.startswith(b"#!") else []
    if not words:
        return f"the interpreter that {path} names does not exist"
    # The kernel takes blanks and tabs for the end of the name only: a carriage return is part of it.
    is_windows = line.endswith(b"\r\n") and len(words) == 1
    name = words[0].decode("utf-8", "backslashreplace") + "\r" * is_windows
    hint = ": its lines end in CR LF as on Windows, let them end in LF" * is_windows
    return f"the interpreter {name!r} that {path} names does not exist{hint}"


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _words(error: OSError) -> str:
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


class PreparedStart:
    """A start that needs nothing more but the path: made on the hub, so that a thread has next to nothing to do."""

    def __init__(
        self,
        arguments: Sequence[bytes],
        environment: Sequence[bytes],
        directory: bytes | None,
        descriptors: tuple[int, int, int],
    ) -> None:
        """``arguments`` include the program's own name. ``descriptors`` become 0, 1 and 2 of the child.

        These must be above 2, so that none is overwritten before it is copied, and that the copy loses close-on-exec.
        Raises OSError.
        """
        self.pid = ctypes.c_int()
        self.actions = _Opaque()
        (words, word_texts), (variables, variable_texts) = _strings(arguments), _strings(environment)
        self.words = words, variables
        self._texts = word_texts, variable_texts
        """Kept, since ``words`` only points into them."""
        actions = ctypes.byref(self.actions)
        _check(_quick_libc.posix_spawn_file_actions_init(actions))
        try:
            if directory is not None:
                _check(_quick_libc.posix_spawn_file_actions_addchdir_np(actions, directory))
            for target, descriptor in enumerate(descriptors):
                _check(_quick_libc.posix_spawn_file_actions_adddup2(actions, descriptor, target))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Frees what it holds; once, when it was launched or never will be."""
        _quick_libc.posix_spawn_file_actions_destroy(ctypes.byref(self.actions))


class Launcher:
    """Starts programs: each in a session of its own, no signal blocked, none ignored."""

    def __init__(self) -> None:
        """Raises OSError where the attributes cannot be made."""
        self._attributes = _Opaque()
        every, none = _Opaque(), _Opaque()
        _libc.sigfillset(ctypes.byref(every))
        _libc.sigemptyset(ctypes.byref(none))
        attributes = ctypes.byref(self._attributes)
        _check(_libc.posix_spawnattr_init(attributes))
        _check(_libc.posix_spawnattr_setflags(attributes, ctypes.c_short(_SETSIGDEF | _SETSIGMASK | _SETSID)))
        _check(_libc.posix_spawnattr_setsigdefault(attributes, ctypes.byref(every)))
        _check(_libc.posix_spawnattr_setsigmask(attributes, ctypes.byref(none)))

    def launch(self, start: PreparedStart, path: bytes) -> int:
        """Returns the pid once the program has replaced the child; may block as long as that takes.

        Raises OSError with the number of what failed (chdir and exec alike).
        """
        pid, actions = ctypes.byref(start.pid), ctypes.byref(start.actions)
        _check(_libc.posix_spawn(pid, path, actions, ctypes.byref(self._attributes), *start.words))
        return start.pid.value


def _strings(values: Sequence[bytes]) -> tuple[Any, bytes]:
    """What points to the texts, with NULL behind the last, and what it points into, where that is not the texts.

    ctypes takes a microsecond for each, which for tens of thousands would hold up the hub: these lie in one text.
    """
    if len(values) <= _FEW:
        return (ctypes.c_char_p * (len(values) + 1))(*values, None), b""
    whole = b"\0".join(values)  # which Python ends with another NUL
    first = ctypes.cast(ctypes.c_char_p(whole), ctypes.c_void_p).value
    places = accumulate(map(len, values), lambda place, length: place + length + 1, initial=first)
    pointers = array("L", chain(islice(places, len(values)), (0,)))
    return (ctypes.c_void_p * len(pointers)).from_buffer(pointers), whole


def _check(number: int) -> None:
    if number != 0:
        raise OSError(number, os.strerror(number))
