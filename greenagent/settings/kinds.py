"""The kinds of values a setting can have: how each is read, checked, shown and named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from greenagent.values.errors import LevelError
from greenagent.values.levels import LevelSet, parse_levels


class ValueProblem(Exception):
    """Why a value is not acceptable, as the end of a sentence that begins with its name."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value: ``read`` takes what TOML gave, ``from_text`` a variable or flag.

    ``empty`` stands in for a value that was refused while the rest of the file is checked.
    """

    name: str
    read: Callable[[Any], Any]
    from_text: Callable[[str], Any]
    empty: Any = None


def describe(value: Any) -> str:
    """What a TOML value is, for an error."""
    if isinstance(value, bool):
        return "true or false"
    names: list[tuple[type, str]] = [(int, "a whole number"), (float, "a number"), (str, "text"), (list, "a list")]
    return next((name for kind, name in names if isinstance(value, kind)), "a table")


def _read_whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        shown = str(value) if isinstance(value, float) else describe(value)
        raise ValueProblem(f"must be a whole number, not {shown}")
    if abs(value) >= 2**63:
        raise ValueProblem("is too large a number")
    return value


def _whole_from_text(text: str) -> int:
    try:
        return _read_whole(int(text.strip()))
    except ValueError:
        raise ValueProblem(f"must be a whole number, not {text!r}") from None


def _read_seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueProblem(f"must be a number of seconds, not {describe(value)}")
    if not math.isfinite(value) or abs(value) >= 2**31:
        raise ValueProblem("is too large a number of seconds")
    return float(value)


def _seconds_from_text(text: str) -> float:
    try:
        return _read_seconds(float(text.strip()))
    except ValueError:
        raise ValueProblem(f"must be a number of seconds, not {text!r}") from None


def _read_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueProblem(f"must be true or false, not {describe(value)}")
    return value


FLAG_WORDS: Final = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}
"""What counts as true and as false in a variable, in capitals or not."""


def _flag_from_text(text: str) -> bool:
    if text.strip().lower() not in FLAG_WORDS:
        raise ValueProblem(f"must be true or false, not {text!r}")
    return FLAG_WORDS[text.strip().lower()]


def _read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueProblem(f"must be text, not {describe(value)}")
    if "\0" in value:
        raise ValueProblem("holds a NUL character")
    return value


def _read_path(value: Any) -> Path | None:
    text = _read_text(value)
    return Path(text) if text else None


def _read_texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueProblem(f"must be a list of texts, not {describe(value)}")
    for number, item in enumerate(value, 1):
        if not isinstance(item, str):
            raise ValueProblem(f"must be a list of texts, but item {number} is {describe(item)}")
        if "\0" in item:
            raise ValueProblem(f"holds a NUL character in item {number}")
    return tuple(value)


def split_list(text: str) -> list[str]:
    """The items of a comma-separated list, as variables and flags give it."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _read_levels(value: Any) -> LevelSet | None:
    try:
        return parse_levels(value)
    except LevelError as error:
        raise ValueProblem(f"is no list of levels: {error}") from None


def _read_table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueProblem(f"must be a table, not {describe(value)}")
    return value


def _read_text_table(value: Any) -> dict[str, str]:
    table = _read_table(value)
    for key, item in table.items():
        if not isinstance(item, str):
            raise ValueProblem(f"must be a table of texts, but '{key}' is {describe(item)}")
        if not key or "=" in key or "\0" in key or "\0" in item:
            raise ValueProblem(f"holds the impossible variable {key!r}")
    return table


def _table_from_text(text: str) -> Any:
    raise ValueProblem("can only be set in the file")


WHOLE: Final = Kind("whole number", _read_whole, _whole_from_text)
SECONDS: Final = Kind("number", _read_seconds, _seconds_from_text)
FLAG: Final = Kind("true or false", _read_flag, _flag_from_text, False)
TEXT: Final = Kind("text", _read_text, _read_text, "")
PATH: Final = Kind("path", _read_path, _read_path)
TEXTS: Final = Kind("list of texts", _read_texts, lambda text: _read_texts(list(split_list(text))), ())
LEVELS: Final = Kind("level list", _read_levels, _read_levels)
TABLE: Final = Kind("table", _read_table, _table_from_text, {})
TEXT_TABLE: Final = Kind("table of texts", _read_text_table, _table_from_text, {})


def show(value: Any) -> str:
    """A value as TOML would have it; nothing is shown as an empty text."""
    if value is None:
        return '""'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {show(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(show(item) for item in value) + "]"
    return json.dumps(str(value), ensure_ascii=False)
