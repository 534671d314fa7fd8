"""How long to wait before trying again: exponential, with full jitter from the first retry.

Ten thousand agents that lost the same controller must not come back in step.
"""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable, Mapping

MAX_RETRY_AFTER = 300.0
"""Seconds; what a controller asks for beyond that counts as this (design, section 5 "Uploads")."""


class Backoff:
    """Delays that double from ``first`` to ``longest`` seconds, each drawn between nothing and that."""

    def __init__(self, first: float = 0.5, longest: float = 30.0, draw: Callable[[], float] = random.random) -> None:
        """``draw`` gives numbers in [0, 1)."""
        self._first = first
        self._longest = longest
        self._draw = draw
        self._failures = 0

    def next(self, retry_after: float | None = None) -> float:
        """Seconds to wait now. ``retry_after``: what the controller asked for, which is the least we wait."""
        ceiling = min(self._longest, self._first * 2.0 ** min(self._failures, 30))
        self._failures += 1
        if retry_after is None:
            return self._draw() * ceiling
        asked = min(max(retry_after, 0.0), MAX_RETRY_AFTER)
        # One that asks for nothing, again and again, is in trouble all the same: the own backoff goes on.
        return asked + self._draw() * max(ceiling if asked < ceiling else 0.0, asked / 2)

    def reset(self) -> None:
        """It worked: the next failure starts from ``first`` again."""
        self._failures = 0


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds a controller asks to wait by its header ``retry-after`` (a number or a date); None where it does not."""
    text = headers.get("retry-after")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    if seconds != seconds:
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
