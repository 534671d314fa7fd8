"""``del_msgs``: removing matching lines, but none that a controller still waits for (design, section 5).

Runs in the writer's thread, one slice per call, so that lines go on being written in between.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from greenagent.logs.read.database import connect, is_damage
from greenagent.logs.read.query import LogQuery, conditions, order_column, spans_of
from greenagent.logs.write.writer import Writer

SLICE: Final = 1000


class Deletion:
    """One deletion over all files. ``step`` until it is False; then ``deleted`` and ``kept`` tell."""

    def __init__(self, query: LogQuery) -> None:
        self._query = query
        self._paths: list[Path] | None = None
        self._place = -1
        self.deleted = 0
        self.kept = 0

    def step(self, writer: Writer) -> bool:
        """One slice; False when there is no more. Raises sqlite3.Error and GreenagentError."""
        if self._paths is None:
            since = self._query.time_from
            self._paths = writer.folder.databases(int(since) if since is not None else None)
        if not self._paths:
            return False
        path = self._paths[0]
        more = False
        if path == writer.database.path and writer.database.is_open:
            more = self._slice(writer.database.connection, writer)
        elif path.exists():
            try:
                with closing(connect(path, "mode=rw")) as connection:
                    more = self._slice(connection, writer)
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                writer.warn(f"{path} is damaged ({error}): no lines are deleted in it")
        if not more:
            self._paths.pop(0)
            self._place = -1
        return bool(self._paths)

    def _slice(self, connection: sqlite3.Connection, writer: Writer) -> bool:
        key = order_column(connection)
        if key is None:
            return False
        where, values = conditions(connection, self._query)
        spans = spans_of(connection, self._query.jobid, self._place) if self._query.jobid is not None else None
        if spans is not None and key == "seq":
            if not spans:
                return False
            self._place = max(self._place, spans[0][0] - 1)
            where.append("seq <= ?")
            values.append(spans[-1][1])
        where.append(f"{key} > ?")
        values.append(self._place)
        marks = "marks" if key == "seq" else "0"
        found = connection.execute(
            f"SELECT {key}, {marks} FROM logs WHERE {' AND '.join(where)} ORDER BY {key} LIMIT {SLICE}", values
        ).fetchall()
        if not found:
            return False
        waiting = [cursor for cursor in writer.cursors.by_bit.values() if cursor.removed is None]
        doomed = [(row,) for row, bits in found if not any(bits & one.bit and row > one.seq for one in waiting)]
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(f"DELETE FROM logs WHERE {key} = ?", doomed)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self.deleted += len(doomed)
        self.kept += len(found) - len(doomed)
        self._place = found[-1][0]
        return True
