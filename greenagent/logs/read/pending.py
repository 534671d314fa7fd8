"""The lines that wait for a controller: marked for it, behind its cursor, over all files, in order of ``seq``.

They are read in native threads on read-only connections; no transaction outlives one slice.
"""

from __future__ import annotations

import heapq
import sqlite3
import time
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from itertools import islice
from pathlib import Path
from typing import Final, Protocol

from gevent.event import Event

from greenagent.logs.folder import LogFolder, connect, is_damage, is_locked, read_numbers
from greenagent.runtime.native import NativeLock
from greenagent.values.message import Record

UPLOAD_BYTES: Final = 8 << 20
"""Bytes of text that are read at a time."""
_SELECT: Final = (
    'SELECT seq, id, jobid, domain, name, epoch, level, data FROM "{table}" '
    "WHERE seq > ? AND marks & ? ORDER BY seq LIMIT ?"
)


class WrittenDatabase(Protocol):
    """What a reader must know of the database that is written now (logs.write.database.LogDatabase)."""

    lock: NativeLock
    """Held while the file is read: the writer takes it for a checkpoint that readers hinder."""

    @property
    def path(self) -> Path:
        """Of the file; changes when the writer goes on to the next one."""


class PendingLines:
    """The lines of one upload pair (an AC logger with one of its controllers) that wait. On the hub.

    Two counts of the marked lines behind the cursor, both raised by ``stored`` and lowered by ``advance``:

    - ``waiting`` says whether there is anything to send. It is never below 0, and may be too high where lines were
      removed undelivered (``dropped``): a ``read`` that finds nothing takes back what it knew of.
    - ``_unaccounted`` is lower by the lines that were said to be dropped. What is left of it when a ``read`` finds
      nothing has vanished (a damaged file) and is told to ``missing``.

    A batch is due (``wait_due``) when

    - a period of ``flush_int`` that began at ``_last_tick`` is over, or
    - the time ``_due`` is reached, by which a job's ``log_flush`` wants its lines to go. None: no such wish, and
      always where nothing waits. What waits at the start is due at once. Or
    - ``batch_size`` lines wait.

    The first two make all that waits then ``_owed`` (at most ``waiting``): it goes batch after batch without a pause.
    """

    def __init__(
        self,
        name: str,
        bit: int,
        cursor: int,
        waiting: int,
        read: Callable[[int, int, int, int], list[Record]],
        advanced: Callable[[PendingLines], None],
        missing: Callable[[int, str], None],
    ) -> None:
        """``read(bit, cursor, limit, max_bytes)`` is ``MarkedReader.read`` in a native thread.

        ``advanced(self)`` stores the cursor soon; ``missing(lines, name)`` hears of lines that are nowhere any more.
        """
        self.name = name
        self.bit = bit
        self.cursor = cursor
        self.waiting = waiting
        """Committed lines behind the cursor that are marked for this pair."""
        self._read_slice = read
        self._advanced = advanced
        self._missing = missing
        now = time.monotonic()
        self._due: float | None = now if waiting else None
        self._last_tick = now
        self._read: Sequence[int] = ()
        """The ``seq`` of the lines last read that are not accepted yet, rising: ``advance`` counts by them."""
        self._unaccounted = waiting
        """Lines of which nobody has said yet that they were delivered or dropped; may fall below 0 for a moment."""
        self._changed = Event()
        self._owed = 0
        """Lines that waited when a batch was due: all of them go, in as many batches as it takes."""

    def read(self, limit: int = 1000, max_bytes: int = UPLOAD_BYTES) -> list[Record]:
        """The next lines behind the cursor, in order; fewer where their text is long.

        Raises what the function given for reading does: in the store that is GreenagentError.
        """
        waiting, unaccounted = self.waiting, self._unaccounted
        found = self._read_slice(self.bit, self.cursor, limit, max_bytes)
        self._read = [record.seq for record in found]
        if not found:
            # What was known to wait before is nowhere any more. Lines may have come since: they still wait.
            self._delivered(waiting)
            missing = max(0, min(unaccounted, self._unaccounted))
            self._unaccounted -= missing
            if missing:
                self._missing(missing, self.name)
        return found

    def advance(self, seq: int) -> None:
        """The controller has accepted everything up to ``seq``; stored soon, without waiting."""
        self.cursor = max(self.cursor, seq)
        done = bisect_right(self._read, seq)
        self._read = self._read[done:]
        self._unaccounted -= done
        self._delivered(done)
        self._advanced(self)

    def stored(self, count: int, flush: float) -> None:
        """``count`` more lines wait; ``flush`` seconds is the shortest wish of their jobs, 0 for none."""
        now = time.monotonic()
        self.waiting += count
        self._unaccounted += count
        if flush and (self._due is None or now + flush < self._due):
            self._due = now + flush
        self._changed.set()

    def dropped(self, count: int) -> None:
        """``count`` lines were removed undelivered. ``waiting`` is left: they may be on their way all the same."""
        self._unaccounted -= count

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
            self._changed.clear()
            self._changed.wait(max(0.001, wake - now))


