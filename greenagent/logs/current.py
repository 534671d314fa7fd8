"""``current.db``: opened, written, checkpointed, rotated. Everything here runs in the writer's thread."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from greenagent.logs.database_file import (
    LOCK_WAIT,
    create_database,
    finish_archive,
    inspect,
    is_locked,
    is_no_room,
    stored_numbers,
)
from greenagent.logs.filling import Filling
from greenagent.logs.folder import LogFolder, file_size
from greenagent.logs.gate import ReadGate
from greenagent.logs.lines import LAST_ID, MIXED, Lines, as_rows, block_as_json
from greenagent.logs.models import INSERT_BLOCK, INSERT_ROW, PUT_SPAN, SCHEMA, SET_META
from greenagent.runtime.files import sync_folder
from greenagent.runtime.native import native_sleep

Say = Callable[[str], None]

LOG_LIMIT: Final = 4 << 20
"""Bytes of write-ahead log at which it is merged, between batches: inside one it would stall."""
_NO_LIMIT: Final = 1 << 62
_RENAME_WAIT: Final = 2.0
LEAP: Final = 1 << 40
"""What ``seq`` leaps over when the newest file cannot tell its last one."""


class CurrentDatabase:
    """The database that is written now."""

    def __init__(self, folder: LogFolder, max_size: int, gate: ReadGate, say: Say) -> None:
        self._folder = folder
        """``max_size`` in bytes; 0 for no limit."""
        max_size = max_size or _NO_LIMIT
        self._gate = gate
        self._say = say
        self._connection: sqlite3.Connection | None = None
        self._file_bytes = 0
        self.filling = Filling(max_size)
        self._next_merge = 0.0
        self._inode = 0
        self.transaction_limit = min(LOG_LIMIT, max_size // 16)
        self._log_limit = min(LOG_LIMIT, max_size // 8)
        self._can_json = True
        self._is_new = False
        self._expect_control = False
        self._spans: list[list[str | int]] = []
        self.next_seq = 1
        self.last_id = -1
        """The id of the newest line, -1 before the first."""
        self.unfinished: list[Path] = []
        """Archives that were renamed under a reader: their log is still to be merged."""

    @property
    def connection(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    def open(self, minimum_seq: int) -> None:
        """Opens the file or makes a new one; a damaged, foreign or locked one is taken out of the way.

        ``minimum_seq``: what the cursors know to be used. Raises OSError or sqlite3.Error where no
        database can be made at all.
        """
        self.unfinished += self._folder.complete_renames()
        leap = False
        if self._folder.current.exists():
            try:
                problem = inspect(self._folder.current)
            except sqlite3.OperationalError as error:
                if not is_locked(error):
                    raise
                self.leave_locked()
                leap = True
            else:
                if problem == "other columns":
                    target = self._folder.next_archive()
                    self._folder.rename_with_companions(self._folder.current, target)
                    self._say(f"{self._folder.current} was written by another version: it is now {target.name}")
                elif problem:
                    self.leave_damaged(problem)
                    leap = True
        self._connect()
        next_seq, last_id = stored_numbers(self.connection, self._folder.archives())
        if leap:
            next_seq += LEAP
        self.next_seq = max(self.next_seq, next_seq, minimum_seq + (LEAP if leap else 0))
        if self.last_id < 0:
            self.last_id = last_id
        try:
            self._store_numbers()
        except sqlite3.OperationalError as error:
            # An agent that is replaced on a full disk must go on: lines are counted until there is room.
            if not is_no_room(error):
                raise
            self.rollback(self.next_seq)

    def _connect(self) -> None:
        path = self._folder.current
        self._is_new = not path.exists()
        if self._is_new:
            create_database(path, self._numbers() if self.last_id >= 0 else [])
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
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._spans = []
        self.filling.opened(connection)
        self._inode = os.stat(path).st_ino
        self._measure()

    def begin(self) -> None:
        """Starts a transaction; waits up to LOCK_WAIT for other programs."""
        self.connection.execute("BEGIN IMMEDIATE")

    def insert(self, lines: Lines) -> int:
        """Writes some lines and returns the first ``seq`` they got."""
        first = self.next_seq
        if not (lines.text and self._can_json and self._insert_block(lines, first)):
            self.connection.executemany(INSERT_ROW[lines.keep], as_rows(lines, first))
        self.filling.grew(self.connection)
        self.next_seq = first + lines.count
        self.last_id = (lines.first_id + lines.count - 1) & LAST_ID
        if lines.keep:
            span = self._spans[-1] if self._spans else None
            if span is not None and span[0] == lines.owner.jobid and span[2] == first - 1:
                span[2] = self.next_seq - 1
            else:
                self._spans.append([lines.owner.jobid, first, self.next_seq - 1])
                self.filling.add_span(lines.owner.jobid)
        return first

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
        self.connection.executemany(PUT_SPAN, self._spans)
        self.connection.execute("COMMIT")
        self._spans = self._spans[-1:]  # the last one may grow
        self.filling.committed()
        self._measure()
        if self.filling.log_bytes > self._log_limit and time.monotonic() >= self._next_merge:
            self.merge_log()

    def clean_outgoing(self, seq: int) -> None:
        """Deletes what was only for controllers, up to ``seq``. Raises sqlite3.Error."""
        self.connection.execute('DELETE FROM "outgoing" WHERE "seq" <= ?', (seq,))
        self._measure()

    def rollback(self, next_seq: int) -> None:
        """Undoes the transaction; ``next_seq`` as it was before."""
        self.next_seq = next_seq
        self._spans = []
        self.filling.undone()
        if self._connection is not None and self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                pass  # sqlite has rolled back by itself

    def skip_used(self) -> None:
        """Another program wrote into the file: ``seq`` goes on behind its rows."""
        for table in ("logs", "outgoing"):
            highest = self.connection.execute(f'SELECT max(seq) FROM "{table}"').fetchone()[0]
            self.next_seq = max(self.next_seq, (highest or 0) + 1)

    def is_shrunk(self) -> bool:
        """True when somebody truncated the file: nothing of ours ever makes it smaller."""
        return file_size(self._folder.current) < self._file_bytes

    def is_gone(self) -> bool:
        """True when somebody removed or replaced the file."""
        try:
            return os.stat(self._folder.current).st_ino != self._inode
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def merge_log(self) -> bool:
        """Moves the write-ahead log into the file and empties it, if no reader needs it."""
        merged = self._try_merge()
        if not merged and self._gate.is_used:
            # Our own readers are quick, but with several of them one is always there.
            with self._gate.closed():
                merged = self._try_merge()
        self._next_merge = time.monotonic() + (0.0 if merged else 0.1)
        self._measure()
        return merged

    def _try_merge(self) -> bool:
        connection = self.connection
        try:
            connection.execute("PRAGMA busy_timeout=0")
            return not connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.OperationalError:
            return False  # locked, or a full disk: the log keeps everything until there is room
        finally:
            connection.execute(f"PRAGMA busy_timeout={int(LOCK_WAIT * 1000)}")

    def rotate(self) -> Path:
        """Closes the file under its archive name and starts the next one; returns the archive."""
        target = self._folder.next_archive()
        with self._gate.closed():
            closed = self._close_merged(_RENAME_WAIT)
            if not closed:
                # Somebody else has the file open. Renaming the database alone would lose what is in
                # its log: all three go together, and the old connection goes before a new log can
                # come to stand under its old name.
                self._folder.rename_with_companions(self._folder.current, target)
                self._close_plainly()
                self.unfinished.append(target)
            else:
                os.rename(self._folder.current, target)
            sync_folder(self._folder.path)
            self._connect()
        self._store_numbers()
        return target

    def finish_archives(self) -> None:
        """Merges the logs of archives that were in use when they were renamed."""
        for path in tuple(self.unfinished):
            if finish_archive(path):
                self.unfinished.remove(path)

    def leave_locked(self) -> None:
        """Another program holds the file: it becomes an archive, with its log, as it is."""
        target = self._folder.next_archive()
        with self._gate.closed():
            self._folder.rename_with_companions(self._folder.current, target)
            self._close_plainly()
        self.unfinished.append(target)
        self._say(
            f"{self._folder.current} is locked by another program for {LOCK_WAIT:g} s: "
            f"it is now {target.name}, and logging goes on in a new file"
        )

    def leave_damaged(self, problem: str) -> None:
        """The file cannot be used: it is kept under another name."""
        with self._gate.closed():
            self._close_plainly()
            if self._folder.current.exists():
                target = self._folder.move_aside(self._folder.current)
                self._say(
                    f"{self._folder.current} is damaged ({problem}): it is kept as {target.name}, logging goes on"
                )

    def reopen(self) -> None:
        """A new file after the old one was left; ``seq`` goes on."""
        self._close_plainly()
        self._connect()
        self._store_numbers()

    def close(self) -> None:
        """The clean end: the log merged, and readable for people with read access only."""
        if self._connection is not None and not self._close_merged(_RENAME_WAIT):
            self._close_plainly()

    def _close_merged(self, patience: float) -> bool:
        """Merges the log and closes; False, and still open, while somebody else has the file open."""
        connection = self.connection
        deadline = time.monotonic() + patience
        connection.execute("PRAGMA busy_timeout=0")
        while True:
            try:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                mode = connection.execute("PRAGMA journal_mode=DELETE").fetchone()[0]
                if mode == "delete":
                    self._close_plainly()
                    return True
            except sqlite3.OperationalError:
                pass
            if time.monotonic() >= deadline:
                connection.execute(f"PRAGMA busy_timeout={int(LOCK_WAIT * 1000)}")
                return False
            native_sleep(0.02)

    def _close_plainly(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error:
                pass  # nothing more can be done for it

    def _measure(self) -> None:
        current = self._folder.current
        self._file_bytes = file_size(current)
        self.filling.measure(self.connection, file_size(current.with_name(current.name + "-wal")))

    def _put_numbers(self) -> None:
        self.connection.executemany(SET_META, self._numbers())
        if self._is_new:
            self.connection.execute(SET_META, ("first_seq", self.next_seq))

    def _numbers(self) -> list[tuple[str, int]]:
        return [("next_seq", self.next_seq), ("last_id", self.last_id)]

    def _store_numbers(self) -> None:
        self.begin()
        self._put_numbers()
        self.connection.execute("COMMIT")
        self._is_new = False
