"""Keeps this process's own readers out of a file while it is renamed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from greenagent.runtime.native import NativeLock, native_sleep

_STEP = 0.002


class ReadGate:
    """Many readers or one rename; for native threads only.

    A reader that opened ``current.db`` just before its rename would look for the log under the
    name that now belongs to the next file.
    """

    def __init__(self) -> None:
        self._lock = NativeLock()
        self._readers = 0
        self._closed = False

    @property
    def is_used(self) -> bool:
        """True while somebody reads."""
        return self._readers > 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Held from before the file is opened until it is closed; keep it short."""
        while True:
            with self._lock:
                if not self._closed:
                    self._readers += 1
                    break
            native_sleep(_STEP)
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Waits until nobody reads and lets nobody in meanwhile."""
        with self._lock:
            self._closed = True
        try:
            while True:
                with self._lock:
                    if self._readers == 0:
                        break
                native_sleep(_STEP)
            yield
        finally:
            with self._lock:
                self._closed = False
