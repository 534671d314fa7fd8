"""Brings the ledger of an earlier version into today's form, as it is opened."""

from __future__ import annotations

import json
import sqlite3
from itertools import count

from greenagent.runtime.transactions import transaction
from greenagent.spool.schema import STATISTICS
from greenagent.spool.statements import STATISTICS_JOB, last_row, put


def add_columns(connection: sqlite3.Connection) -> None:
    """Gives a ledger of an earlier version the columns that it lacks."""
    if "due" not in {row[1] for row in connection.execute("PRAGMA table_info(job)")}:
        connection.execute("ALTER TABLE job ADD COLUMN due REAL")


def take_over_statistics(connection: sqlite3.Connection) -> None:
    """Puts statistics that wait in tables of their own, as of 0.1, into the outbox. Raises sqlite3.Error."""
    tables = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('stats_backlog', 'stats_waiting')"
    if connection.execute(tables).fetchone()[0] != 2:
        return
    with transaction(connection):
        rows = count(last_row(connection) + 1)
        for stamp, prefix, points, controller in connection.execute(
            "SELECT stamp, prefix, points, controller FROM stats_waiting JOIN stats_backlog USING (row) ORDER BY row"
        ).fetchall():
            # A number that JSON does not know cannot be sent.
            found = json.loads(points, parse_constant=lambda name: None)
            series = [[prefix + key, value] for key, value, _ in found]
            body = json.dumps([{"timestamp": stamp, "series": series}], separators=(",", ":"))
            put(connection, next(rows), STATISTICS_JOB, "", controller, STATISTICS, "", body)
        connection.execute("DROP TABLE stats_waiting")
        connection.execute("DROP TABLE stats_backlog")
