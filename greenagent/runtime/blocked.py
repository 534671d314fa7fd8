"""How long a thread was kept waiting by what it did itself: the disk, a lock. A busy machine is another thing."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import NamedTuple

from greenagent.runtime.descriptors import close_descriptor
from greenagent.runtime.native import thread_ident


class _Reading(NamedTuple):
    """Seconds by the clock, of work, and of waiting for a processor."""

    clock: float
    worked: float
    queued: float


class BlockedTime:
    """A stopwatch that stands while its thread works, or could work and gets no processor.

    By the clock, a commit on a busy machine takes 5 ms again and again, and no disk has anything to do with it.
    For one thread at a time; where the kernel does not tell how long one waited for a processor, that counts, too.
    """

    def __init__(self) -> None:
        self._files: dict[int, int] = {}
        """By thread: what the kernel tells of it."""
        self._began = _Reading(0.0, 0.0, 0.0)

    def start(self) -> None:
        """From now on, in this thread."""
        self._began = self._read()

    def seconds(self, least: float = 0.0) -> float:
        """Since ``start``, in the same thread; 0 where by the clock it is less than ``least``: then nobody asks."""
        if time.monotonic() - self._began.clock < least:
            return 0.0
        began, now = self._began, self._read()
        return now.clock - began.clock - (now.worked - began.worked) - (now.queued - began.queued)

    def close(self) -> None:
        """Harmless when repeated; it can be used again."""
        while self._files:
            close_descriptor(self._files.popitem()[1])

    def _read(self) -> _Reading:
        thread = thread_ident()
        if thread not in self._files:
            with suppress(OSError):
                self._files[thread] = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        file = self._files.get(thread)
        queued = 0 if file is None else int(os.pread(file, 64, 0).split()[1])
        return _Reading(time.monotonic(), time.thread_time(), queued / 1e9)
