"""Keeps the pauses of Python's garbage collector short in a program that holds very many objects.

A full collection looks through every object there is: a quarter of a second for a million of them, during which nobody
is served. What one full collection has found alive, later ones leave out here. Objects are freed as always when nobody
refers to them any more; only a ring of objects that dies after it was left out stays, until there are so many that
all are looked through once.
"""

from __future__ import annotations

import gc
import sys
from typing import Any, Final

MORE = 2_000_000
"""So many blocks of memory more than there were, or twice as many, and all objects are looked through once, which takes
most of a second. Ten thousand agents and as many kept jobs are half of it.
"""
MIDDLE: Final = 4
OFTEN: Final = 1
"""After more than so many collections of the youngest generation comes one of the middle generation, after more than so
many of these a full one. The usual ten are a tenth of a second for a full one, and look through each object as often:
once in each generation."""


class _ShortPauses:
    """Called by the collector around each collection."""

    def __init__(self) -> None:
        self._is_thorough = True
        self._most = 0

    def __call__(self, phase: str, details: dict[str, Any]) -> None:
        if phase != "stop" or details["generation"] != 2:
            return
        gc.freeze()
        count = sys.getallocatedblocks()  # to count the objects left out would be a pause of its own
        if self._is_thorough:
            self._most = count + max(count, MORE)
        self._is_thorough = count > self._most
        if self._is_thorough:
            gc.unfreeze()  # the next full collection sees them all


_short_pauses = _ShortPauses()


def shorten_pauses() -> None:
    """From now on, for this process. Once more does nothing."""
    if _short_pauses not in gc.callbacks:
        youngest, _, _ = gc.get_threshold()
        gc.set_threshold(youngest, MIDDLE, OFTEN)
        gc.callbacks.append(_short_pauses)
        gc.collect()
