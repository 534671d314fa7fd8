"""The tables of flushed statistics in the shared database, as its native thread works on them (protocol 8.4)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from greenagent.statistics.collector import FlushedObject
from greenagent.statistics.merging import merge
from greenagent.statistics.series import FlushedPoint

SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS stats_backlog ("
    "row INTEGER PRIMARY KEY AUTOINCREMENT, stamp INTEGER NOT NULL, prefix TEXT NOT NULL, "
    "points TEXT NOT NULL, size INTEGER NOT NULL)",
    "CREATE INDEX IF NOT EXISTS stats_backlog_stamp ON stats_backlog (prefix, stamp)",
    "CREATE TABLE IF NOT EXISTS stats_waiting ("
    "controller TEXT NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (controller, row)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS stats_waiting_row ON stats_waiting (row)",
)
"""Statements for the shared database, each harmless when repeated."""

ROW_OVERHEAD: Final = 120
"""Bytes a row takes beside its texts, about."""
_MAX_BYTES = 4 * 1024 * 1024

Row = tuple[int, dict[str, Any]]
"""The number of a row and its object of POST ``stats``."""
Measured = tuple[int, dict[str, int]]
"""The bytes of all that waits, and how many objects each controller waits for."""


class BacklogTable:
    """Rows with the controllers that wait for them. Every function is for the database's thread.

    Objects of equal key and stamp are merged while nobody was given them yet.
    """

    def __init__(self, controllers: Sequence[str], max_bytes: int) -> None:
        self.controllers = tuple(controllers)
        self._max_bytes = max_bytes
        self._given: set[int] = set()

    def adopt(self, connection: sqlite3.Connection) -> tuple[int, int]:
        """Forgets controllers that are not configured; returns the objects that wait and those that went with them."""
        marks = ",".join("?" * len(self.controllers))
        connection.execute(f"DELETE FROM stats_waiting WHERE controller NOT IN ({marks})", self.controllers)
        orphans = connection.execute(
            "DELETE FROM stats_backlog WHERE row NOT IN (SELECT row FROM stats_waiting)"
        ).rowcount
        waiting = connection.execute("SELECT count(*) FROM stats_backlog").fetchone()[0]
        return waiting, orphans

    def measure(self, connection: sqlite3.Connection) -> Measured:
        """What waits."""
        size = connection.execute("SELECT coalesce(sum(size), 0) FROM stats_backlog").fetchone()[0]
        counts = connection.execute("SELECT controller, count(*) FROM stats_waiting GROUP BY controller").fetchall()
        return size, dict(counts)

    def store(self, connection: sqlite3.Connection, objects: list[FlushedObject]) -> tuple[int, Measured]:
        """Adds objects for every controller; returns how many were dropped for lack of room, and what waits."""
        for item in objects:
            self._store_one(connection, item)
        dropped = self._drop_oldest(connection)
        return dropped, self.measure(connection)

    def _store_one(self, connection: sqlite3.Connection, item: FlushedObject) -> None:
        points = item.points
        for row, text in connection.execute(
            "SELECT row, points FROM stats_backlog WHERE prefix = ? AND stamp = ? ORDER BY row DESC",
            (item.prefix, item.stamp),
        ).fetchall():
            if row in self._given or not self._is_wanted_by_all(connection, row):
                continue
            points = merge([FlushedPoint(*point) for point in json.loads(text)], points)
            merged = json.dumps(points, separators=(",", ":"))
            connection.execute(
                "UPDATE stats_backlog SET points = ?, size = ? WHERE row = ?",
                (merged, _size(item.prefix, merged), row),
            )
            return
        text = json.dumps(points, separators=(",", ":"))
        row = connection.execute(
            "INSERT INTO stats_backlog (stamp, prefix, points, size) VALUES (?, ?, ?, ?)",
            (item.stamp, item.prefix, text, _size(item.prefix, text)),
        ).lastrowid
        connection.executemany(
            "INSERT INTO stats_waiting (controller, row) VALUES (?, ?)",
            [(controller, row) for controller in self.controllers],
        )

    def _is_wanted_by_all(self, connection: sqlite3.Connection, row: int) -> bool:
        found = {name for (name,) in connection.execute("SELECT controller FROM stats_waiting WHERE row = ?", (row,))}
        return found.issuperset(self.controllers)

    def _drop_oldest(self, connection: sqlite3.Connection) -> int:
        total = connection.execute("SELECT coalesce(sum(size), 0) FROM stats_backlog").fetchone()[0]
        doomed: list[tuple[int]] = []
        if self._max_bytes and total > self._max_bytes:
            for row, size in connection.execute("SELECT row, size FROM stats_backlog ORDER BY row"):
                doomed.append((row,))
                total -= size
                if total <= self._max_bytes:
                    break
            connection.executemany("DELETE FROM stats_waiting WHERE row = ?", doomed)
            connection.executemany("DELETE FROM stats_backlog WHERE row = ?", doomed)
            self._given.difference_update(row for (row,) in doomed)
        return len(doomed)

    def give(
        self, connection: sqlite3.Connection, controller: str, limit: int, sent: frozenset[int] = frozenset()
    ) -> list[Row]:
        """The oldest objects a controller waits for, but ``sent``; large ones may make it fewer than ``limit``."""
        found: list[Row] = []
        size = 0
        for row, stamp, prefix, text in connection.execute(
            "SELECT row, stamp, prefix, points FROM stats_waiting JOIN stats_backlog USING (row) "
            "WHERE controller = ? ORDER BY row LIMIT ?",
            (controller, limit),
        ):
            if row in sent:
                continue
            size += len(text)
            if found and size > _MAX_BYTES:
                break
            series = [[prefix + key, value] for key, value, _ in json.loads(text)]
            found.append((row, {"timestamp": stamp, "series": series}))
        # Given is as good as sent: an answer may be lost, and then a merged object would count twice.
        self._given.update(row for row, _ in found)
        return found

    def delete(self, connection: sqlite3.Connection, removed: Sequence[tuple[str, list[int]]]) -> Measured:
        """Rows that controllers have; what nobody waits for any more goes."""
        for controller, rows in removed:
            self._delete(connection, controller, rows)
        return self.measure(connection)

    def _delete(self, connection: sqlite3.Connection, controller: str, rows: list[int]) -> None:
        numbers = [(row,) for row in rows]
        connection.executemany(
            "DELETE FROM stats_waiting WHERE controller = ? AND row = ?", [(controller, row) for row in rows]
        )
        connection.executemany(
            "DELETE FROM stats_backlog WHERE row = ?1 AND NOT EXISTS (SELECT 1 FROM stats_waiting WHERE row = ?1)",
            numbers,
        )
        for number in numbers:
            if connection.execute("SELECT 1 FROM stats_backlog WHERE row = ?", number).fetchone() is None:
                self._given.discard(number[0])


def _size(prefix: str, text: str) -> int:
    return len(prefix) + len(text) + ROW_OVERHEAD
