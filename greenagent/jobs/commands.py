"""What this agent can run by name: extensions, ``execute`` and scripts in a process, built-ins inside the agent.

From a command to what is executed (protocol 9, 10), and the environment that it gets (protocol 5.2).
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from greenagent.jobs.caller_variables import decides
from greenagent.process.job_tree import VARIABLE
from greenagent.runtime import procfs
from greenagent.runtime.files import absolute, working_folder
from greenagent.runtime.greenlets import give_way
from greenagent.settings.destinations import ControllerSettings
from greenagent.settings.models import ExtensionSettings, Settings
from greenagent.values import levels
from greenagent.values.arguments import as_text
from greenagent.values.command import EXECUTE, Command, load_json
from greenagent.values.command_line import JUMPSCRIPT
from greenagent.values.errors import CommandError, GreenagentError
from greenagent.values.json_shape import object_text
from greenagent.values.text import nearest

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

MAX_ARGUMENT: Final = 32 * procfs.PAGE
"""Bytes; Linux starts no program with an argument as long as this."""

CACHED_SCRIPTS: Final = 100
"""Scripts fetched by their hash that are kept; a hash names its text for ever."""

SHELL_LIBRARY: Final = str(Path(__file__).parents[1] / "script.sh")
"""What a shell job may read to speak to its agent."""
CHILD_PROGRAM: Final = str(Path(__file__).parents[1] / "builtins" / "script_child.py")
"""The program that runs a script; it is executed by path, with any Python."""
_HASH: Final = re.compile(r"[0-9a-f]{32}\Z")
_NO_PATH = re.compile(r"[^\w./-]+")
_ABSOLUTE = re.compile(r"(?:^|=)/")
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


class RemovedExtensionError(CommandError):
    """The extension that a job was accepted for is not configured any more: the job ends with UNKNOWN_CMD."""


class NoScriptError(CommandError):
    """There is no such script."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a built-in answers: JSON text under level 20, as the originals' clients expect."""

    data: str
    level: int = levels.RESULT_JSON
    after_report: Callable[[], None] | None = None
    """Called once the result is in the spool: how ``restart`` answers before it acts."""
    truncated: bool = False
    """Whether there was more than fits."""


@dataclass(frozen=True, slots=True)
class Execution:
    """What one run of a job starts; ``directory`` empty means the agent's own."""

    executable: str
    arguments: tuple[str, ...]
    directory: str
    environment: Mapping[str, str]
    data: str
    leave_children: bool = False


BuiltIn = Callable[[Command], Answer]
"""A command that runs inside the agent, at once. Raises GreenagentError: its text becomes the result's data."""
Resolver = Callable[[Command, "str | None"], Execution]
"""Turns a command and the key of the controller it came from into what is executed. Raises CommandError."""


class Commands:
    """Every command this agent knows. An extension wins over any other command of its name (protocol 10.2)."""

    def __init__(self, settings: Callable[[], Settings], scripts: Mapping[str, Resolver]) -> None:
        self._settings = settings
        self._external: dict[str, Resolver] = {EXECUTE: resolve_execute, **scripts}
        self.built_ins: Mapping[str, BuiltIn] = {}
        """Set once the parts they act on are made: jobs among them."""

    def is_external(self, name: str) -> bool | None:
        """True for commands that run as a process, False for built-ins, None for unknown ones."""
        if name in self._settings().extensions or name in self._external:
            return True
        return False if name in self.built_ins else None

    def names_instead_of(self, name: str) -> str:
        """What to tell whoever asked for a command that is not here."""
        known = {*self._settings().extensions, *self._external, *self.built_ins}
        return f"there is no command '{name[:100]}' here{nearest(name, known)} (there are {', '.join(sorted(known))})"

    def resolve(self, command: Command, controller: str | None) -> Execution:
        """What a run of this command executes.

        Raises CommandError; RemovedExtensionError where a reload took its extension away: its arguments were never
        meant for anything else.
        """
        extension = self._settings().extensions.get(command.cmd)
        if extension is not None:
            return resolve_extension(command, extension)
        if command.cmd not in self._external:
            raise RemovedExtensionError(f"the extension '{command.cmd}' is not configured any more")
        return self._external[command.cmd](command, controller)


def resolve_execute(command: Command, controller: str | None = None) -> Execution:
    """``execute``: the run arguments name the executable. Raises CommandError."""
    arguments = command.arguments
    if not arguments.name:
        raise CommandError("args.name must name the executable")
    return Execution(
        executable=_without_nul(arguments.name, "args.name"),
        arguments=tuple(_without_nul(text, "args.args") for text in arguments.args),
        directory=arguments.working_dir,
        environment=dict(arguments.env),
        data=command.data,
        leave_children=arguments.leave_children,
    )


