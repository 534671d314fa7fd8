"""The ledger's file, and what is to be written to it while it takes nothing (design, section 5 "Uploads")."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import gevent
from gevent.event import Event

from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.clock import monotonic_epoch
from greenagent.runtime.database import NativeDatabase
from greenagent.runtime.files import FileLock
from greenagent.spool import statements
from greenagent.spool.cursors import CursorTable
from greenagent.spool.journal import Journal
from greenagent.spool.models import SCHEMA
from greenagent.values.errors import GreenagentError

MAX_RESULT_BYTES: Final = 256 * 1024 * 1024
MAX_ASIDE_BYTES: Final = 64 * 1024 * 1024
LAST_TRIES: Final = 2.0
"""Seconds at the agent's end for what could not be written before."""

Answer = TypeVar("Answer")


class SpoolFile:
    """Opens and closes the file; writes at once, or later, but always in order."""

    def __init__(
        self, path: Path, agent_log: AgentLog, *, result_memory: float, extra_schema: Iterable[str] = ()
    ) -> None:
        """``result_memory``: seconds for which an ended job's results are kept."""
        self.path = path
        self.instance = ""
        self.result_memory = result_memory
        self._agent_log = agent_log
        self._trouble = agent_log.on_change()
        self._lock = FileLock(path.with_name(path.name + ".lock"), f"the ledger {path}")
        self._schema = (*SCHEMA, *extra_schema)
        self.database = NativeDatabase(path, self._schema)
        self._journal = Journal(MAX_RESULT_BYTES, MAX_ASIDE_BYTES)
        self._is_writing = False
        self._in_trouble = Event()
        self._arrivals: dict[str, Event] = {}
        self._next_memory_job = -time.monotonic_ns()  # never one that an image replaced in place gave

    def start(self) -> None:
        """Takes the lock and opens the file; a damaged one is set aside, said once. Raises GreenagentError."""
        try:
            self._lock.acquire()
        except OSError as error:
            raise GreenagentError(f"main.ledger_file: cannot use {self.path}: {error.strerror}") from error
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise

    def _open(self) -> None:
        try:
            self.database.start()
            self.instance = self.database.run(statements.instance)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and "malformed" not in str(error):
                raise GreenagentError(f"main.ledger_file: cannot open {self.path}: {error}") from error
            self.database.stop()
            aside = self.path.with_name(f"{self.path.name}.damaged-{int(time.time())}")
            for suffix in ("", "-wal", "-shm"):
                part = self.path.with_name(self.path.name + suffix)
                if part.exists():
                    part.rename(aside.with_name(aside.name + suffix))
            self._agent_log.error(
                f"the ledger {self.path} is damaged ({error}): set aside as {aside.name}, starting anew"
            )
            self.database = NativeDatabase(self.path, self._schema)
            self.database.start()
            self.instance = self.database.run(statements.instance)
        except OSError as error:
            raise GreenagentError(f"main.ledger_file: cannot open {self.path}: {error.strerror}") from error

    def stop(self) -> None:
        """Commits what waits, closes the file and gives the lock back."""
        deadline = time.monotonic() + LAST_TRIES
        while not self._write_journal() and time.monotonic() < deadline:
            gevent.sleep(0.1)
        if len(self._journal):
            lost = sum(self._journal.waiting().values())
            self._agent_log.error(
                f"what happened since the ledger could not be written is lost, {lost} results with it"
            )
        self.database.stop()
        self._lock.release()

    @property
    def cursors(self) -> CursorTable:
        """How far each controller has got in the log databases: for the log store."""
        return CursorTable(self.database.run, self.database.submit_later, self._agent_log)

    @property
    def locks(self) -> tuple[FileLock, ...]:
        """What keeps a second agent off, for handing over."""
        return (self._lock,)

    @property
    def is_writable(self) -> bool:
        """False since a transaction was refused, until one goes through and nothing waits (``keep_up`` tries)."""
        return not self._trouble.is_open and not len(self._journal)

    @property
    def problem(self) -> str | None:
        """Why what happens now could not be found again in the file, or None."""
        return None if self.is_writable else f"the ledger {self.path} cannot be written"

    def row_of(self, row: int) -> int:
        """Where a job stands in the file: what ``accept`` returned, or where it was written later."""
        return self._journal.row_of(row)

    def _change(self, row: int, what: str, function: Callable[[sqlite3.Connection, int], object]) -> None:
        """Writes about a job, now or as soon as the file takes it."""
        row = self.row_of(row)
        if self._now(lambda connection: [function(connection, row)]) is None:
            self._journal.change((row, what), row, function)

    def _write_journal(self) -> bool:
        """Writes what waits in memory, the oldest first; True when nothing does any more."""
        if self._is_writing:
            return False
        self._is_writing = True
        try:
            while part := self._journal.part():
                written = self._attempt(partial(self._journal.write, part=part))
                if written is None:
                    return False
                settled = self._journal.written(part, written)
                if settled:
                    self._keep_delivered(settled, monotonic_epoch())
        finally:
            self._is_writing = False
        if self._journal.dropped:
            self._agent_log.error(f"{self._journal.dropped} results lost: the ledger could not be written for too long")
            self._journal.dropped = 0
        return True

    def _now(self, function: Callable[[sqlite3.Connection], Answer]) -> Answer | None:
        """As ``_attempt``, but never before what waits in memory: the order stays."""
        answer = None if len(self._journal) else self._attempt(function)
        if answer is None:
            self._in_trouble.set()
        return answer

    def _attempt(self, function: Callable[[sqlite3.Connection], Answer]) -> Answer | None:
        """Runs a transaction; None when the disk does not take it, which is said once."""
        wrote = False

        def run(connection: sqlite3.Connection) -> Answer:
            nonlocal wrote
            before = connection.total_changes
            answer = function(connection)
            wrote = connection.total_changes != before
            return answer

        try:
            answer = self.database.run(run)
        except sqlite3.Error as error:
            self._trouble.warning(
                f"the ledger {self.path} cannot be written ({error}): jobs go on, results wait in memory"
            )
            return None
        if wrote:  # reading works on a full disk too: it says nothing about writing
            self._trouble.resolved(f"the ledger {self.path} can be written again")
        return answer

    def _keep_delivered(self, rows: Iterable[int], now: float) -> None:
        """Results that were delivered while that could not be written."""
        for row in rows:
            note = partial(_note_delivered, outcome=row, now=now)
            self._journal.change(("settled", row), 0, note)
        self._in_trouble.set()


def _note_delivered(connection: sqlite3.Connection, _: int, outcome: int, now: float) -> None:
    statements.delivered(connection, [outcome], now)
