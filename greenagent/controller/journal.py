"""Where jobs, results, queues and tokens are written before anything is acknowledged.

In memory there is nothing to write; with ``--state`` it is one small sqlite file.
"""

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from greenagent.controller.jobs import AgentKey, Assignment, Job
from greenagent.runtime.database import NativeDatabase
from greenagent.runtime.files import FileLock
from greenagent.values.errors import GreenagentError

Statement = tuple[str, tuple[Any, ...]]

SCHEMA: Final = (
    """CREATE TABLE IF NOT EXISTS jobs (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, command TEXT NOT NULL,
    created REAL NOT NULL, wait_until REAL NOT NULL, finished REAL NOT NULL, adopted INTEGER NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS assignments (job INTEGER NOT NULL, number INTEGER NOT NULL, gid INTEGER, nid INTEGER,
    floating INTEGER NOT NULL, state TEXT NOT NULL, token TEXT NOT NULL, deliveries INTEGER NOT NULL,
    delivered REAL NOT NULL, received INTEGER NOT NULL, PRIMARY KEY (job, number)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS results (job INTEGER NOT NULL, number INTEGER NOT NULL, serial INTEGER NOT NULL,
    body TEXT NOT NULL, PRIMARY KEY (job, number, serial)) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS scripts (hash TEXT PRIMARY KEY, content TEXT NOT NULL, stored REAL NOT NULL)",
)

_UNOWNED_ASSIGNMENTS: Final = "FROM assignments WHERE job NOT IN (SELECT seq FROM jobs)"
_UNOWNED_RESULTS: Final = (
    "FROM results WHERE job NOT IN (SELECT seq FROM jobs)"
    " OR NOT EXISTS (SELECT 1 FROM assignments WHERE job = results.job AND number = results.number)"
)
UNOWNED: Final = f"SELECT 1 {_UNOWNED_ASSIGNMENTS} UNION ALL SELECT 1 {_UNOWNED_RESULTS} LIMIT 1"
"""A row if there are any that no job owns: its result came while the job was removed."""
UNOWNED_REMOVAL: Final[tuple[Statement, ...]] = (
    (f"DELETE {_UNOWNED_ASSIGNMENTS}", ()),
    (f"DELETE {_UNOWNED_RESULTS}", ()),
)


class StateError(GreenagentError):
    """The state file cannot be opened or written."""


class Journal:
    """Keeps nothing: the controller in memory."""

    def write(self, statements: Iterable[Statement]) -> None:
        """Returns once all of it is safe, or raises StateError and nothing of it is."""

    def read(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query. Raises StateError."""
        return []

    def close(self) -> None:
        """Ends cleanly."""


class FileJournal(Journal):
    """The state file: what is written survives kill -9."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file. Raises StateError."""
        self._path = path
        try:
            target = path.resolve()  # a link to it is the same file to sqlite, so it must be to the lock
            if target.exists() and not target.is_file():
                raise OSError(errno.EINVAL, "give the name of a file, this is a folder or a device")
        except (OSError, RuntimeError) as error:
            raise StateError(f"cannot use the state file {path}: {_reason(error)}") from error
        self._lock = FileLock(target.with_name(target.name + ".lock"), f"the state file {path}")
        self._database = NativeDatabase(target, SCHEMA)
        try:
            self._lock.acquire()
            self._database.start()
        except (sqlite3.Error, OSError, UnicodeError) as error:
            self._lock.release()
            raise StateError(f"cannot use the state file {path}: {_reason(error)}") from error

    def write(self, statements: Iterable[Statement]) -> None:
        try:
            self._database.run(lambda connection: [connection.execute(*statement) for statement in statements])
        except sqlite3.Error as error:
            raise StateError(f"cannot write the state file {self._path}: {_reason(error)}") from error

    def read(self, query: str) -> list[tuple[Any, ...]]:
        try:
            return self._database.run(lambda connection: connection.execute(query).fetchall())
        except sqlite3.Error as error:
            raise StateError(f"cannot read the state file {self._path}: {_reason(error)}") from error

    def close(self) -> None:
        self._database.stop()
        self._lock.release()


def _reason(error: Exception) -> str:
    """What is wrong, and what to do where sqlite says no more than that the file is damaged."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, UnicodeError):
        return "its name is not UTF-8"
    if type(error) is sqlite3.DatabaseError or "malformed" in str(error):
        return f"{error}: move it away, or put a copy in its place, and start again"
    return str(error)


def job_row(job: Job) -> Statement:
    """Stamps in the state file are the wall clock's: the steady one ends with the process."""
    command = json.dumps(job.command)
    return (
        "INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?)",
        (job.seq, job.id, command, job.created, job.stamp(job.wait_until), job.stamp(job.finished), job.adopted),
    )


def finished_row(job: Job, finished: float) -> Statement:
    return ("UPDATE jobs SET finished = ? WHERE seq = ?", (job.stamp(finished), job.seq))


def patience_row(job: Job, wait_until: float) -> Statement:
    return ("UPDATE jobs SET wait_until = ? WHERE seq = ?", (job.stamp(wait_until), job.seq))


def assignment_row(assignment: Assignment) -> Statement:
    """The row of a new assignment."""
    agent = assignment.agent
    return (
        "INSERT OR REPLACE INTO assignments VALUES (?, ?, ?, ?, ?, ?, '', 0, 0, 0)",
        (
            assignment.job.seq,
            assignment.number,
            agent.gid if agent else None,
            agent.nid if agent else None,
            assignment.floating,
            assignment.state,
        ),
    )


def moved_row(
    assignment: Assignment, agent: AgentKey | None, state: str, token: str, deliveries: int, delivered: float
) -> Statement:
    """An assignment that is handed out or comes back.

    Its result may have been written a moment before, by another greenlet: an end is never undone.
    """
    return (
        "UPDATE assignments SET gid = ?, nid = ?, state = ?, token = ?, deliveries = ?, delivered = ?"
        " WHERE job = ? AND number = ? AND state IN ('QUEUED', 'RUNNING')",
        (
            agent.gid if agent else None,
            agent.nid if agent else None,
            state,
            token,
            deliveries,
            assignment.job.stamp(delivered),
            assignment.job.seq,
            assignment.number,
        ),
    )


def acknowledged_row(assignment: Assignment) -> Statement:
    """The agent has the command in its ledger."""
    return (
        "UPDATE assignments SET token = '' WHERE job = ? AND number = ?",
        (assignment.job.seq, assignment.number),
    )


def answered_row(assignment: Assignment, state: str, count: int) -> Statement:
    """What a result makes of its assignment."""
    agent = assignment.agent
    return (
        "UPDATE assignments SET gid = coalesce(?, gid), nid = coalesce(?, nid), state = ?, token = '', received = ?"
        " WHERE job = ? AND number = ?",
        (
            agent.gid if agent else None,
            agent.nid if agent else None,
            state,
            count,
            assignment.job.seq,
            assignment.number,
        ),
    )


def result_rows(assignment: Assignment, result: dict[str, Any], keep: int) -> list[Statement]:
    """A new result, and the removal of those no longer kept."""
    serial = assignment.count + 1
    place = (assignment.job.seq, assignment.number)
    return [
        ("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)", (*place, serial, json.dumps(result))),
        ("DELETE FROM results WHERE job = ? AND number = ? AND serial <= ?", (*place, serial - keep)),
    ]


def removal_rows(job: Job) -> list[Statement]:
    return [
        ("DELETE FROM results WHERE job = ?", (job.seq,)),
        ("DELETE FROM assignments WHERE job = ?", (job.seq,)),
        ("DELETE FROM jobs WHERE seq = ?", (job.seq,)),
    ]
