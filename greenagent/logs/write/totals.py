"""The lines of a database in sum, by job and by minute, written beside them: whoever counts need not read them all.

In the writer's thread.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import Any, Final

from greenagent.logs.folder import TOTALS_SEQ, read_numbers
from greenagent.logs.lines import Lines, Owner, byte_size
from greenagent.logs.read.totals import MINUTE, has_totals
from greenagent.logs.schema import COUNT_TOTALS, CREATE_TOTALS, FORGET_TOTALS, MOVE_TOTALS_SEQ, PUT_TOTALS
from greenagent.logs.write.database_file import PAGE_SIZE

MOST_LINES: Final = 20_000
"""Lines that are not in the table yet, about: a reader counts them one by one, and so does a start after a crash."""
FEWEST_LINES: Final = 1_000
"""A file of fewer has no such table: they are counted within a millisecond, and a page may be many of them."""
FREE_ROWS: Final = 2_000
"""Rows that a file may have in any case."""
LINES_FOR_ROW: Final = 8
"""Where each further row stands for fewer lines, as with jobs of a line each, rows would cost more than they bring."""
_MOST_BYTES: Final = 64 << 10
_ROW: Final = 48
"""Bytes of a row beside its texts, at most."""
_TAIL: Final = (
    "SELECT {0}, {1}, level, count(*), min(epoch), max(epoch) FROM logs WHERE seq > ? GROUP BY {0}, {1}, level".format
)
_JOBS: Final = _TAIL("jobid, domain, name", "NULL")
_MINUTES: Final = _TAIL("NULL, NULL, NULL", MINUTE)
_NOBODY: Final = (None, None, None)
_NONE: Final = type(None)
_TYPES: Final = {
    (str, str, str, _NONE, int, int, float, float),
    (_NONE, _NONE, _NONE, int, int, int, float, float),
}
"""Of the rows, unless another program wrote lines."""


class Totals:
    """Keeps the table of one database, a little behind its lines.

    It tells of all lines up to a ``seq`` that the meta table has. That has none in a file of an older version, where
    the table would have had too many rows, and once lines were deleted or changed, which a trigger notices.
    """

    def __init__(self, transaction_limit: int) -> None:
        """``transaction_limit`` in bytes."""
        self._most_bytes = min(_MOST_BYTES, transaction_limit // 4)
        self._told_to: int | None = None
        """The ``seq`` in the meta table; None while the table is not kept."""
        self._rows = self._lines = 0
        """In the table, and how many lines these stand for."""
        self._waiting: dict[tuple[Any, ...], list[Any]] = {}
        """Rows of lines that are not told yet. By owner, None and level, or by None, minute and level: how many, the
        epoch of the first, and of the last."""
        self._waiting_lines = self._waiting_bytes = 0
        self._is_undone = False

    def load(self, connection: sqlite3.Connection) -> None:
        """Goes on with a database, whatever it has. Raises sqlite3.Error."""
        self.stop()
        self._is_undone = False
        told_to = (read_numbers(connection) or {}).get(TOTALS_SEQ)
        if told_to is None:
            return
        try:
            tail = [row for question in (_JOBS, _MINUTES) for row in connection.execute(question, [told_to])]
        except sqlite3.OperationalError as error:
            if "decode" not in str(error):
                raise
            return  # another program has written there
        if not {tuple(map(type, row)) for row in tail} <= _TYPES:
            return  # likewise
        for jobid, domain, name, minute, level, count, first, last in tail:
            owner = Owner(jobid, domain, name) if minute is None else None
            self._put((owner, minute, level), count, first, last)
            self._waiting_lines += count if minute is None else 0
        if has_totals(connection):
            self._rows, self._lines = connection.execute(COUNT_TOTALS).fetchone()
        self._told_to = told_to

    def stop(self) -> None:
        """The table stays as it is: what comes is counted by those who read it."""
        self._told_to = None
        self._rows = self._lines = 0
        self._clear()

    def _clear(self) -> None:
        self._waiting = {}
        self._waiting_lines = self._waiting_bytes = 0

    def add(self, lines: Lines) -> None:
        """These are written to table ``logs``."""
        if self._told_to is not None:
            epoch = lines.epoch
            minute = int(epoch) // 60 * 60
            for level, count in lines.by_level().items():
                self._put((lines.owner, None, level), count, epoch, epoch)
                self._put((None, minute, level), count, epoch, epoch)
            self._waiting_lines += lines.count

    def _put(self, key: tuple[Any, ...], count: int, first: float, last: float) -> None:
        known = self._waiting.get(key)
        if known is None:
            self._waiting[key] = [count, first, last]
            self._waiting_bytes += _ROW + sum(map(byte_size, key[0] or ()))
            return
        known[0] += count
        if last > known[2]:
            known[2] = last
        if first < known[1]:  # somebody has set the clock
            known[1] = first

    @property
    def size(self) -> int:
        """Bytes that are still to be written."""
        if self._rows:
            return self._waiting_bytes
        return self._waiting_bytes + PAGE_SIZE if self._is_worth_it else 0

    @property
    def _is_worth_it(self) -> bool:
        return self._lines + self._waiting_lines >= FEWEST_LINES

    def begin(self, connection: sqlite3.Connection) -> None:
        """A transaction is begun. Raises sqlite3.Error."""
        if self._is_undone:
            self.load(connection)

    def undo(self) -> None:
        """The transaction was rolled back: what the file has is found out when the next one begins."""
        self._is_undone = True

    def write(self, connection: sqlite3.Connection, last_seq: int) -> None:
        """At the end of a transaction: what waits goes into the table once it is much. Raises sqlite3.Error.

        ``last_seq`` is that of the last line.
        """
        if self._waiting_lines >= MOST_LINES or self._waiting_bytes >= self._most_bytes:
            self._move(connection, last_seq)

    def finish(self, connection: sqlite3.Connection, last_seq: int) -> None:
        """Before the file is closed. Where that is not possible it is no harm."""
        if self._waiting and not self._is_undone:
            with suppress(sqlite3.Error), connection:
                connection.execute("BEGIN IMMEDIATE")
                self._move(connection, last_seq)

    def _move(self, connection: sqlite3.Connection, last_seq: int) -> None:
        if not self._is_worth_it:
            return
        rows = self._rows + len(self._waiting)
        lines = self._lines + self._waiting_lines
        if rows > FREE_ROWS + lines // LINES_FOR_ROW:
            connection.execute(FORGET_TOTALS)
            self.stop()
        elif not connection.execute(MOVE_TOTALS_SEQ, (last_seq, self._told_to)).rowcount:
            self.stop()  # lines were deleted
        else:
            connection.execute(CREATE_TOTALS)
            connection.executemany(
                PUT_TOTALS, [(*(owner or _NOBODY), *key, *value) for (owner, *key), value in self._waiting.items()]
            )
            self._told_to, self._rows, self._lines = last_seq, rows, lines
            self._clear()
