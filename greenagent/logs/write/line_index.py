"""What is written beside lines, so that those of a job are found, and all are counted, without reading them.

In the writer's thread.
"""

from __future__ import annotations

import sqlite3

from greenagent.logs.lines import Lines
from greenagent.logs.schema import PUT_SPAN
from greenagent.logs.write.totals import Totals


class LineIndex:
    """The tables ``spans`` and ``totals`` of one database."""

    def __init__(self, transaction_limit: int) -> None:
        """``transaction_limit`` in bytes."""
        self._totals = Totals(transaction_limit)
        self._spans: list[list[str | int]] = []

    @property
    def spans(self) -> int:
        """Rows of that table that this transaction writes."""
        return len(self._spans)

    @property
    def size(self) -> int:
        """Bytes that are still to be written to that table, in this transaction or a later one."""
        return self._totals.size

    def load(self, connection: sqlite3.Connection) -> None:
        """Goes on with a database. Raises sqlite3.Error."""
        self._spans = []
        self._totals.load(connection)

    def stop_totals(self) -> None:
        """Another program has written lines."""
        self._totals.stop()

    def add(self, lines: Lines, first: int) -> None:
        """These go into table ``logs``, in this transaction; ``first`` is the seq of the first."""
        last = first + lines.count - 1
        span = self._spans[-1] if self._spans else None
        if span is not None and span[0] == lines.owner.jobid and span[2] == first - 1:
            span[2] = last
        else:
            self._spans.append([lines.owner.jobid, first, last])
        self._totals.add(lines)

    def begin(self, connection: sqlite3.Connection) -> None:
        """A transaction is begun. Raises sqlite3.Error."""
        self._totals.begin(connection)

    def write(self, connection: sqlite3.Connection, last_seq: int) -> None:
        """At the end of a transaction; ``last_seq`` is that of its last line. Raises sqlite3.Error."""
        connection.executemany(PUT_SPAN, self._spans)
        self._totals.write(connection, last_seq)

    def committed(self) -> None:
        """The transaction is."""
        self._spans = self._spans[-1:]  # the last one may grow

    def undo(self) -> None:
        """The transaction is rolled back."""
        self._spans = []
        self._totals.undo()

    def finish(self, connection: sqlite3.Connection, last_seq: int) -> None:
        """Before the database is closed; ``last_seq`` is that of its last line."""
        self._totals.finish(connection, last_seq)
