"""Upload cursors: how far each controller has got in the log databases, kept in the spool.

The log store gets a ``CursorTable`` handed in and knows no more of the spool than its three methods.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from greenagent.runtime.agent_log import AgentLog
from greenagent.spool.takeover import CursorRow, read_uploads

FLOOR: Final = "cursor floor"


class CursorTable:
    """The cursors in the spool. Everything is for the hub; nothing here raises for a full or locked disk."""

    def __init__(self, run: Callable[..., Any], submit: Callable[..., Any], agent_log: AgentLog) -> None:
        """``run(function)`` and ``submit(function)``: a transaction of the spool, awaited or not."""
        self._run = run
        self._submit = submit
        self._agent_log = agent_log

    def load(self, uploads: Path) -> tuple[list[CursorRow], int]:
        """All cursors, and the floor: a seq above all that were in use when it was last stored.

        ``uploads``: the file ``uploads.sqlite`` in which version 0.1 kept them. It is read if the spool
        has none yet, and removed at the next start, when they are certainly in the spool's file.
        """
        rows, floor = self._run(_read)
        if rows or floor:
            for suffix in ("", "-wal", "-shm"):
                uploads.with_name(uploads.name + suffix).unlink(missing_ok=True)
        elif uploads.exists():
            try:
                rows, floor = read_uploads(uploads)
            except sqlite3.Error as error:
                self._agent_log.error(
                    f"{uploads} cannot be read ({error}): lines that were sent already may be sent again"
                )
            else:
                self.replace(rows, floor)
        return rows, floor

    def replace(self, rows: Iterable[CursorRow], floor: int) -> None:
        """Makes these the cursors; returns once that is stored."""
        stored = list(rows)

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM cursor")
            connection.executemany("INSERT INTO cursor (name, bit, seq, removed) VALUES (?, ?, ?, ?)", stored)
            _set_floor(connection, floor)

        self._run(write)

    def advance(self, name: str, seq: int, floor: int) -> None:
        """A controller has everything up to ``seq``: stored soon, without waiting.

        A crash before that costs a repetition.
        """

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE cursor SET seq = ? WHERE name = ?", (seq, name))
            _set_floor(connection, floor)

        self._submit(write)


def _set_floor(connection: sqlite3.Connection, floor: int) -> None:
    connection.execute("DELETE FROM meta WHERE key = ?", (FLOOR,))
    connection.execute("INSERT INTO meta (key, value) VALUES (?, ?)", (FLOOR, str(floor)))


def _read(connection: sqlite3.Connection) -> tuple[list[CursorRow], int]:
    rows = connection.execute("SELECT name, bit, seq, removed FROM cursor ORDER BY bit").fetchall()
    floor = connection.execute("SELECT value FROM meta WHERE key = ?", (FLOOR,)).fetchone()
    return rows, int(floor[0]) if floor else 0
