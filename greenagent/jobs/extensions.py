"""From a command to what is executed: ``execute`` itself and the configured extensions (protocol 10)."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from greenagent.settings.models import ExtensionSettings
from greenagent.values.arguments import as_text
from greenagent.values.command import Command
from greenagent.values.errors import CommandError

_NO_PATH = re.compile(r"[^\w./-]+")
_PLACE = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True, slots=True)
class Execution:
    """What one run of a job starts; ``directory`` empty means the agent's own."""

    executable: str
    arguments: tuple[str, ...]
    directory: str
    environment: Mapping[str, str]
    data: str
    leave_children: bool = False


def resolve_execute(command: Command) -> Execution:
    """The built-in ``execute``: the run arguments name the executable. Raises CommandError."""
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
    argument, or a value that climbs out of ``cwd``.
    """
    received = command.arguments.received
    filled = tuple(_fill(text, received, extension) for text in extension.args)
    if not extension.allow_parent and any(map(_climbs, command.arguments.args)):
        raise CommandError(_leaves("args.args", extension))
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
        found = as_text(received[key])
        if not extension.allow_parent and _climbs(found):
            raise CommandError(_leaves(f"args.{key}", extension))
        return found

    filled = _PLACE.sub(value, text)
    if filled != text and not extension.allow_parent and _climbs(filled):
        raise CommandError(_leaves("what the arguments make of it", extension))
    return filled


def _leaves(what: str, extension: ExtensionSettings) -> str:
    return (
        f"{what} leaves the directory of extension '{extension.name}' with '..' "
        "(allow_parent = true in its section permits that)"
    )


def _climbs(text: str) -> bool:
    """Whether a path in the text, alone or behind something like ``--file=``, leads out of the directory."""
    return ".." in text and any(
        posixpath.normpath(part.lstrip("/")).split("/", 1)[0] == ".." for part in _NO_PATH.split(text) if part
    )


def _without_nul(text: str, where: str) -> str:
    if "\0" in text:
        raise CommandError(f"{where} holds a NUL character")
    return text
