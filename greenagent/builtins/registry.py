"""The registry of built-in commands: functions from a call to an answer (protocol 9)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from greenagent.jobs.admission import Admission
from greenagent.jobs.commands import Answer, BuiltIn, data_object
from greenagent.logs.store import LogStore
from greenagent.settings.models import Settings
from greenagent.statistics.meter import Meter
from greenagent.values.command import Command, without_half_characters
from greenagent.values.errors import GreenagentError

MAX_BYTES: Final = 16 << 20
"""What the list in an answer may take, as UTF-8: as much as other results (design, section 5 "Messages and logs")."""

MAX_DATA: Final = 64 * 1024


class BuiltInError(GreenagentError):
    """A built-in failed: its text becomes the result's data, with state ERROR."""


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of the agent that built-ins act on."""

    settings: Callable[[], Settings]
    admission: Admission
    meter: Meter
    store: LogStore | None
    """None without a DB logger: then there are no messages to get (protocol 6.2)."""
    restart: Callable[[], None]
    reboot: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Call:
    """A command handed to a built-in."""

    command: Command
    agent: Context

    def data(self) -> dict[str, Any]:
        """See ``data_object``. Raises also where it is far larger than any built-in needs: it is read on the hub."""
        if len(self.command.data) > MAX_DATA:
            raise BuiltInError(f"data of {self.command.cmd} is longer than {MAX_DATA} characters")
        return data_object(self.command)


Function = Callable[[Call], Answer]
_FUNCTIONS: dict[str, Function] = {}
_NEED_STORE: set[str] = set()


def command(name: str, *, needs_store: bool = False) -> Callable[[Function], Function]:
    """Registers a function as the built-in ``name``; one that needs the log database is unknown without it."""

    def register(function: Function) -> Function:
        _FUNCTIONS[name] = function
        if needs_store:
            _NEED_STORE.add(name)
        return function

    return register


def information(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function without arguments: the built-in ``name`` answers what it returns."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        command(name)(lambda call: answer(function()))
        return function

    return register


def names() -> frozenset[str]:
    """Of all built-ins there are."""
    return frozenset(_FUNCTIONS)


def bind(agent: Context) -> dict[str, BuiltIn]:
    """The built-ins of an agent, by name."""
    return {
        name: partial(_call, function, agent)
        for name, function in _FUNCTIONS.items()
        if agent.store is not None or name not in _NEED_STORE
    }


def _call(function: Function, agent: Context, command: Command) -> Answer:
    return function(Call(command, agent))


def answer(value: Any) -> Answer:
    """An answer holding a JSON value."""
    return Answer(without_half_characters(json.dumps(value, ensure_ascii=False)))


def list_answer(values: Iterable[Any]) -> Answer:
    """An answer holding a JSON list, of the first values if all would pass MAX_BYTES, at least of one.

    No more values are asked for than are looked at. For any thread.
    """
    texts: list[str] = []
    size = 0
    for value in values:
        text = without_half_characters(json.dumps(value, ensure_ascii=False))
        size += len(text.encode()) + len(", ")
        if texts and size > MAX_BYTES:
            return Answer(f"[{', '.join(texts)}]", truncated=True)
        texts.append(text)
    return Answer(f"[{', '.join(texts)}]")


def text_of(data: Mapping[str, Any], key: str) -> str | None:
    """A text in the data of a built-in; a number is taken as its text, none or an empty one is None.

    Raises BuiltInError for anything else.
    """
    value = data.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise BuiltInError(f"{key} must be text")
    return value
