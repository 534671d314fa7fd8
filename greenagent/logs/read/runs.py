"""The records of runs over all log databases. Plain sqlite, no gevent."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from greenagent.logs.folder import LogFolder, Unreadable, reading, refuse_unreadable
from greenagent.logs.runs import RunRecord

_COLUMNS: Final = ", ".join(RunRecord._fields)


def run_records(
    folder: LogFolder,
    unreadable: Unreadable = refuse_unreadable,
    since: float | None = None,
    wanted: Callable[[RunRecord], bool] = lambda record: True,
) -> list[RunRecord]:
    """Those that ``wanted`` takes of the runs that were begun after ``since`` (seconds since 1970), oldest first.

    Raises GreenagentError naming a file that cannot be read, unless ``unreadable`` returns.
    """
    found: dict[int, RunRecord] = {}
    paths = folder.databases(int(since) if since is not None else None)
    for connection in _connections(paths, unreadable):
        for record in _select(connection, "started >= ?", since or 0.0):
            if wanted(record):
                found[record.number] = record  # what a later file has of a run is the newer
            else:
                found.pop(record.number, None)
    return [found[number] for number in sorted(found)]


def runs_of(paths: Iterable[Path], jobid: str, number: int, unreadable: Unreadable) -> list[RunRecord]:
    """The runs of a job from ``number`` on in these databases, oldest first. Errors as for ``run_records``."""
    found: dict[int, RunRecord] = {}
    for connection in _connections(paths, unreadable):
        for record in _select(connection, "number >= ? AND jobid = ?", number, jobid):
            found[record.number] = record
    return [found[number] for number in sorted(found)]


def unended_runs(folder: LogFolder, unreadable: Unreadable = refuse_unreadable) -> list[RunRecord]:
    """The runs of which no file has an end. Errors as for ``run_records``."""
    found: dict[int, RunRecord] = {}
    for connection in _connections(folder.databases(), unreadable):
        for number in list(found):
            if connection.execute("SELECT 1 FROM runs WHERE number = ? AND ended IS NOT NULL", (number,)).fetchone():
                del found[number]
        found.update((record.number, record) for record in _select(connection, "ended IS NULL"))
    return list(found.values())


def last_number(folder: LogFolder, unreadable: Unreadable = refuse_unreadable) -> int:
    """The highest number that a run has; 0 where there is none. Errors as for ``run_records``."""
    for connection in _connections(folder.databases()[::-1], unreadable):
        number: int | None = connection.execute("SELECT max(number) FROM runs").fetchone()[0]
        if number:
            return number
    return 0


def last_moment(connection: sqlite3.Connection) -> float:
    """When something about a run was written last, in seconds since 1970; 0 where the file has none."""
    if not _has_table(connection):
        return 0.0
    return float(connection.execute("SELECT max(coalesce(ended, started)) FROM runs").fetchone()[0] or 0)


def _has_table(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone() is not None


def _connections(paths: Iterable[Path], unreadable: Unreadable) -> Iterator[sqlite3.Connection]:
    """One to each of these databases that has the table, a snapshot of which is read."""
    for path in paths:
        try:
            with reading(path) as connection:
                connection.execute("BEGIN")
                if _has_table(connection):
                    yield connection
        except sqlite3.Error as error:
            if path.exists():
                unreadable(path, error)


def _select(connection: sqlite3.Connection, condition: str, *values: Any) -> Iterator[RunRecord]:
    for row in connection.execute(f"SELECT {_COLUMNS} FROM runs WHERE {condition} ORDER BY number", values):
        yield RunRecord(*row)
