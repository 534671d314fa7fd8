"""``del_msgs``: removing matching lines, but none that a controller still waits for (design, section 5).

Runs in the writer's thread, one slice per call, so that lines go on being written in between.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from greenagent.logs.database_file import is_damage
from greenagent.logs.query import LogQuery, conditions, may_hold, order_column, spans_of
from greenagent.logs.writer import Writer

SLICE: Final = 1000


class Deletion:
    """One deletion over all files. ``step`` until it is False; then ``deleted`` and ``kept`` tell."""

    def __init__(self, query: LogQuery) -> None:
        self._query = query
        self._files: list[tuple[Path, int]] | None = None
        self._place = -1
        self.deleted = 0
        self.kept = 0

    def step(self, writer: Writer) -> bool:
        """One slice; False when there is no more. Raises sqlite3.Error and GreenagentError."""
        if self._files is None:
            files = [path for path in writer.folder.databases() if may_hold(path, self._query)]
            self._files = [(path, path.stat().st_ino) for path in files]
        if not self._files:
            return False
        path = _under_its_name(writer, *self._files[0])
        if path is None:
            more = False
        elif path == writer.folder.current and writer.database.is_open:
            more = self._slice(writer.database.connection, writer)
        else:
            try:
                with closing(_open(path)) as connection:
                    more = self._slice(connection, writer)
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                more = False
                writer.warn(f"{path} is damaged ({error}): no lines are deleted in it")
        if not more:
            self._files.pop(0)
            self._place = -1
        return bool(self._files)

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
        waiting = [pair for pair in writer.uploads.pairs.values() if pair.removed is None]
        doomed = [(row,) for row, bits in found if not any(bits & p.bit and row > p.cursor for p in waiting)]
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


def _open(path: Path) -> sqlite3.Connection:
    """To write; never makes the file."""
    return sqlite3.connect(path.absolute().as_uri() + "?mode=rw", uri=True, timeout=1, isolation_level=None)


def _under_its_name(writer: Writer, path: Path, inode: int) -> Path | None:
    """Where a file is now: it may have been rotated between two slices. None when it is gone."""
    for candidate in (path, *reversed(writer.folder.archives())):
        try:
            if candidate.stat().st_ino == inode:
                return candidate
        except OSError:
            continue
    return None
