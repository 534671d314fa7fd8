"""What version 0.1 kept elsewhere: statistics in tables of their own, upload cursors in ``uploads.sqlite``."""

from __future__ import annotations

import json
import sqlite3
from itertools import count
from pathlib import Path

from greenagent.runtime.database import transaction
from greenagent.spool import statements
from greenagent.spool.records import STATISTICS
from greenagent.spool.statements import STATISTICS_JOB

CursorRow = tuple[str, int, int, float | None]
"""Name of the pair ``logger/controller``, its bit, the last seq its controller has, when it left the configuration."""


def take_over_statistics(connection: sqlite3.Connection) -> None:
    """Puts statistics that wait in the tables of 0.1 into the outbox, and drops the tables. Raises sqlite3.Error."""
    tables = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('stats_backlog', 'stats_waiting')"
    if connection.execute(tables).fetchone()[0] != 2:
        return
    with transaction(connection):
        rows = count(statements.last_row(connection) + 1)
        for stamp, prefix, points, controller in connection.execute(
            "SELECT stamp, prefix, points, controller FROM stats_waiting JOIN stats_backlog USING (row) ORDER BY row"
        ).fetchall():
            # A number that JSON does not know cannot be sent.
            found = json.loads(points, parse_constant=lambda name: None)
            series = [[prefix + key, value] for key, value, _ in found]
            body = json.dumps([{"timestamp": stamp, "series": series}], separators=(",", ":"))
            statements.put(connection, next(rows), STATISTICS_JOB, "", controller, STATISTICS, "", body)
        connection.execute("DROP TABLE stats_waiting")
        connection.execute("DROP TABLE stats_backlog")


def read_uploads(path: Path) -> tuple[list[CursorRow], int]:
    """The cursors of 0.1, and a seq above all that were in use. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=5)
    try:
        rows = connection.execute("SELECT name, bit, cursor, removed FROM pair ORDER BY bit").fetchall()
        floor = connection.execute("SELECT value FROM meta WHERE key = 'floor'").fetchone()
        return rows, int(floor[0]) if floor else 0
    finally:
        connection.close()
