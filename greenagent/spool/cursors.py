"""Upload cursors: how far each controller has got in the log databases, kept in the spool.

The log store gets a ``CursorTable`` handed in and knows no more of the spool than its three methods.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from greenagent.runtime.agent_log import AgentLog
from greenagent.spool.overlay import SpoolDatabase
from greenagent.values.errors import GreenagentError

CursorRow = tuple[str, int, int, float | None]
"""Name of the pair ``logger/controller``, its bit, the last seq its controller has, when it left the configuration."""
_SELECT: Final = "SELECT name, bit, seq, removed FROM cursor ORDER BY bit"

LOOK_TIMEOUT: Final = 1.0
"""Seconds to wait for a lock on the file of 0.1 before a replacement."""
FLOOR: Final = ""
"""The row without a name is no cursor: its seq is above all that were in use when it was last stored."""


class CursorTable:
    """The cursors in the spool. Everything is for the hub; nothing here raises for a full or locked disk."""

    def __init__(self, database: SpoolDatabase, agent_log: AgentLog) -> None:
        self._database = database
        self._agent_log = agent_log

    def load(self, uploads: Path) -> tuple[list[CursorRow], int]:
        """All cursors, and the floor: a seq above all that were in use when it was last stored.

        ``uploads``: the file ``uploads.sqlite`` in which version 0.1 kept them. It is read if the spool
        has none yet, and removed at the next start, when they are certainly in the spool's file. Raises
        GreenagentError where it is not damaged and cannot be read now: what waits is not given up for that.
        """
        rows = self._database.run(lambda connection: connection.execute(_SELECT).fetchall())
        floor = sum(seq for name, _, seq, _ in rows if name == FLOOR)
        rows = [row for row in rows if row[0] != FLOOR]
        if rows or floor:
            for suffix in ("", "-wal", "-shm"):
                uploads.with_name(uploads.name + suffix).unlink(missing_ok=True)
        elif uploads.exists():
            try:
                rows, floor = _read_uploads(uploads)
            except sqlite3.Error as error:
                if not _is_damage(error):
                    raise GreenagentError(f"{uploads} cannot be read: {error}") from error
                self._agent_log.error(
                    f"{uploads} cannot be read ({error}): lines that were sent already may be sent again"
                )
            else:
                self.replace(rows, floor)
        return rows, floor

    def replace(self, rows: Iterable[CursorRow], floor: int) -> None:
        """Makes these the cursors; returns once that is stored."""
        stored = [*rows, (FLOOR, 0, floor, None)]

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM cursor")
            connection.executemany("INSERT INTO cursor (name, bit, seq, removed) VALUES (?, ?, ?, ?)", stored)

        self._database.run(write)

    def advance(self, name: str, seq: int, floor: int) -> None:
        """A controller has everything up to ``seq``: stored soon, without waiting.

        A crash before that costs a repetition.
        """
        statement, values = "UPDATE cursor SET seq = ? WHERE name = ?", [(seq, name), (floor, FLOOR)]
        self._database.submit_later(lambda connection: connection.executemany(statement, values))


def uploads_problem(uploads: Path) -> str | None:
    """Why the file in which version 0.1 kept the cursors cannot be taken over just now; None where it can."""
    try:
        if uploads.exists():
            _read_uploads(uploads, LOOK_TIMEOUT)
    except sqlite3.Error as error:
        return None if _is_damage(error) else f"{uploads} cannot be read: {error}"
    return None


def _is_damage(error: sqlite3.Error) -> bool:
    """Else it may be readable later."""
    return type(error) is sqlite3.DatabaseError or "no such table" in str(error)


def _read_uploads(path: Path, timeout: float = 5) -> tuple[list[CursorRow], int]:
    """The cursors of 0.1, and a seq above all that were in use. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=timeout)
    try:
        rows = connection.execute("SELECT name, bit, cursor, removed FROM pair ORDER BY bit").fetchall()
        floor = connection.execute("SELECT value FROM meta WHERE key = 'floor'").fetchone()
        return rows, int(floor[0]) if floor else 0
    finally:
        connection.close()
