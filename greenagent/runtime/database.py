"""One sqlite file, written by one native thread, commits shared by all that waits.

sqlite blocks the hub, and a commit each for thousands of short jobs would cost more than the
jobs: callers hand over a function, it runs in the thread inside one transaction with everything
else that waits, and they go on after the commit (design, section 3).
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from gevent.event import AsyncResult

from greenagent.runtime.blocked import BlockedTime
from greenagent.runtime.checkpoints import Checkpoints
from greenagent.runtime.files import FileId, file_id, new_beside, set_aside
from greenagent.runtime.native import NativeWorker, native_sleep
from greenagent.runtime.plain_files import UnfitFileError, not_a_file
from greenagent.runtime.transactions import Begin, begin_immediate, check, roll_back, wait_for_locks

T = TypeVar("T")
Function = Callable[[Any], Any]
"""Of a connection."""

LOCK_TIMEOUT = 1.0
"""Seconds to wait for another program's write lock. After one such wait, writes fail at once until it lets go."""
SLOW: Final = 0.01
"""Seconds: a commit that waits longer sends the next ones to the thread. Half of it may be for the interpreter."""
SLOW_FOR: Final = 1.0
"""Seconds for which they stay there, from the last one that was slow."""

BEGINS: Final = {"": b"SQLite format 3\0", "-wal": b"\x37\x7f\x06", "-shm": b""}
"""The files of a database by the end of their names, and how each begins while it is open.

Without the last two no other program sees what was written lately, nor its locks.
"""


def unfit_part(path: Path) -> str:
    """Which file of a database is something else, such as a folder, in words; "" for none. Raises OSError."""
    for suffix in BEGINS:
        part = path.with_name(path.name + suffix)
        if part.exists() and (what := not_a_file(part.stat())):
            return f"{f'{part.name} beside it' if suffix else 'it'} {what}, not a file"
    return ""


class Outcome(NamedTuple):
    """What a function returned, or what it raised."""

    answer: Any
    error: BaseException | None = None


