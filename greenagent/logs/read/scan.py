"""Reading on and on, oldest first, across rotations: for long listings and for ``--follow``.

No transaction is held between slices. Plain sqlite, no gevent.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from greenagent.logs.folder import LogFolder, Unreadable, inode_of, read_numbers, reading, refuse_unreadable
from greenagent.logs.read.query import LogQuery, ask, order_column
from greenagent.values.message import Record

SLICE: Final = 1000


class Scan:
    """A place in all files of a folder, from which ``advance`` reads on.

    ``seq`` rises over all files of ours, so one number is the place in them, whatever they are
    called by now; files of the original agent have a place each. ``unreadable`` is told of files
    that cannot be read; unless it raises, they are passed over.
    """

    def __init__(
        self,
        folder: LogFolder,
        query: LogQuery,
        unreadable: Unreadable = refuse_unreadable,
        removed: Callable[[int], None] = lambda lines: None,
    ) -> None:
        """``removed`` is told how many lines, of any job and way, went with files before they were read."""
        self._folder = folder
        self._unreadable = unreadable
        self._query = query._replace(limit=0)
        self._since = int(query.time_from) if query.time_from is not None else None
        self._removed = removed
        self._place = 0
        self._reached = 0
        """The seq up to which nothing can be missing; 0 where that is not known."""
        self._foreign: dict[int, int] = {}
        """By inode: a rotation leaves that as it is."""
        self._finished: set[tuple[Path, int]] = set()

    def skip_to_end(self) -> None:
        """Everything stored so far is passed over. Raises GreenagentError."""
        for _ in self._read(to_end=True):
            pass

    def pass_over(self, seq: int) -> None:
        """Lines up to ``seq`` are passed over."""
        self._place = max(self._place, seq)

    def advance(self) -> Iterator[Record]:
        """Yields what has come since, oldest first. Raises GreenagentError for a file that cannot be read."""
        return self._read(to_end=False)

    def _read(self, to_end: bool) -> Iterator[Record]:
        again = True
        while again:
            again = False
            paths = self._folder.databases(self._since)
            inodes = {path: inode_of(path) for path in paths}
            for path, inode in inodes.items():
                if path == self._folder.current and self._folder.databases(self._since) != paths:
                    again = True  # the original agent has renamed it: it must be read before the new one
                    break
                if not inode or (path, inode) in self._finished:
                    continue
                exhausted = False
                while not exhausted and inode_of(path) == inode:
                    records, exhausted = self._slice(path, inode, to_end)
                    yield from records
                if not exhausted:
                    again = True  # renamed or removed meanwhile
                    break
                if path != paths[-1]:  # whoever begins a new file writes no more into the one before
                    self._finished.add((path, inode))
            again = again or self._folder.databases(self._since) != paths
            if not again:  # another file may be given the number of one that is gone
                seen = set(inodes.values())
                self._foreign = {inode: place for inode, place in self._foreign.items() if inode in seen}

    def _slice(self, path: Path, inode: int, to_end: bool) -> tuple[list[Record], bool]:
        """The next lines of one file, and whether these were the last for now."""
        try:
            with reading(path) as connection:
                connection.execute("BEGIN")
                column = order_column(connection)
                if column is None:
                    return [], True
                ours = column == "seq"
                numbers = (read_numbers(connection) if ours else None) or {}
                first, following = numbers.get("first_seq", 0), numbers.get("next_seq", 0)
                place = self._place if ours else self._foreign.get(inode, 0)
                end = connection.execute(f"SELECT max({column}) FROM logs").fetchone()[0] or 0
                wanted = end > place and not to_end
                records = list(ask(connection, self._query, SLICE, after_seq=place)) if wanted else []
        except sqlite3.Error as error:
            if inode_of(path) != inode:
                return [], False
            self._unreadable(path, error)
            self._reached = 0
            return [], True
        if path == self._folder.current and inode_of(path) != inode:
            return [], False  # perhaps the next file was read: what this one held comes before it
        exhausted = len(records) < SLICE
        place = max(place, end) if exhausted else records[-1].seq
        if ours:
            if self._reached and first - 1 > self._reached and not to_end:
                self._removed(first - 1 - self._reached)
            self._reached = max(self._reached, following - 1 if exhausted else place)
            self._place = place
        else:
            self._foreign[inode] = place
        return records, exhausted
