"""``del_msgs``: removing matching lines, but none that a controller still waits for.

See design, section 5 "Messages and logs".

Runs in the writer's thread, one slice per call, so that lines go on being written in between.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from greenagent.logs.folder import connect, is_damage
from greenagent.logs.read.query import LogQuery, ask, order_column
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
                    connection.text_factory = bytes  # whatever another program has put there
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
        found = [record.seq for record in ask(connection, self._query, SLICE, after_seq=self._place)]
        if not found:
            return False
        waiting = [one for one in writer.cursors.by_bit.values() if one.removed is None] if key == "seq" else []
        unless_waiting = "".join(" AND NOT (marks & ? AND seq > ?)" for _ in waiting)
        values = [number for cursor in waiting for number in (cursor.bit, cursor.seq)]
        connection.execute("BEGIN IMMEDIATE")
        try:
            deleted = connection.executemany(
                f"DELETE FROM logs WHERE {key} = ?{unless_waiting}", [(row, *values) for row in found]
            ).rowcount
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self.deleted += deleted
        self.kept += len(found) - deleted
        self._place = found[-1]
        return True