class MarkedReader:
    """Reads slices for upload pairs."""

    def __init__(self, folder: LogFolder, written: WrittenDatabase, say: Callable[[str], None]) -> None:
        """``written``: the database that changes while we read. ``say`` is called from native threads."""
        self._folder = folder
        self._written = written
        self._say = say
        self._renaming = NativeLock()
        self._last_seqs: dict[str, int] = {}

    def read(self, bit: int, cursor: int, limit: int, max_bytes: int) -> list[Record]:
        """Up to ``limit`` lines marked with ``bit`` behind ``cursor``; fewer when their text passes ``max_bytes``.

        At least one line is returned where there is one. A damaged file that is no longer written is kept under
        another name, and reading goes on in the next. Raises sqlite3.Error.
        """
        found: list[Record] = []
        size = 0
        with closing(self._records(bit, cursor, limit)) as records:
            for record in islice(records, limit):
                size += len(record.data)
                if found and size > max_bytes:
                    break
                found.append(record)
        return found

    def _records(self, bit: int, cursor: int, limit: int) -> Generator[Record, None, None]:
        """Over all files; at most ``limit`` are asked of each."""
        for path in self._folder.databases():
            is_written = path == self._written.path
            try:
                if not is_written and self._last_seq(path) <= cursor:
                    continue
                with self._written.lock if is_written else nullcontext(), closing(connect(path)) as connection:
                    yield from _marked(connection, bit, cursor, limit)
            except sqlite3.DatabaseError as error:
                if is_written or not is_damage(error):
                    raise
                self._leave_damaged(path, error)

    def _last_seq(self, path: Path) -> int:
        """The last seq of a file that is no longer written; 0 for one that is not ours."""
        if path.name not in self._last_seqs:
            try:
                with closing(connect(path)) as connection:
                    numbers = read_numbers(connection)
            except sqlite3.Error as error:
                if is_locked(error) or is_damage(error):
                    raise
                numbers = None
            self._last_seqs[path.name] = numbers["next_seq"] - 1 if numbers is not None else 0
        return self._last_seqs[path.name]

    def _leave_damaged(self, path: Path, error: sqlite3.Error) -> None:
        """Another uploader may have been here first. Raises ``error`` where the file cannot be renamed."""
        with self._renaming:
            if not path.exists():
                return
            try:
                target = self._folder.move_aside(path)
            except OSError:
                raise error from None
            self._say(
                f"{path} is damaged ({error}): it is kept as {target.name}; lines in it are not sent to controllers"
            )


def _marked(connection: sqlite3.Connection, bit: int, cursor: int, limit: int) -> Iterator[Record]:
    """Both tables merged by seq, at most ``limit``."""
    connection.execute("BEGIN")  # one snapshot for both tables
    streams = [
        map(Record._make, connection.execute(_SELECT.format(table=table), (cursor, bit, limit)))
        for table in ("logs", "outgoing")
    ]
    for count, record in enumerate(heapq.merge(*streams, key=lambda record: record.seq)):
        if count >= limit:
            return
        yield record
