"""The sqlite file of ``--state``: jobs, results, queues, schedules and what else survives kill -9 of the controller."""

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import gevent

from greenagent.runtime.database import NativeDatabase
from greenagent.runtime.files import file_id, refuse_link
from greenagent.runtime.locks import FileLock, lock_of
from greenagent.runtime.state_files import StateFiles
from greenagent.values.errors import GreenagentError

Statement = tuple[str, tuple[Any, ...]]

# The names are those of 0.1, whose files are used as they are: ``floating`` is ``Assignment.unassigned``; ``adopted``
# was 0 in every row of 0.1.
SCHEMA: Final = (
    """CREATE TABLE IF NOT EXISTS jobs (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, command TEXT NOT NULL,
    created REAL NOT NULL, wait_until REAL NOT NULL, finished REAL NOT NULL, adopted INTEGER NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS assignments (job INTEGER NOT NULL, number INTEGER NOT NULL, gid INTEGER, nid INTEGER,
    floating INTEGER NOT NULL, state TEXT NOT NULL, token TEXT NOT NULL, deliveries INTEGER NOT NULL,
    delivered REAL NOT NULL, received INTEGER NOT NULL, PRIMARY KEY (job, number)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS results (job INTEGER NOT NULL, number INTEGER NOT NULL, serial INTEGER NOT NULL,
    body TEXT NOT NULL, PRIMARY KEY (job, number, serial)) WITHOUT ROWID""",
    # Versions before leave its rows behind.
    "CREATE TABLE IF NOT EXISTS away (job INTEGER NOT NULL PRIMARY KEY, agents TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS scripts (hash TEXT PRIMARY KEY, content TEXT NOT NULL, stored REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS schedules (id TEXT PRIMARY KEY, definition TEXT NOT NULL, progress TEXT NOT NULL)",
)


class StateError(GreenagentError):
    """The state file cannot be opened, read or written."""


class ChangedError(StateError):
    """Another process has changed it meanwhile; nothing was written."""


class StateFile:
    """The file; without a path (the controller keeps its state in memory) reading and writing do nothing."""

    def __init__(self, path: Path | None) -> None:
        """Opens or makes the file. Raises StateError."""
        self._path = path
        self.was_empty = False
        """There was a file of no length: what it once held is lost."""
        self._failure: StateError | None = None
        self._database: NativeDatabase | None = None
        if path is None:
            return
        try:
            refuse_link(path, "the state file")
            target = path.resolve()  # in a linked folder it is the same file to sqlite, so it must be to the lock
            if target.exists() and not target.is_file():
                raise OSError(errno.EINVAL, "give the name of a file, this is a folder or a device")
        except GreenagentError as error:
            raise StateError(str(error)) from error
        except (OSError, RuntimeError) as error:
            raise StateError(f"cannot use the state file {path}: {_reason(error)}") from error
        self._target = target
        self._lock = FileLock(lock_of(target), f"the state file {path}")
        self._database = self._open()

    def _open(self) -> NativeDatabase:
        database = NativeDatabase(self._target, SCHEMA)
        try:
            self._lock.acquire()
            self.was_empty = self._target.exists() and not self._target.stat().st_size
            database.start()
            self._file_id = file_id(self._target)
        except (sqlite3.Error, OSError, UnicodeError) as error:
            self._lock.release()
            raise StateError(f"cannot use the state file {self._path}: {_reason(error)}") from error
        return database

    def watch_lock(self, state_files: StateFiles) -> None:
        """A lock that is removed would let a second controller in."""
        if self._path is not None:
            state_files.watch(self._lock.path, "the lock", self._lock.held, self._lock.renew)

    def look(self, rows: Callable[[], Iterable[Statement]]) -> str:
        """Makes the file again where it was removed, of ``rows``: all there is in memory. What is to be said of it.

        Raises StateError while that is not possible; until then nothing can be written.
        """
        if self._path is None:
            return ""
        if self._database is not None:
            try:
                found = file_id(self._target)
            except OSError:
                found = None
            if found == self._file_id:
                return ""
            if found is not None:
                return (
                    f"the state file {self._path} was replaced by another while this controller uses it: stop the"
                    " controller, put the right file in its place, and start it again"
                )
        database, self._database = self._database, None  # what is written meanwhile is in memory, and among the rows
        if database is not None:
            database.stop()
            gevent.sleep(0)
        self._lock.release()
        try:
            for left in (f"{self._target}-wal", f"{self._target}-shm"):
                Path(left).unlink(missing_ok=True)
            database = self._open()
            written = database.submit(_executing(rows()))
            self._database, self._failure = database, None
            written.get()
        except (GreenagentError, sqlite3.Error, OSError) as error:
            self._failure = StateError(f"the state file {self._path} was removed and cannot be made again: {error}")
            raise self._failure from error
        return f"the state file {self._path} was removed while in use: it is made again, with all that is known"

    def write(self, statements: Iterable[Statement]) -> None:
        """Returns once all of it is safe, or raises StateError and nothing of it is. Other greenlets run meanwhile."""
        if self._failure is not None:
            raise self._failure
        if self._database is None:
            return
        execute = _executing(statements)
        try:
            self._database.run(execute)
        except sqlite3.Error as error:
            raise StateError(f"cannot write the state file {self._path}: {_reason(error)}") from error

    def read(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query. Raises StateError."""
        if self._database is None:
            return []
        try:
            return self._database.run(lambda connection: connection.execute(query).fetchall())
        except sqlite3.Error as error:
            raise StateError(f"cannot read the state file {self._path}: {_reason(error)}") from error

    def damaged(self, error: Exception) -> StateError:
        """The error for rows that mean nothing."""
        return StateError(f"the state file {self._path} is damaged ({type(error).__name__}: {error}): {_ADVICE}")

    def close(self) -> None:
        if self._database is not None:
            self._database.stop()
            self._lock.release()


_ADVICE: Final = "move it away, or put a copy in its place, and start again"


def away_row(job: int, agents: Iterable[tuple[int, int]]) -> Statement:
    """The agents that a fan-out left out, each by gid and nid."""
    return ("INSERT OR REPLACE INTO away VALUES (?, ?)", (job, json.dumps(list(agents))))


def _executing(statements: Iterable[Statement]) -> Callable[[sqlite3.Connection], None]:
    """What the database's thread is to do. The statements are made here: it must not look at jobs."""
    batch = list(statements)

    def execute(connection: sqlite3.Connection) -> None:
        for statement in batch:
            connection.execute(*statement)

    return execute


def _reason(error: Exception) -> str:
    """What is wrong, and what to do where sqlite says no more than that the file is damaged."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, UnicodeError):
        return "its name is not UTF-8"
    if type(error) is sqlite3.DatabaseError or "malformed" in str(error):
        return f"{error}: {_ADVICE}"
    return str(error)
