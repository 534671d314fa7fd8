"""Lines in sum, by job and by minute, over all log databases. Plain sqlite, no gevent.

Of the databases that have it, table ``totals`` tells the sums of the lines up to a ``seq``. Lines behind that are
counted, and so are all lines where the table cannot answer exactly.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from greenagent.logs.folder import TOTALS_SEQ, LogFolder, Unreadable, read_numbers
from greenagent.logs.read.query import EPOCH, LEVEL, LogQuery, ask_all, conditions, order_column

MINUTE: Final = f"CAST({EPOCH} AS INTEGER) / 60 * 60"
_FROM_LINES: Final = {
    "minute": MINUTE,
    "level": LEVEL,
    "lines": "count(*)",
    "first": f"min({EPOCH})",
    "last": f"max({EPOCH})",
}
_FROM_TOTALS: Final = {
    "minute": "minute",
    "level": "level",
    "lines": "sum(lines)",
    "first": "min(first)",
    "last": "max(last)",
}


class _Question(NamedTuple):
    """What is summed up: ``columns`` with the names above in braces, ``grouping``; ``rows`` of the table tell it."""

    columns: str
    grouping: str
    rows: str


_TEXTS: Final = ", ".join(f"coalesce(CAST({text} AS TEXT), '')" for text in ("jobid", "max(domain)", "max(name)"))
_JOBS: Final = _Question(f"{_TEXTS}, {{lines}}, {{first}}, {{last}}", "GROUP BY jobid", "jobid IS NOT NULL")
_MINUTES: Final = _Question("{minute}, {level}, {lines}", "GROUP BY 1, 2", "minute IS NOT NULL")


def totals_of_jobs(
    folder: LogFolder, query: LogQuery, unreadable: Unreadable
) -> Iterator[tuple[str, str, str, int, float, float]]:
    """Job, domain, name, number of matching lines, epoch of the first and of the last; a job may have several such.

    Newest file first; ``unreadable``: see logs.folder.
    """
    return ask_all(folder, query, lambda connection: _ask(connection, query, _JOBS), unreadable)


def totals_of_minutes(folder: LogFolder, query: LogQuery, unreadable: Unreadable) -> Iterator[tuple[int, int, int]]:
    """Minute (seconds since 1970), level and number of matching lines; a minute may have several such of a level."""
    return ask_all(folder, query, lambda connection: _ask(connection, query, _MINUTES), unreadable)


def has_totals(connection: sqlite3.Connection) -> bool:
    """False while the file has too few lines."""
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'totals'").fetchone() is not None


def _ask(connection: sqlite3.Connection, query: LogQuery, asked: _Question) -> list[tuple[Any, ...]]:
    column = order_column(connection)
    if column is None:
        return []
    told_to = (read_numbers(connection) or {}).get(TOTALS_SEQ) if column == "seq" else None
    told = _told(connection, query, asked) if told_to is not None and has_totals(connection) else None
    where, values = conditions(connection, query)
    if told is not None:
        where.append("seq > ?")
        values.append(told_to)
    return (told or []) + _select(connection, "logs", asked, _FROM_LINES, where, values)


def _told(connection: sqlite3.Connection, query: LogQuery, asked: _Question) -> list[tuple[Any, ...]] | None:
    """What the table answers; None where it cannot."""
    about_jobs = (query.jobid, query.domain, query.name) != (None, None, None)
    if query.text or query.regex or (about_jobs and asked is not _JOBS):
        return None
    where, values = conditions(connection, query._replace(time_from=None, time_to=None))
    start = -float("inf") if query.time_from is None else int(query.time_from)
    end = float("inf") if query.time_to is None else int(query.time_to) + 1
    where += [asked.rows, "first < ?", "last >= ?"]
    values += [end, start]
    partly = " AND ".join([*where, "NOT (first >= ? AND last < ?)"])
    if connection.execute(f"SELECT 1 FROM totals WHERE {partly} LIMIT 1", (*values, start, end)).fetchone():
        return None
    return _select(connection, "totals", asked, _FROM_TOTALS, where, values)


def _select(
    connection: sqlite3.Connection,
    table: str,
    asked: _Question,
    names: dict[str, str],
    where: list[str],
    values: list[Any],
) -> list[tuple[Any, ...]]:
    condition = f"WHERE {' AND '.join(where)}" if where else ""
    statement = f"SELECT {asked.columns.format(**names)} FROM {table} {condition} {asked.grouping}"
    return connection.execute(statement, values).fetchall()