class NativeDatabase:
    """A small sqlite database behind its own native thread."""

    def __init__(self, path: Path, schema: Sequence[str]) -> None:
        """``schema``: statements that create what is missing, each harmless when repeated."""
        self.path = path
        self._schema = tuple(schema)
        self._connection: sqlite3.Connection | None = None
        self._checkpoints: Checkpoints | None = None
        self._worker: NativeWorker[tuple[Function, AsyncResult]] | None = None
        self._patience = LOCK_TIMEOUT
        self._blocked = BlockedTime()
        self._is_slow_until = 0.0
        self._is_closing = False
        self._to_make_again: AsyncResult | None = None
        self._must_open = False
        """It was closed to be made again, and could not be opened since."""
        self._held: dict[str, FileId | None] = {}
        self._looks: dict[str, int] = {}
        """A descriptor of each file for ``is_intact``, kept as long as the connection: to close any descriptor of a
        file drops all locks that sqlite has on it in this process, and the next program that closes the database would
        take itself for the last one and remove its log."""

    def start(self) -> None:
        """Opens the file, creating it 0640. Raises sqlite3.Error or OSError."""
        if unfit := unfit_part(self.path):
            raise UnfitFileError(errno.EINVAL, unfit, str(self.path))
        self.path.touch(mode=0o640)
        self._is_closing = False
        self._worker = NativeWorker(f"database {self.path.name}", self._handle)
        try:
            self.run(lambda _: self._open())
        except BaseException:
            self._worker.stop()
            self._worker = self._connection = None
            raise

    def file(self, suffix: str) -> Path:
        """One of its files (see ``BEGINS``)."""
        return self.path.with_name(self.path.name + suffix)

    def held(self, suffix: str) -> FileId | None:
        """Which file is open as that; None before the start."""
        return self._held.get(suffix)

    def is_intact(self, suffix: str) -> bool:
        """False when the open file was overwritten; for any native thread."""
        begins = BEGINS[suffix]
        try:
            return suffix not in self._looks or os.pread(self._looks[suffix], len(begins), 0) == begins
        except (KeyError, OSError):
            return True  # it is just being closed, or cannot be told

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

    def run_at_once(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """As ``run``, for what takes a fraction of a millisecond: on the hub, as long as the thread has nothing to do.

        Waking the thread, and the hub again, takes more time than such a transaction. A commit need not reach the disk
        (``synchronous=NORMAL``); where it waits all the same, the thread has the next ones.
        """
        earlier = None if time.monotonic() < self._is_slow_until or self._must_use_thread() else self._started.take()
        if earlier is None:
            return self.run(function)
        left = earlier
        try:
            assert self._connection is not None
            outcomes = self._transact(self._connection, [*(one for one, _ in earlier), function], begin_immediate)
            left = []
        except sqlite3.DatabaseError:
            outcomes = []  # another program's lock, a full disk: the thread knows what to do
        finally:
            self._started.give_back(left)
        if not outcomes:
            return self.run(function)
        for (_, result), outcome in zip(earlier, outcomes, strict=False):
            _tell(result, outcome)
        if (error := outcomes[-1].error) is not None:
            raise error
        answer: T = outcomes[-1].answer
        return answer

    def _must_use_thread(self) -> bool:
        return self._connection is None or self._checkpoints is None or self._checkpoints.is_large

    def _commit(self, connection: sqlite3.Connection) -> None:
        self._blocked.start()
        connection.execute("COMMIT")
        if self._blocked.seconds(SLOW) > SLOW:
            self._is_slow_until = time.monotonic() + SLOW_FOR

    def submit(self, function: Function) -> AsyncResult:
        """As ``run``, without waiting."""
        result = AsyncResult()
        self._started.put_now((function, result))
        return result

    def submit_later(self, function: Function, seconds: float = 0.05) -> AsyncResult:
        """Runs ``function`` in its turn, in a transaction with what comes next: at the latest in ``seconds``.

        For what must be written soon but nobody waits for: a thread woken and a commit less. An error
        undoes only this function's changes.
        """
        result = AsyncResult()
        self._started.put_later((function, result), seconds)
        return result

    def stop(self) -> None:
        """Finishes what waits and closes the file, its log merged."""
        if self._worker is not None:
            # The last of all functions: those in its batch are told whether their common commit succeeded.
            self.submit(lambda _: setattr(self, "_is_closing", True))
            self._worker.stop()
            self._worker = None

    def make_again(self) -> bool:
        """Puts what is open in its place again, after the file was removed, replaced or emptied.

        True when nothing is lost; False when what it held is, and only what lay in memory is in the new file.
        Another file found in its place is renamed. Raises sqlite3.Error or OSError.
        """
        result = AsyncResult()
        self.submit(lambda _: setattr(self, "_to_make_again", result))
        return bool(result.get())

    @property
    def _started(self) -> NativeWorker[Any]:
        if self._worker is None:
            raise RuntimeError("the database is not started")
        return self._worker

    # -- in the thread

    def _open(self) -> None:
        connection = sqlite3.connect(str(self.path), isolation_level=None, timeout=5, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA wal_autocheckpoint=0")
            for statement in self._schema:
                connection.execute(statement)
            check(connection)
            self._held = {suffix: file_id(self.file(suffix)) for suffix in BEGINS}
            for suffix, begins in BEGINS.items():
                if begins and self._held[suffix] is not None:
                    self._looks[suffix] = os.open(self.file(suffix), os.O_RDONLY | os.O_CLOEXEC)
            self._checkpoints = Checkpoints(self.path, lambda: self.is_intact("-wal"))
        except BaseException:
            connection.close()
            self._end_looks()
            raise
        wait_for_locks(connection, 0)  # ``_begin`` does, in the thread
        self._connection = connection
        self._must_open = False

    def _make_again(self) -> bool:
        """Not in a transaction: sqlite copies a whole database only so."""
        assert self._connection is not None
        with new_beside(self.path) as copy:
            is_whole = self._copy(self._connection, copy)
            os.chmod(copy, 0o640)
            if file_id(self.path) not in (None, self.held("")):
                set_aside(self.path, "found")
            beside = [self.file(suffix) for suffix in ("-wal", "-shm")]
            for part in beside:
                if part.is_dir():  # before anything is closed: it cannot be removed as a file can
                    set_aside(part, "found")
            self._close()
            self._must_open = True
            for part in beside:  # of the file that is gone: it would be taken for the new one's
                part.unlink(missing_ok=True)
            os.replace(copy, self.path)
        self._open()
        return is_whole

    def _copy(self, connection: sqlite3.Connection, copy: Path) -> bool:
        """All that is in the open file, whatever became of its name; False if it cannot be read: then a new one."""
        try:
            connection.execute("VACUUM INTO ?", (str(copy),))
            with closing(sqlite3.connect(copy)) as copied:
                check(copied)
            return True
        except sqlite3.DatabaseError as error:
            is_damaged = "malformed" in str(error) or "not a database" in str(error) or self._is_log_emptied()
            if not is_damaged:
                raise  # a full disk, say: what is open is whole, and is copied once there is room
            copy.unlink(missing_ok=True)
            with closing(sqlite3.connect(copy, isolation_level=None)) as made:
                for statement in self._schema:
                    made.execute(statement)
            return False

    def _is_log_emptied(self) -> bool:
        """Then sqlite reads nothing where it wrote, and takes that for an error of the disk."""
        log = self.file("-wal")
        return file_id(log) == self.held("-wal") and not log.stat().st_size

    def _close(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.close()
            self._checkpoints = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._end_looks()
            self._blocked.close()

    def _end_looks(self) -> None:
        """After the connection: before, it would lose its locks."""
        while self._looks:
            os.close(self._looks.popitem()[1])

    def _handle(self, batch: list[tuple[Function, AsyncResult]]) -> None:
        assert self._worker is not None
        functions = [function for function, _ in batch]
        try:
            if self._must_open:
                self._open()
            # Without a connection it is ``start`` that runs ``_open``, and nobody else is there.
            outcomes = [Outcome(functions[0](None))] if self._connection is None else self._execute(functions)
        except BaseException as error:
            outcomes = [Outcome(None, error)] * len(functions)
        if self._to_make_again is not None:
            asked, self._to_make_again = self._to_make_again, None
            try:
                made = Outcome(self._make_again())
            except BaseException as error:
                made = Outcome(None, error)
            self._worker.post(lambda: _tell(asked, made))
        if self._is_closing:
            self._close()
        elif self._checkpoints is not None and self._checkpoints.is_large and self._connection is not None:
            self._checkpoints.restart(self._connection)
        for (_, result), outcome in zip(batch, outcomes, strict=True):
            self._worker.post(lambda result=result, outcome=outcome: _tell(result, outcome))  # type: ignore[misc]

    def _execute(self, functions: Sequence[Function]) -> list[Outcome]:
        """Runs the functions in one transaction; raises what makes all of it fail, with nothing of it done."""
        assert self._connection is not None
        return self._transact(self._connection, functions)

    def _transact(
        self,
        connection: sqlite3.Connection,
        functions: Sequence[Function],
        begin: Begin | None = None,
    ) -> list[Outcome]:
        (begin or self._begin)(connection)
        try:
            if len(functions) == 1:  # no savepoint: its transaction is all there is to undo
                outcomes = [Outcome(functions[0](connection))]
            else:
                outcomes = [self._in_savepoint(connection, function) for function in functions]
            self._before_commit(connection)
            self._commit(connection)
        except BaseException:
            roll_back(connection)
            raise
        if self._checkpoints is not None:
            self._checkpoints.is_due()
        return outcomes

    def _before_commit(self, connection: sqlite3.Connection) -> None:
        """The last thing in each transaction; what it raises undoes all of it."""

    def _begin(self, connection: sqlite3.Connection) -> None:
        """While somebody else writes to the file, reading goes on and writing fails at once."""
        try:
            self._begin_to_write(connection)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            self._patience = 0.0
            connection.execute("BEGIN")
        else:
            self._patience = LOCK_TIMEOUT

    def _begin_to_write(self, connection: sqlite3.Connection) -> None:
        """Waits for another program's lock as long as there is patience. Raises sqlite3.OperationalError."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                begin_immediate(connection)
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() >= deadline:
                    raise
                native_sleep(0.01)
            else:
                return

    def _in_savepoint(self, connection: sqlite3.Connection, function: Function) -> Outcome:
        connection.execute("SAVEPOINT task")
        try:
            outcome = Outcome(function(connection))
        except BaseException as error:
            if not connection.in_transaction or self._fails_all(error):
                raise
            connection.execute("ROLLBACK TO task")
            outcome = Outcome(None, error)
        connection.execute("RELEASE task")
        return outcome

    def _fails_all(self, error: BaseException) -> bool:
        """Whether what one function raised undoes the whole transaction."""
        return False


def _tell(result: AsyncResult, outcome: Outcome) -> None:
    if outcome.error is None:
        result.set(outcome.answer)
    else:
        result.set_exception(outcome.error)
