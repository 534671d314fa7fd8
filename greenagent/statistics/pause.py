"""Long work in the hub, in slices."""

from __future__ import annotations

import time
from typing import Final

import gevent

SLICE: Final = 0.002
"""Seconds of work between two turns of the hub."""


class Pause:
    """Gives way to the hub whenever called more than ``SLICE`` after the last time."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._began > SLICE:
            gevent.sleep(0.001)  # sleep(0) would let greenlets run, but not the loop's input
            self._began = time.monotonic()
