"""Keeps the pauses of Python's garbage collector short in a program that holds very many objects.

A full collection looks through every object there is: a quarter of a second for a million of them, during which nobody
is served. What one full collection has found alive, later ones leave out here. Objects are freed as always when nobody
refers to them any more; only a ring of objects that dies after it was left out stays, until there are so many that
all are looked through once.
"""

from __future__ import annotations

import gc
from typing import Any, Final

MORE = 1_000_000
"""So many objects more than there were, or twice as many, and all are looked through once, which takes most of a
second: no controller gets there by its work alone, ten thousand agents and as many kept jobs are half a million."""
OFTEN: Final = 1
"""A full collection comes after more than so many of the middle generation. With ten, as usual, a full one would take a
tenth of a second, and each object would be looked through as often: once."""

COUNTED: Final = 8
"""What is left out is counted after so many full collections: that takes milliseconds, too."""


class _ShortPauses:
    """Called by the collector around each collection."""

    def __init__(self) -> None:
        self._is_thorough = True
        self._most = 0
        self._until_counted = 0

    def __call__(self, phase: str, details: dict[str, Any]) -> None:
        if phase != "stop" or details["generation"] != 2:
            return
        gc.freeze()
        self._until_counted -= 1
        if self._until_counted > 0 and not self._is_thorough:
            return
        self._until_counted = COUNTED
        count = gc.get_freeze_count()
        if self._is_thorough:
            self._most = count + max(count, MORE)
        self._is_thorough = count > self._most
        if self._is_thorough:
            gc.unfreeze()  # the next full collection sees them all


_short_pauses = _ShortPauses()


def shorten_pauses() -> None:
    """From now on, for this process. Once more does nothing."""
    if _short_pauses not in gc.callbacks:
        youngest, middle, _ = gc.get_threshold()
        gc.set_threshold(youngest, middle, OFTEN)
        gc.callbacks.append(_short_pauses)
        gc.collect()
