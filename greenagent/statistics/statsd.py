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

_ALIASES: Final = {"h": TIMER, "d": TIMER}
"""Histograms and distributions of Datadog's dialect."""

MAX_KEY: Final = 1000
"""Characters of a key; a longer one is refused, since every interval repeats it."""

_LINE = re.compile(r"([^:|]*):([^:|]*)\|([^|]*)(?:\|(@[^|]*))?\Z", re.DOTALL)
"""What most clients send; all else takes ``_parse_dialect``."""
_DROPPED = re.compile(r"\s*(?:#|c:|e:|card:|T[0-9])")
"""Sections of Datadog's dialect that mean nothing here: tags, container, external data, cardinality, time stamp."""
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
    """Reads ``key:value|type[|@rate]`` lines; blank lines mean nothing.

    Of Datadog's dialect several values (``key:1:2|c``) are as many metrics, ``h`` and ``d`` are timers, and tags and
    the like are dropped. A line that cannot be read is refused by itself: the others count (design, section 5
    "Statistics").
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
        elif isinstance(outcome, Metric):
            metrics.append(outcome)
        else:
            metrics += outcome
    return Parsed(metrics, refused)


def shorten(text: str) -> str:
    """A text as it is quoted in a refusal: long ones are cut."""
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _parse_line(line: str) -> Metric | list[Metric] | str:
    if line.startswith(("_e{", "_sc|")):  # an event without tags has the form of a metric
        return "events and service checks are no metrics"
    match = _LINE.match(line)
    if match is None:
        return _parse_dialect(line)
    key, value, kind, flag = match.groups()
    return _metric(key.strip(), value, kind.strip(), flag)


def _parse_dialect(line: str) -> list[Metric] | str:
    """A line with several values, with colons or bars in a set's member, or with sections behind the type."""
    key, colon, rest = line.partition(":")
    fields = rest.split("|")
    at = next((number for number in range(len(fields) - 1, 0, -1) if not _is_section(fields[number])), 0)
    if not colon or "|" in key or at == 0:
        return "not of the form key:value|type"
    kind = fields[at].strip()
    value = "|".join(fields[:at])
    rates = [section.strip() for section in fields[at + 1 :] if section.strip().startswith("@")]
    if kind != SET and at > 1:
        return (
            f"{shorten(fields[at])!r} is neither a sample rate nor tags"
            if fields[1].strip() in TYPES
            else ("not of the form key:value|type")
        )
    if len(rates) > 1:
        return "it has more than one sample rate"
    metrics: list[Metric] = []
    for part in [value] if kind == SET else value.split(":"):
        metric = _metric(key.strip(), part, kind, rates[0] if rates else None)
        if isinstance(metric, str):
            return metric
        metrics.append(metric)
    return metrics


def _is_section(field: str) -> bool:
    return field.strip().startswith("@") or _DROPPED.match(field) is not None


def _metric(key: str, value: str, kind: str, flag: str | None) -> Metric | str:
    if not key:
        return "the key is empty"
    if len(key) > MAX_KEY:
        return f"the key is longer than {MAX_KEY} characters"
    if kind not in TYPES:
        if kind not in _ALIASES:
            return f"unknown type {shorten(kind)!r} (known: c, d, g, h, kv, ms, s)"
        kind = _ALIASES[kind]
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
