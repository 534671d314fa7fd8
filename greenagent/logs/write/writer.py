"""The one writer of the log store. All of it but the constructor runs in its native thread.

It takes what waits, writes it in transactions of at most 4 MiB, and tells the hub afterwards what
is committed (design, section 3).
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from greenagent.logs.folder import LogFolder, is_locked
from greenagent.logs.lines import Lines, OpenLine, Owner, byte_size
from greenagent.logs.runs import RunRecord
from greenagent.logs.schema import CLOSE_OPEN, FORGET_RUNS, PUT_OPEN
from greenagent.logs.write.cursors import Cursor, CursorRow, Cursors
from greenagent.logs.write.database import LogDatabase
from greenagent.logs.write.database_file import LEAP
from greenagent.logs.write.intake import Task
from greenagent.logs.write.retention import Retention, StoreLimits
from greenagent.logs.write.run_rows import RunRows
from greenagent.logs.write.undelivered import Waiting, waiting_behind, waiting_in_all
from greenagent.logs.write.vanished import Vanished, behind_cursors, gone

RETRY_AFTER: Final = 2.0
"""Seconds during which lines are only counted after a write failed."""
ROOM_TO_GO_ON: Final = 1 << 20
"""Bytes that must be free before an idle store counts as writable again: a little always fits somewhere."""
_CHECK_EVERY: Final = 1.0

Marked = dict[int, tuple[int, float]]
"""By bit: how many lines came for its pair, and the least ``log_flush`` of their jobs, 0 for none."""


class WriterEvents(Protocol):
    """What the writer tells; each is called on the hub."""

    def stored(self, lines: int, size: int, marked: Marked) -> None: ...

    def not_written(self, lost: Counter[Owner], untold: Counter[Owner], reason: str) -> None: ...

    def written_again(self, lost_runs: int) -> None: ...

    def not_sent(self, waiting: Waiting, pairs: str, cause: str) -> None: ...

    def disorder(self, reason: str) -> None: ...


class Writer:
    """Writes lines and runs tasks, in the order given."""

    def __init__(
        self,
        folder: LogFolder,
        limits: StoreLimits,
        events: WriterEvents,
        post: Callable[[Callable[[], None]], None],
        warn: Callable[[str], None],
        record: Callable[[int], None],
    ) -> None:
        """``post`` runs a function on the hub; ``warn`` says something there.

        ``record`` keeps outside of the databases which seq comes next; it may raise OSError.
        """
        self.folder = folder
        self.warn = warn
        self.database = LogDatabase(folder, limits.max_db_size, warn)
        self.cursors = Cursors()
        self.runs = RunRows()
        self._events = events
        self._post = post
        self._record = record
        self._retention = Retention(folder, limits, warn, self._not_sent, self._note_now)
        self._is_failing = False
        self._failing_until = 0.0
        self._reason = ""
        """Why writing failed last."""
        self._next_check = 0.0
        self._disorder = ""
        """Why the folder could not be kept in order when last looked after."""
        self._cleaned_to = 0
        self._over: set[tuple[str, int]] = set()
        """Keys of rows of ``open_lines`` that are still to be deleted."""
        self._open_failures = 0

    def open(self, cursors: Sequence[CursorRow], floor: int, recorded: int) -> list[Vanished]:
        """Opens the files; ``floor``: a seq above all that were in use when the cursors were stored.

        ``recorded``: the last that an earlier writer gave to ``record``, 0 for none. Returns what is in no database any
        more. Raises OSError, sqlite3.Error or GreenagentError.
        """
        used = max([floor, recorded, *(seq + 1 for _, _, seq, _ in cursors)])
        meta = self.database.open(used)
        self.cursors.load(cursors, meta)
        self._note()
        if not meta:
            is_first = used <= 1 or self.folder.databases() != [self.database.path]
            return [] if is_first else [behind_cursors(self.cursors, used - 1)]
        found = gone(meta, self.folder, self.cursors)
        is_said = self.database.next_seq >= recorded + LEAP  # what became of the file
        lines = 0 if is_said else max(0, recorded - meta["next_seq"]) % LEAP
        return [*found, Vanished(lines)] if lines else found

    def _note(self) -> None:
        """What the newest database is to tell, with the next lines that are written."""
        self.database.set_marks(self.cursors.meta() + self._retention.meta())

    def handle(self, batch: Sequence[Lines | RunRecord | Task]) -> None:
        """Everything that waited: lines and records of runs in transactions, tasks between them."""
        lines: list[Lines] = []
        for item in batch:
            if isinstance(item, Lines):
                lines += item.parts(self.database.transaction_limit)
            elif isinstance(item, RunRecord):
                self.runs.add(item)
            else:
                self._write(lines)
                lines = []
                item()
        self._write(lines)
        self._try_again()
        self._look_around()

    def close(self) -> None:
        """The clean end."""
        self.cursors.catch_up(self.database.next_seq - 1)
        self._note()
        self.database.close()

    def register(self, names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
        """Pairs in force: per name its bit, cursor and the number of lines that wait for it. Raises GreenagentError."""
        cursors = self.cursors.register(names, self.database.next_seq - 1)
        self._drop_old_pairs()
        self._note()
        self._cleaned_to = 0  # what was kept for a pair that returns goes once it has that
        known: dict[str, tuple[int, int, int]] = {}
        for cursor in cursors:
            known[cursor.name] = (cursor.bit, cursor.seq, self._count(cursor))
        for cursor in self.cursors.removed():
            if cursor.last_marked == sys.maxsize:
                self._count(cursor)
        return known

    def _count(self, cursor: Cursor) -> int:
        """How many lines wait behind a cursor; finds out which is the last."""
        count, last = waiting_behind(self.folder.databases(), cursor.bit, cursor.seq)
        cursor.last_marked = last if cursor.last_marked == sys.maxsize else max(cursor.last_marked, last)
        return count

    def advance(self, bit: int, seq: int) -> None:
        """A controller has everything up to ``seq``; what no pair wants any more leaves the table of outgoing lines."""
        self.cursors.advance(bit, seq)
        delivered = self.cursors.delivered(self.database.next_seq - 1)
        if delivered <= self._cleaned_to or not self.database.is_open:
            return
        try:
            self.database.clean_outgoing(self._cleaned_to, delivered, self.cursors.removed())
        except sqlite3.Error:
            return  # locked or no room: they go with the next advance
        self._cleaned_to = delivered

    # -- lines

    def _write(self, lines: list[Lines]) -> None:
        """Writes lines, in as many transactions as it takes; those that cannot be written are counted as lost.

        With them go the records of runs, which wait where they cannot be written.
        """
        if (lines or self.runs) and (not self._is_failing or time.monotonic() >= self._failing_until):
            self._reason = self._attempt(lines)
            if self._reason:
                self._is_failing = True
                self._failing_until = time.monotonic() + RETRY_AFTER
        if (lines or self.runs) and self._is_failing:
            lost: Counter[Owner] = Counter()
            untold: Counter[Owner] = Counter()
            for part in lines:
                if part.tells:
                    untold[part.owner] += part.tells
                else:
                    lost[part.owner] += part.count
                self._over.update((part.owner.jobid, stream) for stream in part.closes)
            reason = self._reason
            self._post(lambda: self._events.not_written(lost, untold, reason))

    def _attempt(self, lines: list[Lines]) -> str:
        """Writes ``lines`` and takes them out of the list, mending what fails; returns why some are left, if any."""
        for trial in range(3):
            try:
                while lines or self.runs:
                    del lines[: self._write_some(lines)]
                return ""
            except (sqlite3.Error, OSError) as error:
                problem = error
                self.database.rollback()
            if trial == 2 or not self._repair(problem):
                break
        return str(problem)

    def _write_some(self, lines: Sequence[Lines]) -> int:
        """One transaction; returns how many of ``lines`` are in it."""
        database = self.database
        if not database.is_open:
            database.reopen()
        runs, size, anywhere = self.runs.next(database.transaction_limit, database.runs_limit)
        if database.needs_next(size + (lines[0].stored_size if lines else 0), anywhere):
            self.rotate()
        if database.is_shrunk():
            raise sqlite3.DatabaseError("it was truncated")
        first = database.next_seq
        database.begin()
        if runs:
            database.put_runs(runs, anywhere)
        count = 0
        for part in lines:
            size += part.stored_size
            if (count or runs) and (size > database.transaction_limit or database.is_full(part.stored_size)):
                break
            database.insert(part)
            count += 1
        database.commit()
        with suppress(OSError):  # it is what the next start can tell losses by, and no reason for one
            self._record(database.next_seq)
        self.runs.written(runs)
        if count:
            self._stored(lines[:count], first)
        self._recovered()
        return count

    def _stored(self, lines: Sequence[Lines], first_seq: int) -> None:
        """These are committed."""
        marked: Marked = {}
        seq = first_seq - 1
        for part in lines:
            seq += part.count
            left = part.marks
            while left:
                bit = left & -left
                left ^= bit
                count, flush = marked.get(bit, (0, 0.0))
                marked[bit] = (count + part.count, min(flush or part.flush, part.flush or flush))
                self.cursors.marked(bit, seq)
        total, size = sum(part.count for part in lines), sum(part.size for part in lines)
        self._post(lambda: self._events.stored(total, size, marked))

    def _recovered(self) -> None:
        if self._is_failing:
            self._is_failing = False
            lost = self.runs.take_lost()
            self._post(lambda: self._events.written_again(lost))

    def _repair(self, error: sqlite3.Error | OSError) -> bool:
        """Takes a file that cannot be written out of the way; False when that does not help."""
        text = str(error)
        try:
            if isinstance(error, sqlite3.IntegrityError):
                self.database.skip_used()
                return True
            if isinstance(error, OSError):
                return False
            if is_locked(error):
                self.database.leave_locked()
            elif isinstance(error, sqlite3.OperationalError) and not text.startswith(("no such table", "table ")):
                return False  # a full disk, a read-only one, an I/O error: another file would not be better
            else:
                self.database.leave_damaged(text)
            self.database.reopen()
        except (sqlite3.Error, OSError):
            return False
        return True

    def try_now(self) -> None:
        """The next lines are tried to be written, however lately that failed."""
        self._failing_until = 0.0

    def _try_again(self) -> None:
        """After a failure, when nobody logs: finds out whether writing works again."""
        if not self._is_failing or time.monotonic() < self._failing_until:
            return
        try:
            self.folder.create()
            if self.folder.free_bytes() >= ROOM_TO_GO_ON:
                if not self.database.is_open:
                    self.database.reopen()
                self.database.begin()
                self.database.commit()
                self._recovered()
        except (sqlite3.Error, OSError):
            self.database.rollback()
            self._failing_until = time.monotonic() + RETRY_AFTER

    @property
    def open_lines_place(self) -> tuple[Path, int]:
        """Where the rows of open text are: once this is another they are to be written again. For any thread."""
        return self.database.path, self._open_failures

    def change_open(self, rows: Sequence[OpenLine], over: Sequence[tuple[str, int]]) -> None:
        """Writes rows of open text and deletes those that are over. They wait while no lines can be written."""
        self._over.update(over)
        database = self.database
        try:
            if self._is_failing or not database.is_open or database.is_shrunk():
                self._open_failures += 1
                return
            if self._over:
                database.begin()
                database.connection.executemany(CLOSE_OPEN, list(self._over))
                database.commit()
                self._over.clear()
            for owner, stream, epoch, level, data, full in rows:
                size = byte_size(data)
                if size > database.transaction_limit:
                    continue
                if database.needs_next(size):
                    self.rotate()
                if not database.is_full(size):
                    database.begin()
                    row = (owner.jobid, stream, owner.domain, owner.name, epoch, level, data, full)
                    database.connection.execute(PUT_OPEN, row)
                    database.commit()
        except (sqlite3.Error, OSError):
            database.rollback()  # lines find out what it is, and mend it
            self._open_failures += 1

    def open_rows(self) -> list[OpenLine]:
        """What a crash left open. Raises sqlite3.Error."""
        found = self.database.connection.execute(
            "SELECT jobid, domain, name, stream, epoch, level, data, size FROM open_lines ORDER BY epoch, stream"
        )
        return [OpenLine(Owner(*row[:3]), *row[3:]) for row in found]

    def rotate(self) -> Path:
        """Closes the file and begins the next one; returns the closed one."""
        self.cursors.catch_up(self.database.next_seq - 1)
        self._note()
        closed = self.database.rotate()
        self._cleaned_to = 0
        try:
            self._retention.apply(self.cursors, self.database.path)
        except OSError as error:
            self._say_disorder(str(error))  # that is no reason to lose the lines for which there is a new file now
        self._note()
        return closed

    def _look_around(self) -> None:
        """Now and then, between batches."""
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + _CHECK_EVERY
        try:
            self.database.look_after()
            self._drop_old_pairs()
            self._retention.apply(self.cursors, self.database.path)
            self._forget_runs()
            self._say_disorder("")
            if self._over:
                self.change_open((), ())
        except (sqlite3.Error, OSError) as error:
            self._say_disorder(str(error))

    def _forget_runs(self) -> None:
        memory = self._retention.limits.run_memory
        if memory is not None and self.database.is_open:
            until = time.time() - memory
            self.database.connection.execute(FORGET_RUNS, (int(until * 1e6), until))

    def _note_now(self) -> None:
        """Before a cap takes an archive: else a start after a kill -9 would say that it is gone."""
        self._note()
        if not self._is_failing and self.database.is_open:
            try:
                self.database.begin()
                self.database.commit()
            except sqlite3.Error:
                self.database.rollback()  # with the next lines, then

    def _say_disorder(self, disorder: str) -> None:
        """What is wrong with the folder now; "" for nothing."""
        if self._disorder != disorder:
            self._disorder = disorder
            self._post(lambda: self._events.disorder(disorder))

    def _drop_old_pairs(self) -> None:
        for cursor in self.cursors.drop_old():
            self._cleaned_to = 0  # what was kept for it goes with the next advance
            self._note()
            waiting = waiting_in_all(self.folder.databases(), {cursor.bit: cursor.seq})
            cause = f"upload pair {cursor.name} left the configuration 7 days ago"
            self.warn(f"{cause}: {waiting.lines} lines that waited are dropped")
            self._not_sent(waiting, cursor.name, cause)

    def _not_sent(self, waiting: Waiting, pairs: str, cause: str) -> None:
        self._post(lambda: self._events.not_sent(waiting, pairs, cause))
