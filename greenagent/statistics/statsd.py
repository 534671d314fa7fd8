"""statsd lines as jobs print them on level 10 or send them to their statsd port (protocol 8.1 and 8.2)."""

from __future__ import annotations

import math
import re
from typing import Final, NamedTuple

KEY_VALUE: Final = "kv"
GAUGE: Final = "g"
TIMER: Final = "ms"
COUNTER: Final = "c"
SET: Final = "s"

TYPES: Final = frozenset({KEY_VALUE, GAUGE, TIMER, COUNTER, SET})

MAX_KEY: Final = 1000
"""Characters of a key; a longer one is refused, since every interval repeats it."""

_LINE = re.compile(r"([^:|]*):([^:|]*)\|([^|]*)(?:\|(.*))?\Z", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\Z")
_SHOWN = 80


class Metric(NamedTuple):
    """One metric as sent.

    ``value`` is a number, the text of a set's member, or for a gauge the text of a change
    (``"+2"``, ``"-5"``). ``rate`` is the sample rate, over 0 and at most 1.
    """

    key: str
    value: float | str
    type: str
    rate: float


class Parsed(NamedTuple):
    """What a text of one or more lines meant, and why the refused lines were refused."""

    metrics: list[Metric]
    refused: list[str]


def parse(text: str) -> Parsed:
    """Reads ``key:value|type[|@rate]`` lines, one metric each; blank lines mean nothing.

    A line that cannot be read is refused by itself: the others count (design, section 5 "Statistics").
    """
    metrics: list[Metric] = []
    refused: list[str] = []
    for line in text.split("\n"):
        stripped = line.strip()
        if not stripped:
            continue
        outcome = _parse_line(stripped)
        if isinstance(outcome, str):
            refused.append(f"{shorten(stripped)!r}: {outcome}")
        else:
            metrics.append(outcome)
    return Parsed(metrics, refused)


def shorten(text: str) -> str:
    """A text as it is quoted in a refusal: long ones are cut."""
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _parse_line(line: str) -> Metric | str:
    match = _LINE.match(line)
    if match is None:
        return "not of the form key:value|type"
    key, value, kind, flag = match.groups()
    key = key.strip()
    kind = kind.strip()
    if not key:
        return "the key is empty"
    if len(key) > MAX_KEY:
        return f"the key is longer than {MAX_KEY} characters"
    if kind not in TYPES:
        return f"unknown type {shorten(kind)!r} (known: c, g, kv, ms, s)"
    rate = 1.0
    if flag is not None:
        read = _parse_rate(flag.strip())
        if isinstance(read, str):
            return read
        rate = read
    if kind == SET:
        return Metric(key, value, kind, rate)
    value = value.strip()
    number = _parse_number(value)
    if number is None:
        return f"{shorten(value)!r} is not a finite number"
    if kind == GAUGE and value[0] in "+-":
        return Metric(key, value, kind, rate)
    return Metric(key, number, kind, rate)


def _parse_number(text: str) -> float | None:
    if _NUMBER.match(text) is None:
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def _parse_rate(flag: str) -> float | str:
    number = _parse_number(flag[1:]) if flag.startswith("@") else None
    if number is None or not 0 < number <= 1:
        return f"{shorten(flag)!r} is not a sample rate (@ and a number over 0 and up to 1)"
    return number
