"""What waits for each upload pair, as the hub knows it, and when its uploader should go."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence

from gevent.event import Event


class Backlog:
    """One upload pair on the hub's side: how many stored lines wait for it, and since when."""

    def __init__(self, name: str, bit: int, cursor: int, waiting: int) -> None:
        self.name = name
        self.bit = bit
        self.cursor = cursor
        self.waiting = waiting
        """Committed lines behind the cursor that are marked for this pair."""
        now = time.monotonic()
        self._due: float | None = now if waiting else None
        self._last_tick = now
        self._read: Sequence[int] = ()
        self._unaccounted = waiting
        """Lines of which nobody has said yet that they were delivered or dropped; may fall below 0 for a moment."""
        self._changed = Event()
        self._owed = 0
        """Lines that waited when a batch was due: all of them go, in as many batches as it takes."""

    def stored(self, count: int, flush: float) -> None:
        """``count`` more lines wait; ``flush`` seconds is the shortest wish of their jobs, 0 for none."""
        now = time.monotonic()
        self.waiting += count
        self._unaccounted += count
        if flush and (self._due is None or now + flush < self._due):
            self._due = now + flush
        self._changed.set()

    def known(self) -> tuple[int, int]:
        """What a reading that begins now must find; for ``was_read``."""
        return self.waiting, self._unaccounted

    def was_read(self, seqs: Sequence[int], known: tuple[int, int]) -> int:
        """The ``seq`` of the lines last handed to the uploader; ``known`` was asked for before they were read.

        Returns how many lines are nowhere any more: they were known to wait, and nothing is found.
        """
        self._read = seqs
        if seqs:
            return 0
        # Lines may have come since the reading began: they still wait.
        waiting, unaccounted = known
        self._delivered(waiting)
        missing = max(0, min(unaccounted, self._unaccounted))
        self._unaccounted -= missing
        return missing

    def dropped(self, count: int) -> None:
        """``count`` lines were removed undelivered. ``waiting`` is left: they may be on their way all the same."""
        self._unaccounted -= count

    def advance(self, seq: int) -> None:
        """The controller has everything up to ``seq``."""
        self.cursor = max(self.cursor, seq)
        done = bisect_right(self._read, seq)
        self._read = self._read[done:]
        self._unaccounted -= done
        self._delivered(done)

    def _delivered(self, count: int) -> None:
        self.waiting = max(0, self.waiting - count)
        self._owed = max(0, self._owed - count)
        if not self.waiting:
            self._due = None

    def wait_due(self, batch_size: int, flush_int: float) -> None:
        """Blocks until a batch should go: ``batch_size`` lines wait, or something waits and either
        the period of ``flush_int`` seconds is over (a full batch does not restart it, protocol 7.1),
        or a job's ``log_flush`` is.
        """
        while True:
            now = time.monotonic()
            period_over = now >= self._last_tick + flush_int
            if period_over:
                missed = int((now - self._last_tick) / flush_int) if flush_int > 0 else 0
                self._last_tick = self._last_tick + missed * flush_int if missed else now
            if self.waiting and (period_over or (self._due is not None and now >= self._due)):
                self._owed = self.waiting
                self._due = None
            if self.waiting and (self._owed or self.waiting >= batch_size):
                return
            wake = self._last_tick + flush_int
            if self._due is not None and self.waiting:
                wake = min(wake, self._due)
            self._wait(max(0.001, wake - now))

    def _wait(self, timeout: float | None) -> None:
        self._changed.clear()
        self._changed.wait(timeout)
