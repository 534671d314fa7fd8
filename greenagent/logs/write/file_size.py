"""How large the database that is written is, reckoned in pages: what it will be once its log is merged."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from greenagent.logs.folder import file_size
from greenagent.logs.write.database_file import PAGE_SIZE

_FRAME: Final = PAGE_SIZE + 24
"""Bytes of a page in the write-ahead log."""
_TOUCHED: Final = 8
"""Pages that a transaction changes beside those it adds, at most: the last ones of tables, their parents, the first."""
RUN_TOUCHES: Final = 2
"""Pages that the record of a run changes wherever it was: one of its table, one of the index."""


class FileSize:
    """Sizes of the file and its log; ``measure`` between transactions, ``count`` inside them."""

    def __init__(self, limit: int) -> None:
        """``limit`` in bytes."""
        self._limit = limit
        self.file_bytes = 0
        self.log_bytes = 0
        self._pages = self._pages_before = 0
        """Pages of the file once its log is merged: now, and when the transaction began."""

    def measure(self, path: Path, connection: sqlite3.Connection) -> None:
        self.file_bytes = file_size(path)
        self.log_bytes = file_size(path.with_name(path.name + "-wal"))
        self.count(connection)
        self._pages_before = self._pages

    def count(self, connection: sqlite3.Connection) -> None:
        """Something was written."""
        try:
            self._pages = connection.execute("PRAGMA page_count").fetchone()[0]
        except sqlite3.Error:
            pass  # asked after a commit as well, which this must not call in question

    def undo(self) -> None:
        """The transaction was rolled back."""
        self._pages = self._pages_before

    def is_full(self, coming: int, spans: int, runs: int) -> bool:
        """True when ``coming`` more bytes might carry file and log over the limit while they are merged.

        The file then has all its pages while the log still has what it had, and what this transaction wrote: ``spans``
        rows of that table, and the records of ``runs`` runs, anywhere in theirs.
        """
        added = 2 * coming // PAGE_SIZE + 1  # rows of just over half a page fill only half of each
        added += spans  # each may split a page of its table
        written = self._pages - self._pages_before + added + 2 * spans + RUN_TOUCHES * runs + _TOUCHED
        return (self._pages + added) * PAGE_SIZE + self.log_bytes + written * _FRAME > self._limit
