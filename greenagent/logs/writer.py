"""The one writer of the log store. All of it but the constructor runs in its native thread.

It takes what waits, writes it in transactions of at most 4 MiB, and tells the hub afterwards what
is committed (design, section 3).
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from greenagent.logs.events import Committed, Events
from greenagent.logs.folder import LogFolder
from greenagent.logs.lines import Lines, Owner
from greenagent.logs.read.database import is_locked
from greenagent.logs.retention import Retention, StoreLimits
from greenagent.logs.undelivered import waiting_behind, waiting_in_all
from greenagent.logs.uploads import UploadTable
from greenagent.logs.write.database import LogDatabase

RETRY_AFTER: Final = 2.0
"""Seconds during which lines are only counted after a write failed."""
ROOM_TO_GO_ON: Final = 1 << 20
"""Bytes that must be free before an idle store counts as writable again: a little always fits somewhere."""
_CHECK_EVERY: Final = 1.0


Task = Callable[["Writer"], None]


class Writer:
    """Writes lines and runs tasks, in the order given."""

    def __init__(self, folder: LogFolder, database: LogDatabase, limits: StoreLimits, events: Events) -> None:
        self._events = events
        self.warn = events.warn
        self.folder = folder
        self.database = database
        self.uploads = UploadTable(folder.uploads, events.warn)
        self.retention = Retention(folder, limits, events.warn, events.not_sent)
        self._pending: list[Lines] = []
        self._pending_size = 0
        self._began = False
        self._before = 0
        self._failing_until = 0.0
        self._failing = False
        self._next_check = 0.0
        self._disorder = ""
        """Why the folder could not be kept in order when last looked after."""
        self._cleaned_to = 0

    def open(self) -> None:
        """Opens the files. Raises OSError, sqlite3.Error or GreenagentError."""
        floor = self.uploads.open()
        self.database.open(floor)

    def handle(self, batch: Sequence[Lines | Task]) -> None:
        """Everything that waited: lines in transactions, tasks between them."""
        for item in batch:
            if isinstance(item, Lines):
                self._add(item)
            else:
                self._commit()
                item(self)
        self._commit()
        self._try_again()
        self._look_around()

    def close(self) -> None:
        """The clean end."""
        end = self.database.next_seq - 1
        try:
            self.uploads.catch_up(end)
            self.uploads.close(end)
        except sqlite3.Error as error:
            self._events.warn(f"upload cursors cannot be written ({error}): some lines will be sent twice")
        self.database.close()

    def register(self, names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
        """Pairs in force: per name its bit, cursor and the number of lines that wait for it."""
        end = self.database.next_seq - 1
        bits = self.uploads.register(names, end)
        self._drop_old_pairs()
        known: dict[str, tuple[int, int, int]] = {}
        for name, bit in bits.items():
            pair = self.uploads.pairs[bit]
            count, last = waiting_behind(self.folder.databases(), bit, pair.cursor)
            pair.last_marked = max(pair.last_marked, last)
            known[name] = (bit, pair.cursor, count)
        return known

    def advance(self, bit: int, seq: int) -> None:
        """Stores a cursor; what no pair wants any more leaves the table of outgoing lines."""
        self.uploads.advance(bit, seq)
        self.uploads.save(self.database.next_seq - 1)
        self._clean_outgoing()

    def rotate(self) -> Path:
        """Begins a new file now, whatever the size of this one; returns the closed one."""
        self._commit()
        return self._rotate()

    def _add(self, lines: Lines) -> None:
        for part in lines.parts(self.database.transaction_limit):
            self._add_part(part)

    def _add_part(self, lines: Lines) -> None:
        if self._failing and time.monotonic() < self._failing_until:
            self._count_lost([lines], "")
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
        if not self._began:
            if not database.is_open:
                database.reopen()
            if database.is_full(lines.stored_size):
                database.merge_log()
                if database.is_full(lines.stored_size) and not database.is_fresh:
                    self._rotate()
            if database.is_shrunk():
                raise sqlite3.DatabaseError("it was truncated")
            self._before = database.next_seq
            database.begin()
            self._began = True
        database.insert(lines)

    def _commit(self) -> None:
        if self._pending:
            self._attempt(self._finish_transaction)

    def _finish_transaction(self) -> None:
        database = self.database
        if not self._began:
            return
        database.commit()
        self._began = False
        done, self._pending, self._pending_size = self._pending, [], 0
        marked: dict[int, tuple[int, float]] = {}
        last: dict[int, int] = {}
        seq = database.next_seq - 1 - sum(lines.count for lines in done)
        for lines in done:
            seq += lines.count
            left = lines.marks
            while left:
                bit = left & -left
                left ^= bit
                count, flush = marked.get(bit, (0, 0.0))
                soon = min(flush, lines.flush) if flush and lines.flush else flush or lines.flush
                marked[bit] = (count + lines.count, soon)
                last[bit] = seq
        for bit, last_seq in last.items():
            self.uploads.marked(bit, last_seq)
        self._events.committed(
            Committed(
                sum(lines.count for lines in done),
                sum(lines.size for lines in done),
                database.next_seq - 1,
                database.last_id,
                marked,
                _missing(done),
            )
        )
        if self._failing:
            self._failing = False
            self._events.recovered()

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
        if self._began:
            self._began = False
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
        self._failing = True
        self._failing_until = time.monotonic() + RETRY_AFTER
        self._count_lost(given_up, reason)

    def _count_lost(self, given_up: Sequence[Lines], reason: str) -> None:
        lost: dict[Owner, int] = {}
        for lines in given_up:
            if not lines.missing:
                lost[lines.owner] = lost.get(lines.owner, 0) + lines.count
        self._events.lost(lost, _missing(given_up), reason)

    def try_now(self) -> None:
        """The next lines are tried to be written, however lately that failed."""
        self._failing_until = 0.0

    def _try_again(self) -> None:
        """After a failure, when nobody logs: finds out whether writing works again."""
        if not self._failing or self._pending or time.monotonic() < self._failing_until:
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
        self._began = True
        database.commit()
        self._began = False
        self._failing = False
        self._events.recovered()

    def _rotate(self) -> Path:
        closed = self.database.rotate()
        end = self.database.next_seq - 1
        self.uploads.catch_up(end)
        try:
            self.uploads.save(end)
        except sqlite3.Error:
            pass  # the cursors are only behind: said at the next advance
        self._cleaned_to = 0
        self.retention.apply(self.uploads, self.database.path)
        return closed

    def _look_around(self) -> None:
        """Now and then, between batches."""
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + _CHECK_EVERY
        try:
            self.database.look_after()
            self.retention.apply(self.uploads, self.database.path)
            self._drop_old_pairs()
            self._disorder = ""
        except (sqlite3.Error, OSError) as error:
            if self._disorder != str(error):
                self._disorder = str(error)
                self._events.warn(f"the log folder {self.folder.path} cannot be kept in order: {error}")

    def _drop_old_pairs(self) -> None:
        for pair in self.uploads.drop_old():
            waiting = waiting_in_all(self.folder.databases(), {pair.bit: pair.cursor})
            cause = f"upload pair {pair.name} left the configuration 7 days ago"
            self._events.warn(f"{cause}: {waiting.lines} lines that waited are dropped")
            self._events.not_sent(waiting, pair.name, cause)

    def _clean_outgoing(self) -> None:
        delivered = self.uploads.delivered(self.database.next_seq - 1)
        if delivered <= self._cleaned_to or not self.database.is_open:
            return
        self.database.clean_outgoing(delivered)
        self._cleaned_to = delivered


def _missing(notes: Sequence[Lines]) -> dict[Owner, int]:
    """What notes among these lines say is lost."""
    missing: dict[Owner, int] = {}
    for lines in notes:
        if lines.missing:
            missing[lines.owner] = missing.get(lines.owner, 0) + lines.missing
    return missing
