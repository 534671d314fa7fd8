"""What jobs have begun and not ended, for people: table ``open_lines`` of the newest database. No gevent."""

from __future__ import annotations

import sqlite3

from greenagent.logs.folder import LogFolder, Unreadable, reading, refuse_unreadable
from greenagent.logs.read.query import RECORD, LogQuery, conditions
from greenagent.values.message import Record

StreamKey = tuple[str, int]
"""Job id, and 1 for its stdout or 2 for its stderr."""


def open_lines(
    folder: LogFolder, query: LogQuery, unreadable: Unreadable = refuse_unreadable
) -> dict[StreamKey, Record]:
    """The end of each open text that a query means, by stream; ``seq`` and ``id`` are 0, for they are no lines yet.

    Raises GreenagentError for a bad regular expression, and as ``newest_first`` does.
    """
    paths = folder.databases()
    if not paths:
        return {}
    try:
        with reading(paths[-1]) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'open_lines'").fetchone():
                return {}
            where, values = conditions(connection, query)
            rows = connection.execute(
                f"SELECT stream, 0, {RECORD} FROM (SELECT *, 0 AS id FROM open_lines)"
                + (" WHERE " + " AND ".join(where) if where else "")
                + " ORDER BY epoch, stream",
                values,
            ).fetchall()
    except sqlite3.Error as error:
        if paths[-1].exists():
            unreadable(paths[-1], error)
        return {}
    found: dict[StreamKey, Record] = {}
    for stream, *row in rows:
        record = Record(*row)
        found[record.jobid, stream] = record
    return found
