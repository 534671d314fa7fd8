"""What a built-in command is: a function from a call to an answer (protocol 9)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from greenagent.values import levels
from greenagent.values.command import Command, load_json, without_half_characters
from greenagent.values.errors import GreenagentError

MAX_BYTES: Final = 16 << 20
"""What the list in an answer may take, as UTF-8: as much as other results (design, section 5)."""


class BuiltInError(GreenagentError):
    """A built-in failed: its text becomes the result's data, with state ERROR."""


@dataclass(frozen=True, slots=True)
class Call:
    """A command handed to a built-in; ``controller`` is the key of who asked, None for startup tasks."""

    command: Command
    controller: str | None

    def data(self) -> Mapping[str, Any]:
        """``data`` as the JSON object that most built-ins take; empty text is an empty object.

        Raises BuiltInError when it is something else.
        """
        text = self.command.data
        if not text.strip():
            return {}
        try:
            value = load_json(text)
        except (ValueError, RecursionError) as error:
            raise BuiltInError(f"data of {self.command.cmd} is not JSON: {error}") from error
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise BuiltInError(f"data of {self.command.cmd} must be a JSON object")
        return value


@dataclass(frozen=True, slots=True)
class Answer:
    """A built-in's answer: JSON text under level 20, as the originals' clients expect."""

    data: str
    level: int = levels.RESULT_JSON
    after_report: Callable[[], None] | None = None
    """Called once the result is in the ledger: how ``restart`` answers before it acts."""
    truncated: bool = False
    """Whether there was more than fits."""


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


BuiltIn = Callable[[Call], Answer]
