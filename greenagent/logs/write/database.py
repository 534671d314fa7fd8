"""The log database that is written now: opened, written, checkpointed, rotated. All of it in the writer's thread."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from greenagent.logs.folder import TOTALS_SEQ, LogFolder, file_size, inode_of, number_of, read_numbers
from greenagent.logs.lines import LAST_ID, MIXED, Lines, as_rows, block_as_json
from greenagent.logs.runs import RunRecord
from greenagent.logs.schema import (
    CLOSE_OPEN,
    DELETE_META,
    HAS_RUNS,
    INSERT_BLOCK,
    INSERT_ROW,
    PUT_RUN,
    SCHEMA,
    SET_META,
)
from greenagent.logs.write.cursors import MARK, Cursor
from greenagent.logs.write.database_file import (
    LOCK_WAIT,
    LOCKED,
    PAGE_SIZE,
    create_database,
    find_newest,
    finish,
    merge_for_good,
    set_aside,
    sign_off,
    stored_numbers,
)
from greenagent.logs.write.file_size import RUN_TOUCHES, FileSize
from greenagent.logs.write.line_index import LineIndex
from greenagent.logs.write.vanished import ARCHIVE, archive_mark
from greenagent.runtime.native import NativeLock, native_sleep

_CLOSE_WAIT: Final = 2.0
"""Seconds for which a clean stop waits for readers, so that people with read access only can open the file."""
_LOG_LIMIT: Final = 4 << 20
"""Bytes of write-ahead log at which it is merged, between batches: inside one it would stall."""
_NO_LIMIT: Final = 1 << 62


class LogDatabase:
    """The newest database of a folder; ``path`` is its name."""

    def __init__(self, folder: LogFolder, max_size: int, warn: Callable[[str], None]) -> None:
        """``max_size`` in bytes, 0 for no limit."""
        self._folder = folder
        self._max_size = max_size or _NO_LIMIT
        self._warn = warn
        self._connection: sqlite3.Connection | None = None
        self.path = folder.current
        self.lock = NativeLock()
        """Our own readers of the file hold it for a moment each; so does the merging of its log that they hinder."""
        self.transaction_limit = min(_LOG_LIMIT, self._max_size // 16)
        self.runs_limit = max(1, min(1000, self._max_size // (16 * RUN_TOUCHES * PAGE_SIZE)))
        """So many records of runs that may be anywhere in their table belong in one transaction."""
        self.next_seq = 1
        self.last_id = -1
        """The id of the newest line, -1 before the first."""
        self.unfinished: list[Path] = []
        """Closed databases whose log is still to be merged: somebody else has them open."""
        self._first_seq = self._committed_seq = 1
        self._number = self._inode = 0
        self._size = FileSize(self._max_size)
        self._runs = 0
        """Records in the transaction that may be anywhere in their table."""
        self._has_runs = False
        self._next_merge = 0.0
        self._can_json = True
        self._expect_control = False
        self._index = LineIndex(self.transaction_limit)
        self._marks: list[tuple[str, int]] = []
        self._marks_are_stored = True

    @property
    def connection(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    # -- files

    def open(self, minimum_seq: int) -> dict[str, int]:
        """Opens the newest database or begins one; a damaged, foreign or locked one is left, which is said.

        ``minimum_seq``: what the cursors know to be used. Returns what the newest readable meta table tells.
        Raises OSError or sqlite3.Error where no database can be made at all.
        """
        newest, leap = find_newest(self._folder, self._warn)
        paths = self._folder.databases()
        self.unfinished = [path for path in paths if path != newest and file_size(_log_of(path))]
        numbers = stored_numbers(paths)
        self.next_seq = max(self.next_seq, max(numbers.get("next_seq", 1), minimum_seq) + leap)
        self._committed_seq = self.next_seq
        if self.last_id < 0:
            self.last_id = numbers.get("last_id", -1)
        if newest is None:
            self._begin_file()
        else:
            self._connect(newest)
            self._link()
        return numbers

    def reopen(self) -> None:
        """Goes on in a new file after the old one was left."""
        self._close_plainly()
        self._begin_file()

    def rotate(self) -> Path:
        """Closes the file and begins the next one; returns the closed one."""
        closed = self.path
        self._marks = [*self._marks, archive_mark(closed, self._first_seq, self.next_seq - 1)]
        with self.lock:
            self._close(patience=0)
        self._begin_file()
        return closed

    def leave_locked(self) -> None:
        """Another program holds the file: it stays as it is, and its log is merged later."""
        self._close_plainly()
        self.unfinished.append(self.path)
        self._warn(LOCKED.format(self.path))

    def leave_damaged(self, problem: str) -> None:
        """The file cannot be used: it is kept under another name."""
        self._close_plainly()
        if self.path.exists():
            set_aside(self._folder, self.path, problem, self._warn)

    def look_after(self) -> None:
        """Every second or so: finishes what could not be finished, and mends what people did to the files.

        Raises OSError or sqlite3.Error.
        """
        self.unfinished = [path for path in self.unfinished if not finish(path)]
        if not self.is_open:
            return
        if self._is_gone():
            self._warn(f"{self.path} was removed: logging goes on in a new file")
            self.reopen()
        elif self._folder.databases()[-1:] != [self.path]:
            self.rotate()  # somebody put a file there: ours must be the newest
        elif not self._folder.is_linked(self.path):
            self._folder.link_current(self.path)
            self._warn(f"{self._folder.current} was removed: it is a link to {self.path.name} again")

    def is_shrunk(self) -> bool:
        """True when somebody truncated the file: nothing of ours ever makes it smaller."""
        try:
            return os.stat(self.path).st_size < self._size.file_bytes and not self._is_gone()
        except OSError:
            return False  # gone, which is seen to every second, or out of sight: it is open, and takes lines still

    def close(self) -> None:
        """The clean end: the file is readable for people with read access only."""
        if self._connection is None:
            return
        if not self._marks_are_stored:
            try:
                self.begin()
                self.commit()
            except sqlite3.Error:
                self.rollback()  # the cursors are kept elsewhere too
        self._close(_CLOSE_WAIT)

    def _is_gone(self) -> bool:
        """True when somebody removed or replaced the file. Raises OSError where that cannot be seen."""
        try:
            return os.stat(self.path).st_ino != self._inode
        except FileNotFoundError:
            return True

    def _begin_file(self) -> None:
        self._folder.create()  # where somebody removed it
        if self._folder.has_real_current():
            self._folder.number_current()
        path = self._folder.next_path(above=self._number)
        # Before the file is there: an uploader that does not find its name here takes it for one that changes no more,
        # remembers its last seq, and never sends what comes after it.
        self.path = path
        numbers = [*self._numbers(), ("first_seq", self.next_seq), (TOTALS_SEQ, self.next_seq - 1)]
        create_database(path, [*numbers, *self._marks])
        self._connect(path)
        self._marks_are_stored = True
        self._link()

    def _link(self) -> None:
        try:
            if not self._folder.is_linked(self.path):
                self._folder.link_current(self.path)
        except OSError:
            pass  # for people only, and tried again every second

    def _connect(self, path: Path) -> None:
        connection = sqlite3.connect(str(path), timeout=LOCK_WAIT, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA wal_autocheckpoint=0")
            connection.execute("PRAGMA temp_store=MEMORY")
            connection.execute("BEGIN IMMEDIATE")
            for statement in SCHEMA:
                connection.execute(statement)
            connection.execute("COMMIT")
            try:
                connection.execute("SELECT count(*) FROM json_each('[1]')").fetchone()
            except sqlite3.OperationalError:
                self._can_json = False
            self._index.load(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self.path, self._number, self._inode = path, number_of(path), inode_of(path)
        self._first_seq = (read_numbers(connection) or {}).get("first_seq", 0)
        self._has_runs = connection.execute(HAS_RUNS).fetchone() is not None
        self._measure()

    def _close(self, patience: float) -> None:
        """Merges the log and closes; where somebody else has the file open, the log is merged later."""
        deadline = time.monotonic() + patience
        self.connection.execute("PRAGMA busy_timeout=0")
        self._index.finish(self.connection, self.next_seq - 1)
        sign_off(self.connection)
        while not merge_for_good(self.connection):
            if time.monotonic() >= deadline:
                self.unfinished.append(self.path)
                break
            native_sleep(0.02)
        self._close_plainly()

    def _close_plainly(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error:
                pass  # nothing more can be done for it

    # -- transactions

    def set_marks(self, marks: list[tuple[str, int]]) -> None:
        """What the meta table is to tell of pairs and archives: written with the next lines, which may carry marks."""
        if self._marks != marks:
            self._marks, self._marks_are_stored = marks, False

    def begin(self) -> None:
        """Starts a transaction; waits up to LOCK_WAIT for other programs."""
        self.connection.execute("BEGIN IMMEDIATE")
        self._index.begin(self.connection)

    def insert(self, lines: Lines) -> None:
        """Writes some lines."""
        first = self.next_seq
        if not (lines.text and self._can_json and self._insert_block(lines, first)):
            self.connection.executemany(INSERT_ROW[lines.keep], as_rows(lines, first))
        self._size.count(self.connection)
        self.next_seq = first + lines.count
        self.last_id = (lines.first_id + lines.count - 1) & LAST_ID
        if lines.closes:
            self.connection.executemany(CLOSE_OPEN, [(lines.owner.jobid, stream) for stream in lines.closes])
        if lines.keep:
            self._index.add(lines, first)

    def put_runs(self, records: Sequence[RunRecord], anywhere: int) -> None:
        """Writes records of runs, each in place of what the file has of it; so many may be anywhere in the table."""
        self.connection.executemany(PUT_RUN, records)
        self._size.count(self.connection)
        self._runs += anywhere
        self._has_runs = True

    def _insert_block(self, lines: Lines, first: int) -> bool:
        """The fast way; False when this block cannot take it."""
        while True:
            block = block_as_json(lines.text, self._expect_control)
            if block is None:
                return False
            values = (lines.first_id, *lines.owner, lines.epoch, lines.level, lines.marks, first, block)
            try:
                self.connection.execute(INSERT_BLOCK[lines.keep, lines.level == MIXED], values)
            except sqlite3.OperationalError as error:
                if self._expect_control or "JSON" not in str(error):
                    raise
                # Coloured or tabulated output: what comes after it will be like it.
                self._expect_control = True
                continue
            if self._expect_control and "\\u00" not in block:
                self._expect_control = False
            return True

    def commit(self) -> None:
        """Ends the transaction, the numbers with it, and merges the log where it is due."""
        self.connection.executemany(SET_META, self._numbers())
        if not self._marks_are_stored:
            self.connection.executemany(DELETE_META, [(MARK + "%",), (ARCHIVE + "%",)])
            self.connection.executemany(SET_META, self._marks)
        self._index.write(self.connection, self.next_seq - 1)
        self.connection.execute("COMMIT")
        self._committed_seq = self.next_seq
        self._marks_are_stored = True
        self._index.committed()
        self._measure()
        if self._size.log_bytes > min(_LOG_LIMIT, self._max_size // 8) and time.monotonic() >= self._next_merge:
            self.merge_log()

    def rollback(self) -> None:
        """Undoes the transaction, if there is one."""
        if self._connection is not None and self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                pass  # sqlite has rolled back by itself
        self.next_seq = self._committed_seq
        self._index.undo()
        self._size.undo()
        self._runs = 0

    def clean_outgoing(self, after: int, upto: int, kept: Sequence[Cursor]) -> None:
        """Deletes what was only for controllers behind ``after``, up to ``upto``. Raises sqlite3.Error.

        Not what waits for a pair of ``kept``. ``after`` is where the last call ended, so that what is kept is not
        looked through with every batch.
        """
        unless_kept = "".join(" AND NOT (marks & ? AND seq > ?)" for _ in kept)
        values = [number for cursor in kept for number in (cursor.bit, cursor.seq)]
        self.connection.execute(
            f'DELETE FROM "outgoing" WHERE seq > ? AND seq <= ?{unless_kept}', (after, upto, *values)
        )
        self._measure()

    def skip_used(self) -> None:
        """Another program wrote into the file: ``seq`` goes on behind its rows."""
        self._index.stop_totals()
        for table in ("logs", "outgoing"):
            highest = self.connection.execute(f'SELECT max(seq) FROM "{table}"').fetchone()[0]
            self.next_seq = self._committed_seq = max(self.next_seq, (highest or 0) + 1)

    def merge_log(self) -> None:
        """Moves the write-ahead log into the file and empties it, if no reader needs it.

        Our own readers are quick, but with several of them one is always there: they are kept out for a moment.
        Without that the log of a database meant to hold 2 MB reached 22 MB.
        """
        merged = self._try_merge()
        if not merged:
            with self.lock:
                merged = self._try_merge()
        self._next_merge = time.monotonic() + (0.0 if merged else 0.1)
        self._measure()

    def _try_merge(self) -> bool:
        connection = self.connection
        try:
            connection.execute("PRAGMA busy_timeout=0")
            return not connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.OperationalError:
            return False  # locked, or a full disk: the log keeps everything until there is room
        finally:
            connection.execute(f"PRAGMA busy_timeout={int(LOCK_WAIT * 1000)}")

    # -- size

    def is_full(self, coming: int, runs: int = 0) -> bool:
        """True when ``coming`` more bytes might carry file and log over the limit while they are merged.

        ``runs``: with so many records of runs that may be anywhere in their table.
        """
        return self._size.is_full(coming + self._index.size, self._index.spans, self._runs + runs)

    def needs_next(self, coming: int, runs: int = 0) -> bool:
        """True when ``coming`` more bytes belong in another file: this one is full, also once its log is merged.

        One that has nothing yet never is: another would have no more room.
        """
        if self.is_full(coming, runs):
            self.merge_log()
        return self.is_full(coming, runs) and (self.next_seq != self._first_seq or self._has_runs)

    def _measure(self) -> None:
        """Between transactions."""
        self._size.measure(self.path, self.connection)
        self._runs = 0

    def _numbers(self) -> list[tuple[str, int]]:
        return [("next_seq", self.next_seq), ("last_id", self.last_id)]


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")
