"""What a Python job says to its agent: lines with a level, its result, statistics (docs/jobs.md, "From Python").

It needs nothing but this file and Python 3.7, so a copy of it beside a job serves as well::

    from greenagent import script

    script.log("warning", "disk is nearly full")
    script.stat.counter("files", 3)
    script.result({"files": 3})

Everything is printed to stdout, where the agent reads it; on a terminal it can be read by people.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LEVELS: dict[str, int] = {
    "stdout": 1,
    "stderr": 2,
    "public": 3,
    "operator": 4,
    "log": 5,
    "structured": 6,
    "warning": 7,
    "error": 8,
    "critical": 9,
    "debug": 11,
}
"""The names that ``log`` takes beside numbers."""

_STATISTICS = 10
_RESULT = 20


def log(level: int | str, text: str) -> None:
    """Prints a message with a level, by name or number. Raises ValueError for a level there is none of.

    A text of several lines stays one message; a line of it that begins with ``:::``, which would end it, gets a blank
    in front.
    """
    number = LEVELS.get(level) if isinstance(level, str) else level
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 100:
        raise ValueError(f"{level!r} is no level: give one of {', '.join(LEVELS)}, or a number from 1 to 100")
    _say(number, text)


def result(value: Any) -> None:
    """Prints the job's result, as JSON; of several the last one counts.

    Raises TypeError for what JSON does not know, ValueError for numbers that are infinite or none.
    """
    _say(_RESULT, json.dumps(value, allow_nan=False))


class _Statistics:
    """Statistics of the job; the agent adds up what comes in an interval (docs/statistics.md)."""

    def counter(self, key: str, value: float = 1) -> None:
        """Adds ``value``."""
        self._send(key, value, "c")

    def gauge(self, key: str, value: float) -> None:
        """Sets the value, which holds until it is set again."""
        if value < 0:
            self._send(key, 0, "g")  # by itself a negative one would be a change
        self._send(key, value, "g")

    def timer(self, key: str, milliseconds: float) -> None:
        """Says how long something took, in milliseconds."""
        self._send(key, milliseconds, "ms")

    @contextmanager
    def timing(self, key: str) -> Iterator[None]:
        """``with script.stat.timing(key): ...`` is a timer from there to its end, also where that is an exception."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.timer(key, round((time.monotonic() - began) * 1000, 3))

    def set(self, key: str, member: str) -> None:
        """Counts how many different members there were."""
        if "\n" in member:
            raise ValueError(f"{member!r} cannot be a member: it has several lines")
        self._say(key, member, "s")

    def _send(self, key: str, value: float, kind: str) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{value!r} is no number that can be counted")
        self._say(key, repr(value), kind)

    def _say(self, key: str, value: str, kind: str) -> None:
        if not key or any(sign in key for sign in ":|\n") or key != key.strip():
            raise ValueError(f"{key!r} cannot be a key: it is empty, or has ':', '|', or blanks around it")
        _say(_STATISTICS, f"{key}:{value}|{kind}")


stat = _Statistics()
"""``counter``, ``gauge``, ``timer``, ``timing`` and ``set``."""


def _say(level: int, text: str) -> None:
    """In one write, so that the message stays whole where several processes print."""
    lines = text.split("\n")
    if len(lines) > 1:
        kept = [" " + line if line.startswith(":::") else line for line in lines]
        text = "\n".join([":::" + kept[0], *kept[1:], ":::"])
    else:
        text = "::" + text
    sys.stdout.write(f"{level}{text}\n")
    sys.stdout.flush()