def resolve_extension(command: Command, extension: ExtensionSettings) -> Execution:
    """A configured extension: its arguments filled in, the caller's appended, environments merged.

    The extension's own environment wins over the caller's. Raises CommandError naming the missing
    argument, a value that leads out of ``cwd``, or a variable that would decide which code runs.
    """
    received = command.arguments.received
    filled = tuple(_fill(text, received, extension) for text in extension.args)
    if not extension.allow_parent:
        for text in command.arguments.args:
            give_way()
            if _climbs(_possible(text, "args.args")):
                raise CommandError(_leaves("args.args", extension))
        if refused := next((name for name, _ in command.arguments.env if decides(name)), None):
            raise CommandError(
                f"args.env: {refused} may decide what extension '{extension.name}' runs or trusts "
                "(allow_parent = true in its section permits that)"
            )
    return Execution(
        executable=extension.binary,
        arguments=tuple(_without_nul(text, "args") for text in (*filled, *command.arguments.args)),
        directory=extension.cwd or command.arguments.working_dir,
        environment={**dict(command.arguments.env), **extension.env},
        data=command.data,
        leave_children=extension.leave_children or command.arguments.leave_children,
    )


def _fill(text: str, received: Mapping[str, Any], extension: ExtensionSettings) -> str:
    def value(match: re.Match[str]) -> str:
        key = match.group(1)
        if received.get(key) is None:
            raise CommandError(f"extension '{extension.name}' needs the run argument '{key}', which is missing")
        found = _possible(as_text(received[key]), f"args.{key}")
        if not extension.allow_parent and _climbs(found):
            raise CommandError(_leaves(f"args.{key}", extension))
        return found

    filled = _PLACEHOLDER.sub(value, text)
    if filled != text and not extension.allow_parent:
        if _climbs(filled):
            raise CommandError(_leaves("what the arguments make of it", extension))
        if _ABSOLUTE.search(filled) and not _ABSOLUTE.search(text):
            raise CommandError(_leaves(f"'{filled[:100]}', which the arguments make,", extension, "an absolute path"))
    return filled


def _possible(text: str, where: str) -> str:
    if len(text) >= MAX_ARGUMENT:
        raise CommandError(f"{where}: no program takes an argument that long: give large input as data (stdin)")
    return text


def _leaves(what: str, extension: ExtensionSettings, way: str = "'..'") -> str:
    return (
        f"{what} leaves the directory of extension '{extension.name}' with {way} "
        "(allow_parent = true in its section permits that)"
    )


def _climbs(text: str) -> bool:
    """Whether a path in the text, alone or behind something like ``--file=``, leads out of the directory."""
    return ".." in text and any(
        posixpath.normpath(part.lstrip("/")).split("/", 1)[0] == ".."
        for part in _NO_PATH.split(text)
        if ".." in part.split("/")
    )


def _without_nul(text: str, where: str) -> str:
    if "\0" in text:
        raise CommandError(f"{where} holds a NUL character")
    return text


ReadJson = Callable[[str], Any]
"""The value of a JSON text of any size, its lone surrogates replaced; may wait. Raises ValueError, RecursionError, or
CommandError with what follows on "data of NAME"."""


def _data(command: Command, read: ReadJson) -> Any:
    try:
        return read(command.data) if command.data.strip() else None
    except (ValueError, RecursionError) as error:
        raise CommandError(f"data of {command.cmd} is not JSON: {error}") from error
    except CommandError as error:
        raise CommandError(f"data of {command.cmd} {error}") from error


def data_object(command: Command, read: ReadJson = load_json) -> dict[str, Any]:
    """``data`` as the JSON object that built-ins and scripts take; empty text is an empty object.

    Raises CommandError when it is something else.
    """
    data = _data(command, read)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise CommandError(f"data of {command.cmd} must be a JSON object")
    return data


def search_path() -> str:
    """The PATH that executables are looked up in, and that children get: the agent's own or a sane one."""
    return os.environ.get("PATH") or DEFAULT_PATH


