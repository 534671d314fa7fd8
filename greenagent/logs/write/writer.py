"""The one writer of the log store. All of it but the constructor runs in its native thread.

It takes what waits, writes it in transactions of at most 4 MiB, and tells the hub afterwards what
is committed (design, section 3).
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from greenagent.logs.folder import LogFolder
from greenagent.logs.lines import Lines, Owner
from greenagent.logs.read.database import is_locked
from greenagent.logs.write.cursors import CursorRow, Cursors
from greenagent.logs.write.database import LogDatabase
from greenagent.logs.write.intake import Task
from greenagent.logs.write.retention import Retention, StoreLimits
from greenagent.logs.write.undelivered import Waiting, waiting_behind, waiting_in_all

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

    def not_written(self, lost: Counter[Owner], reason: str) -> None: ...

    def written_again(self) -> None: ...

    def not_sent(self, waiting: Waiting, pairs: str, cause: str) -> None: ...


class Writer:
    """Writes lines and runs tasks, in the order given."""

    def __init__(
        self,
        folder: LogFolder,
        limits: StoreLimits,
        events: WriterEvents,
        post: Callable[[Callable[[], None]], None],
        warn: Callable[[str], None],
    ) -> None:
        """``post`` runs a function on the hub; ``warn`` says something there."""
        self.folder = folder
        self.warn = warn
        self.database = LogDatabase(folder, limits.max_db_size, warn)
        self.cursors = Cursors()
        self._events = events
        self._post = post
        self._retention = Retention(folder, limits, warn, self._not_sent)
        self._pending: list[Lines] = []
        self._pending_size = 0
        self._has_begun = False
        self._before = 0
        """``next_seq`` as the transaction began."""
        self._is_failing = False
        self._failing_until = 0.0
        self._reason = ""
        """Why writing failed last."""
        self._next_check = 0.0
        self._disorder = ""
        """Why the folder could not be kept in order when last looked after."""
        self._cleaned_to = 0

    def open(self, cursors: Sequence[CursorRow], floor: int) -> None:
        """Opens the files; ``floor``: a seq above all that were in use when the cursors were stored.

        Raises OSError, sqlite3.Error or GreenagentError.
        """
        meta = self.database.open(max([floor, *(seq + 1 for _, _, seq, _ in cursors)]))
        self.cursors.load(cursors, meta)
        self.database.set_marks(self.cursors.meta())

    def handle(self, batch: Sequence[Lines | Task]) -> None:
        """Everything that waited: lines in transactions, tasks between them."""
        for item in batch:
            if isinstance(item, Lines):
                self._add(item)
            else:
                self._commit()
                item()
        self._commit()
        self._try_again()
        self._look_around()

    def close(self) -> None:
        """The clean end."""
        self.cursors.catch_up(self.database.next_seq - 1)
        self.database.set_marks(self.cursors.meta())
        self.database.close()

    def register(self, names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
        """Pairs in force: per name its bit, cursor and the number of lines that wait for it. Raises GreenagentError."""
        cursors = self.cursors.register(names, self.database.next_seq - 1)
        self._drop_old_pairs()
        self.database.set_marks(self.cursors.meta())
        known: dict[str, tuple[int, int, int]] = {}
        for cursor in cursors:
            count, last = waiting_behind(self.folder.databases(), cursor.bit, cursor.seq)
            cursor.last_marked = max(cursor.last_marked, last)
            known[cursor.name] = (cursor.bit, cursor.seq, count)
        return known

    def advance(self, bit: int, seq: int) -> None:
        """A controller has everything up to ``seq``; what no pair wants any more leaves the table of outgoing lines."""
        self.cursors.advance(bit, seq)
        delivered = self.cursors.delivered(self.database.next_seq - 1)
        if delivered <= self._cleaned_to or not self.database.is_open:
            return
        try:
            self.database.clean_outgoing(delivered)
        except sqlite3.Error:
            return  # locked or no room: they go with the next advance
        self._cleaned_to = delivered

    def _add(self, lines: Lines) -> None:
        for part in lines.parts(self.database.transaction_limit):
            self._add_part(part)

    def _add_part(self, lines: Lines) -> None:
        if self._is_failing and time.monotonic() < self._failing_until:
            self._count_lost([lines])
            return
        if self._is_due(lines):
            self._commit()
        self._pending.append(lines)
        self._pending_size += lines.stored_size
        self._attempt(lambda: self._write(lines))

    def _is_due(self, lines: Lines) -> bool:
        """True when the open transaction must end before these lines."""
        size = self._pending_size + lines.stored_size
        database = self.database
        return bool(self._pending) and (size > database.transaction_limit or database.is_full(lines.stored_size))

    def _write(self, lines: Lines) -> None:
        database = self.database
        if not self._has_begun:
            if not database.is_open:
                database.reopen()
            if database.is_full(lines.stored_size):
                database.merge_log()
                if database.is_full(lines.stored_size) and not database.is_fresh:
                    self.rotate()
            if database.is_shrunk():
                raise sqlite3.DatabaseError("it was truncated")
            self._before = database.next_seq
            database.begin()
            self._has_begun = True
        database.insert(lines)

    def _commit(self) -> None:
        if self._pending:
            self._attempt(self._finish_transaction)

    def _finish_transaction(self) -> None:
        database = self.database
        if not self._has_begun:
            return
        database.commit()
        self._has_begun = False
        done, self._pending, self._pending_size = self._pending, [], 0
        marked: Marked = {}
        seq = self._before - 1
        for lines in done:
            seq += lines.count
            left = lines.marks
            while left:
                bit = left & -left
                left ^= bit
                count, flush = marked.get(bit, (0, 0.0))
                marked[bit] = (count + lines.count, min(flush or lines.flush, lines.flush or flush))
                self.cursors.marked(bit, seq)
        total, size = sum(lines.count for lines in done), sum(lines.size for lines in done)
        self._post(lambda: self._events.stored(total, size, marked))
        self._recovered()

    def _recovered(self) -> None:
        if self._is_failing:
            self._is_failing = False
            self._post(self._events.written_again)

    def _attempt(self, step: Callable[[], None]) -> None:
        """Runs one step of writing; what fails is repaired and done again, or counted as lost."""
        for trial in range(3):
            try:
                step()
                return
            except sqlite3.Error as error:
                self._undo()
                if not self._repair(error, last=trial == 2):
                    self._give_up(str(error))
                    return
            except OSError as error:
                self._undo()
                self._give_up(str(error))
                return
            step = self._write_again

    def _write_again(self) -> None:
        """All lines of the transaction that was undone, in as many as it takes now."""
        rest = deque(self._pending)
        self._pending, self._pending_size = [], 0
        try:
            while rest:
                if self._is_due(rest[0]):
                    self._finish_transaction()
                lines = rest.popleft()
                self._pending.append(lines)
                self._pending_size += lines.stored_size
                self._write(lines)
            self._finish_transaction()
        except BaseException:
            self._pending += rest
            raise

    def _undo(self) -> None:
        if self._has_begun:
            self._has_begun = False
            self.database.rollback(self._before)

    def _repair(self, error: sqlite3.Error, last: bool) -> bool:
        """Takes a file that cannot be written out of the way; False when that does not help."""
        if last:
            return False
        text = str(error)
        try:
            if isinstance(error, sqlite3.IntegrityError):
                self.database.skip_used()
                return True
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

    def _give_up(self, reason: str) -> None:
        given_up, self._pending, self._pending_size = self._pending, [], 0
        self._is_failing = True
        self._failing_until = time.monotonic() + RETRY_AFTER
        self._reason = reason
        self._count_lost(given_up)

    def _count_lost(self, given_up: Sequence[Lines]) -> None:
        lost: Counter[Owner] = Counter()
        for lines in given_up:
            lost[lines.owner] += lines.count
        reason = self._reason
        self._post(lambda: self._events.not_written(lost, reason))

    def try_now(self) -> None:
        """The next lines are tried to be written, however lately that failed."""
        self._failing_until = 0.0

    def _try_again(self) -> None:
        """After a failure, when nobody logs: finds out whether writing works again."""
        if not self._is_failing or self._pending or time.monotonic() < self._failing_until:
            return
        try:
            if self.folder.free_bytes() >= ROOM_TO_GO_ON:
                self._attempt(self._write_nothing)
        except OSError:
            pass  # not even the folder can be asked

    def _write_nothing(self) -> None:
        database = self.database
        if not database.is_open:
            database.reopen()
        self._before = database.next_seq
        database.begin()
        self._has_begun = True
        database.commit()
        self._has_begun = False
        self._recovered()

    def rotate(self) -> Path:
        """Closes the file and begins the next one; returns the closed one."""
        self.cursors.catch_up(self.database.next_seq - 1)
        self.database.set_marks(self.cursors.meta())
        closed = self.database.rotate()
        self._cleaned_to = 0
        self._retention.apply(self.cursors, self.database.path)
        return closed

    def _look_around(self) -> None:
        """Now and then, between batches."""
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + _CHECK_EVERY
        try:
            self.database.look_after()
            self._retention.apply(self.cursors, self.database.path)
            self._drop_old_pairs()
            self._disorder = ""
        except (sqlite3.Error, OSError) as error:
            if self._disorder != str(error):
                self._disorder = str(error)
                self.warn(f"the log folder {self.folder.path} cannot be kept in order: {error}")

    def _drop_old_pairs(self) -> None:
        for cursor in self.cursors.drop_old():
            self.database.set_marks(self.cursors.meta())
            waiting = waiting_in_all(self.folder.databases(), {cursor.bit: cursor.seq})
            cause = f"upload pair {cursor.name} left the configuration 7 days ago"
            self.warn(f"{cause}: {waiting.lines} lines that waited are dropped")
            self._not_sent(waiting, cursor.name, cause)

    def _not_sent(self, waiting: Waiting, pairs: str, cause: str) -> None:
        self._post(lambda: self._events.not_sent(waiting, pairs, cause))
