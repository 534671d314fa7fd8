"""One sqlite file, written by one native thread, commits shared by all that waits.

sqlite blocks the hub, and a commit each for thousands of short jobs would cost more than the
jobs: callers hand over a function, it runs in the thread inside one transaction with everything
else that waits, and they go on after the commit (design, section 3).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from gevent.event import AsyncResult

from greenagent.runtime.native import NativeWorker

T = TypeVar("T")
Task = tuple[Callable[[sqlite3.Connection], Any], AsyncResult]


LOCK_TIMEOUT = 1.0
"""Seconds to wait for another program's write lock. After one such wait, writes fail at once until it lets go."""


class NativeDatabase:
    """A small sqlite database behind its own native thread."""

    def __init__(self, path: Path, schema: Sequence[str]) -> None:
        """``schema``: statements that create what is missing, each harmless when repeated."""
        self.path = path
        self._schema = tuple(schema)
        self._connection: sqlite3.Connection | None = None
        self._worker: NativeWorker[Task] | None = None
        self._is_locked = False
        self._is_closing = False

    def start(self) -> None:
        """Opens the file, creating it 0640. Raises sqlite3.Error or OSError."""
        self.path.touch(mode=0o640)
        self._is_closing = False
        self._worker = NativeWorker(f"database {self.path.name}", self._handle)
        try:
            self.run(self._open)
        except BaseException:
            self._worker.stop()
            self._worker = None
            raise

    @property
    def thread(self) -> NativeWorker[Any] | None:
        """The thread, for the watchdog; None while the database is not started."""
        return self._worker

    def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Runs ``function(connection)`` in the thread; returns its answer once it is committed.

        What it raises is raised here and only its own changes are undone; an error of the commit
        itself (a full disk) is raised to everybody in it.
        """
        return self.submit(function).get()  # type: ignore[no-any-return]

    def submit(self, function: Callable[[sqlite3.Connection], Any]) -> AsyncResult:
        """As ``run``, without waiting."""
        if self._worker is None:
            raise RuntimeError("the database is not started")
        result = AsyncResult()
        self._worker.put_now((function, result))
        return result

    def submit_later(self, function: Callable[[sqlite3.Connection], Any], seconds: float = 0.05) -> AsyncResult:
        """Runs ``function`` in its turn, in a transaction with what comes next: at the latest in ``seconds``.

        For what must be written soon but nobody waits for: a thread woken and a commit less. An error
        undoes only this function's changes.
        """
        if self._worker is None:
            raise RuntimeError("the database is not started")
        result = AsyncResult()
        self._worker.put_later((function, result), seconds)
        return result

    def stop(self) -> None:
        """Finishes what waits and closes the file, its log merged."""
        if self._worker is not None:
            self._worker.put_now((self._close_after_commit, AsyncResult()))
            self._worker.stop()
            self._worker = None

    def _open(self, _: sqlite3.Connection) -> None:
        connection = sqlite3.connect(str(self.path), isolation_level=None, timeout=5, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            for statement in self._schema:
                connection.execute(statement)
            # Damage is told in the row; the statement itself succeeds.
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError("malformed: " + " ".join(found.split()))
        except BaseException:
            connection.close()
            raise
        _wait_at_most(connection, LOCK_TIMEOUT)
        self._connection = connection

    def _begin(self, connection: sqlite3.Connection) -> None:
        """While somebody else writes to the file, reading goes on and writing fails at once."""
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            if not self._is_locked:
                _wait_at_most(connection, 0)
            self._is_locked = True
            connection.execute("BEGIN")
        else:
            if self._is_locked:
                _wait_at_most(connection, LOCK_TIMEOUT)
            self._is_locked = False

    def _close_after_commit(self, _: sqlite3.Connection) -> None:
        """The last of all tasks: those in its batch are told whether their common commit succeeded."""
        self._is_closing = True

    def _handle(self, batch: list[Task]) -> None:
        assert self._worker is not None
        outcomes: list[tuple[AsyncResult, Any, BaseException | None]] = []
        began = False
        failure: BaseException | None = None
        alone = len(batch) == 1  # then its transaction is all there is to undo
        for function, result in batch:
            try:
                if self._connection is not None and not began:
                    self._begin(self._connection)
                    began = True
                answer = function(self._connection) if alone else self._in_savepoint(function)  # type: ignore[arg-type]
                outcomes.append((result, answer, None))
            except BaseException as error:
                outcomes.append((result, None, error))
                if alone:
                    failure = error
        if began and self._connection is not None:
            failure = self._conclude(self._connection, failure)
        if self._is_closing and self._connection is not None:
            self._connection.close()
            self._connection = None
        for result, answer, raised in outcomes:
            problem = raised or failure
            if problem is None:
                self._worker.post(lambda result=result, answer=answer: result.set(answer))  # type: ignore[misc]
            else:
                self._worker.post(lambda result=result, problem=problem: result.set_exception(problem))  # type: ignore[misc]

    @staticmethod
    def _conclude(connection: sqlite3.Connection, failure: BaseException | None) -> BaseException | None:
        """Commits, or undoes everything after a failure; returns what failed."""
        if failure is None:
            try:
                connection.execute("COMMIT")
                return None
            except BaseException as error:
                failure = error
        try:
            connection.execute("ROLLBACK")
        except sqlite3.Error:
            pass  # sqlite has rolled back by itself
        return failure

    def _in_savepoint(self, function: Callable[[sqlite3.Connection], Any]) -> Any:
        connection = self._connection
        if connection is None:
            return function(connection)  # type: ignore[arg-type]
        connection.execute("SAVEPOINT task")
        try:
            answer = function(connection)
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK TO task")
                connection.execute("RELEASE task")
            raise
        connection.execute("RELEASE task")
        return answer


def _wait_at_most(connection: sqlite3.Connection, seconds: float) -> None:
    """How long statements wait for a lock."""
    connection.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