def child_environment(
    wanted: Mapping[str, str], tag: str, gid: int, nid: int, controller: ControllerSettings | None
) -> dict[str, str]:
    """All variables of one run; nothing is inherited. ``controller`` is who asked for it, None for startup tasks.

    The caller's variables may replace any of ours but the job's tag, by which the agent finds its own again after a
    crash.
    """
    environment = {
        "PATH": search_path(),
        "HOME": os.environ.get("HOME") or _home(),
        "AGENT_HOME": working_folder(),
        "AGENT_GID": str(gid),
        "AGENT_NID": str(nid),
        "AGENT_SCRIPT_SH": SHELL_LIBRARY,
    }
    if controller is not None:
        security = controller.security
        environment |= {
            "AGENT_CONTROLLER_URL": controller.url,
            "AGENT_CONTROLLER_NAME": controller.key,
            "AGENT_CONTROLLER_CA": _absolute(security.certificate_authority),
            "AGENT_CONTROLLER_CLIENT_CERT": _absolute(security.client_certificate),
            "AGENT_CONTROLLER_CLIENT_CERT_KEY": _absolute(security.client_certificate_key),
        }
    return {**environment, **wanted, VARIABLE: tag}


@cache
def _home() -> str:
    """The home folder of the agent's user; ``/`` for a user that the system does not know."""
    try:
        return str(Path.home())
    except RuntimeError:
        return "/"


def _absolute(path: Path | None) -> str:
    return str(absolute(path)) if path is not None else ""


FetchScript = Callable[[str, str], bytes]
"""``(controller, hash)``: the text of a script. Raises GreenagentError."""


class Scripts:
    """Turns script commands into what is executed."""

    def __init__(self, settings: Callable[[], Settings], fetch: FetchScript, read: ReadJson = load_json) -> None:
        """``read``: makes a value of what commands hold as data."""
        self._settings = settings
        self._fetch = fetch
        self._read = read
        self._fetched: dict[tuple[str, str], str] = {}
        """By controller and hash: what one controller hands out under a hash is none of another's."""
        self.commands: dict[str, Resolver] = {
            "bash": self.bash,
            JUMPSCRIPT: self.jumpscript,
            "jumpscript_content": self.jumpscript_content,
        }

    def bash(self, command: Command, controller: str | None) -> Execution:
        """``data`` is a script for bash, which reads it from its input."""
        return self._execution(command, "bash", ("-s", "--", *command.arguments.args), command.data)

    def jumpscript(self, command: Command, controller: str | None) -> Execution:
        """``domain`` and ``name`` name a file below ``main.scripts_dir``; ``data`` is its arguments."""
        arguments = command.arguments
        name = posixpath.join(arguments.domain, arguments.name)
        if not arguments.name:
            raise CommandError("jumpscript needs args.name, the script's name")
        if posixpath.isabs(name) or ".." in name.split("/"):
            raise CommandError(f"the script '{name}' lies outside of main.scripts_dir")
        path = absolute(self._settings().main.scripts_dir / f"{name}.py")
        if not path.is_file():
            raise NoScriptError(f"there is no script {path}")
        return self._python(command, {"path": str(path), "args": _data(command, self._read)})

    def jumpscript_content(self, command: Command, controller: str | None) -> Execution:
        """``data`` holds ``hash`` (or ``content``) and ``args``; the text is fetched from the asking controller."""
        data = data_object(command, self._read)
        content = data.get("content")
        if content is None:
            content = self._by_hash(data.get("hash"), controller)
        if not isinstance(content, str):
            raise CommandError("jumpscript_content needs 'hash' or 'content' in its data, as text")
        return self._python(command, {"content": content, "args": data.get("args")})

    def _by_hash(self, digest: object, controller: str | None) -> str:
        if not isinstance(digest, str) or not _HASH.match(digest):
            raise CommandError("jumpscript_content needs 'hash', the MD5 of the script in hexadecimal digits")
        if controller is None:
            raise CommandError(f"script {digest} cannot be fetched: no controller asked for it")
        key = (controller, digest)
        if key not in self._fetched:
            try:
                text = self._fetch(controller, digest)
            except GreenagentError as error:
                raise CommandError(f"script {digest} cannot be fetched: {error}") from error
            # The original's name for a script; it guards against mix-ups, not against attackers.
            if hashlib.md5(text, usedforsecurity=False).hexdigest() != digest:
                raise CommandError(f"what controller {controller} sent as script {digest} has another hash")
            while len(self._fetched) >= CACHED_SCRIPTS:
                del self._fetched[next(iter(self._fetched))]
            self._fetched[key] = text.decode("utf-8", "replace")
        return self._fetched[key]

    def _python(self, command: Command, task: dict[str, Any]) -> Execution:
        python = self._settings().main.script_python or sys.executable
        return self._execution(command, python, (CHILD_PROGRAM,), object_text(task, give_way))

    def _execution(self, command: Command, program: str, arguments: tuple[str, ...], data: str) -> Execution:
        own = command.arguments
        return Execution(program, arguments, own.working_dir, dict(own.env), data, own.leave_children)
