"""The history file: remembered jobs (``max_time = -1``, or recurring), readable by people
(protocol 5.7).

A JSON list of command objects, as the original writes it; ours add ``controller`` and
``accepted`` (seconds since 1970). Unlike the original's, entries leave when their job ends, and the
file is replaced in one step.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.files import FileId, file_id, refuse_link, replace_file, set_aside
from greenagent.runtime.greenlets import give_way
from greenagent.runtime.plain_files import read_plain
from greenagent.values.command import Command, parse_command, without_half_characters
from greenagent.values.errors import CommandError, GreenagentError
from greenagent.values.json_shape import json_pieces

CONTROLLER = "controller"
ACCEPTED = "accepted"
SIZE_LIMIT: Final = 1 << 30
"""Bytes; what is accepted of remembered jobs takes less."""


class Remembered(NamedTuple):
    """One entry: the command, the controller that gets its result (None: unknown), its accept stamp."""

    command: Command
    controller: str | None
    accepted: float


class HistoryFile:
    """Keeps the list in memory and on disk alike; every change is on disk when the call returns."""

    def __init__(self, path: Path, agent_log: AgentLog) -> None:
        self.path = path
        self._trouble = agent_log.on_change()
        self._agent_log = agent_log
        self._entries: dict[str, bytes] = {}
        """What stands in the file, by job id and in order, each as JSON text: made once, not with every change."""
        self.written: FileId | None = None
        """The file as it was read or written last; None where there is none."""

    @property
    def is_writable(self) -> bool:
        """False since the file could not be written, until it could (``tick`` tries)."""
        return not self._trouble.is_open

    def tick(self) -> None:
        """To be called every few seconds: what could not be written is written as soon as it can."""
        if self._trouble.is_open:
            self._write()

    def load(self) -> list[Remembered]:
        """Reads the file. A damaged one is set aside, and a bad entry left out, each said once.

        Raises GreenagentError where it cannot be read, which is no damage: it must stay as it is.
        """
        refuse_link(self.path, "main.history_file:")
        try:
            data = read_plain(self.path, SIZE_LIMIT)
            self.written = file_id(self.path)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise GreenagentError(f"main.history_file: cannot read {self.path}: {error.strerror}") from error
        if not data:
            self._agent_log.warning(f"{self.path} was empty: it names no remembered job")
            return []
        try:
            content = json.loads(data)
            if not isinstance(content, list):
                raise ValueError("it is not a list")
        except (ValueError, RecursionError) as error:
            self._set_aside(error)
            return []
        found: dict[str, Remembered] = {}
        for entry in content:
            try:
                remembered = _read(entry)
            except CommandError as error:
                self._agent_log.error(f"{self.path}: an entry is left out: {error}")
                continue
            # The original appends an id again whenever it is sent again: the last one counts.
            found[remembered.command.id] = remembered
            self._put(remembered.command.id, _text({**entry, **remembered.command.received}))
        return list(found.values())

    def add(self, command: Command, controller: str | None, accepted: float) -> None:
        """Remembers a job; the same id replaces its entry."""
        entry: dict[str, Any] = {**command.received, ACCEPTED: accepted}
        if controller is not None:
            entry[CONTROLLER] = controller
        text = _text(entry)
        if self._entries.get(command.id) == text:
            return  # at a start of the agent: each of a thousand jobs would write all thousand
        self._put(command.id, text)
        self._write()

    def remove(self, job_id: str) -> None:
        """Forgets a job; harmless when it is not there."""
        if self._entries.pop(job_id, None) is not None:
            self._write()

    def write_again(self, fault: str) -> None:
        """Somebody removed, replaced or emptied the file: it holds what it should again. Raises OSError.

        What another program put in its place is left beside it.
        """
        if fault == "was replaced":
            self._agent_log.warning(f"{self.path}: what was put in its place is kept as {set_aside(self.path).name}")
        self.written = replace_file(self.path, self._content())

    def _content(self) -> bytes:
        if not self._entries:
            return b"[]\n"
        return b"[\n" + b",\n".join(self._entries.values()) + b"\n]\n"

    def _put(self, job_id: str, text: bytes) -> None:
        self._entries.pop(job_id, None)
        self._entries[job_id] = text

    def _write(self) -> None:
        try:
            self.written = replace_file(self.path, self._content())
        except OSError as error:
            self._trouble.warning(
                f"main.history_file: cannot write {self.path} ({error.strerror}): remembered jobs would be forgotten"
            )
        else:
            self._trouble.resolved(f"{self.path} can be written again")

    def _set_aside(self, error: Exception) -> None:
        try:
            aside = set_aside(self.path)
            self.written = None
        except OSError:
            self._agent_log.error(f"main.history_file: cannot read {self.path} ({error}): starting without history")
        else:
            self._agent_log.error(
                f"{self.path} is damaged ({error}): set aside as {aside.name}, starting without history"
            )


def _text(entry: dict[str, Any]) -> bytes:
    """One member a line, and not more: ``json`` indents at a fiftieth of its speed, and holds the hub meanwhile."""
    parts: list[bytes] = []
    for key, value in entry.items():
        parts += (b",\n  " if parts else b" {\n  ", _storable(json.dumps(key, ensure_ascii=False)), b": ")
        for piece in json_pieces(value):
            parts.append(_storable(piece))
            give_way()
    text = b"".join([*parts, b"\n }"])
    give_way()
    return text


def _storable(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return without_half_characters(text).encode()


def _read(entry: Any) -> Remembered:
    if not isinstance(entry, dict):
        raise CommandError("it is not an object")
    accepted = entry.get(ACCEPTED)
    controller = entry.get(CONTROLLER)
    received = {key: value for key, value in entry.items() if key not in (ACCEPTED, CONTROLLER)}
    return Remembered(
        parse_command(received),
        controller if isinstance(controller, str) else None,
        float(accepted) if isinstance(accepted, (int, float)) and not isinstance(accepted, bool) else 0.0,
    )
