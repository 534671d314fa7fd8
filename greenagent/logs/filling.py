"""How full the database is that is written now, and what a transaction may still add (``max_db_size``)."""

from __future__ import annotations

import sqlite3
from typing import Final

from greenagent.logs.database_file import PAGE_SIZE
from greenagent.logs.lines import byte_size
from greenagent.logs.models import SPAN_BYTES

_FRAME: Final = PAGE_SIZE + 24
"""Bytes of a page in the write-ahead log."""
_TOUCHED: Final = 8
"""Pages that a transaction changes beside those it adds, at most: the last ones of tables, their parents, the first."""
_SPAN: Final = 24
"""Bytes of an entry in the table of spans, beside the job's id."""
_FRESH_PAGES: Final = 6
_FRESH_LOG: Final = 4 * _FRAME
"""What a file has that holds the schema and next to nothing."""


class Filling:
    """Pages are those of the database once its log is merged; ``log_bytes`` what that log has on disk."""

    def __init__(self, max_size: int) -> None:
        """``max_size`` in bytes."""
        self._max_size = max_size
        self.log_bytes = 0
        self._pages = 0
        self._pages_before = 0
        self._span_bytes = 0
        self._new_spans = 0
        self._new_span_bytes = 0

    def opened(self, connection: sqlite3.Connection) -> None:
        """Another file is written now. Raises sqlite3.Error."""
        self._new_spans = self._new_span_bytes = 0
        self._span_bytes = int(connection.execute(SPAN_BYTES, (_SPAN,)).fetchone()[0])

    def measure(self, connection: sqlite3.Connection, log_bytes: int) -> None:
        """Between transactions."""
        self.log_bytes = log_bytes
        self._pages = self._pages_before = self._page_count(connection)

    def grew(self, connection: sqlite3.Connection) -> None:
        """Within a transaction, after lines were inserted."""
        self._pages = self._page_count(connection)

    def add_span(self, jobid: str) -> None:
        """The transaction will put one more entry into the table of spans."""
        self._new_spans += 1
        self._new_span_bytes += _SPAN + byte_size(jobid)

    def committed(self) -> None:
        """The transaction is over; ``measure`` follows."""
        self._span_bytes += self._new_span_bytes
        self._new_spans = self._new_span_bytes = 0

    def undone(self) -> None:
        """Nothing of the transaction stays."""
        self._new_spans = self._new_span_bytes = 0
        self._pages = self._pages_before

    def is_full(self, coming: int) -> bool:
        """True when ``coming`` more bytes might carry file and log over the limit while they are merged.

        The file then has all its pages while the log still has what it had, and what this transaction wrote.
        """
        added = 2 * coming // PAGE_SIZE + 1  # rows of just over half a page fill only half of each
        # Every new span may split a page of its table, as many as that has.
        split = min(self._new_spans, (self._span_bytes + self._new_span_bytes) * 2 // PAGE_SIZE + 2)
        added += split
        written = self._pages - self._pages_before + added + 2 * split + _TOUCHED
        return (self._pages + added) * PAGE_SIZE + self.log_bytes + written * _FRAME > self._max_size

    @property
    def is_fresh(self) -> bool:
        """True when another file would have no more room."""
        return self._pages <= _FRESH_PAGES and self.log_bytes <= _FRESH_LOG

    def _page_count(self, connection: sqlite3.Connection) -> int:
        try:
            count: int = connection.execute("PRAGMA page_count").fetchone()[0]
        except sqlite3.Error:
            return self._pages  # asked after a commit as well, which this must not call in question
        return count
