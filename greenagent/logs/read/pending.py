"""Reading what waits for a controller: marked lines behind a cursor, over all files, in order of ``seq``.

Runs in native threads on read-only connections; no transaction outlives one slice.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, nullcontext
from itertools import islice
from pathlib import Path
from typing import Final

from greenagent.logs.folder import LogFolder
from greenagent.logs.read.database import connect, is_damage, is_locked, read_numbers
from greenagent.logs.write.database import LogDatabase
from greenagent.runtime.native import NativeLock
from greenagent.values.message import Record

_SELECT: Final = (
    'SELECT seq, id, jobid, domain, name, epoch, level, data FROM "{table}" '
    "WHERE seq > ? AND marks & ? ORDER BY seq LIMIT ?"
)


class MarkedReader:
    """Reads slices for upload pairs."""

    def __init__(self, folder: LogFolder, written: LogDatabase, say: Callable[[str], None]) -> None:
        """``written``: the database that changes while we read. ``say`` is called from native threads."""
        self._folder = folder
        self._written = written
        self._say = say
        self._renaming = NativeLock()
        self._last_seqs: dict[str, int] = {}

    def read(self, bit: int, cursor: int, limit: int, max_bytes: int) -> list[Record]:
        """Up to ``limit`` lines marked with ``bit`` behind ``cursor``; fewer when their text passes ``max_bytes``.

        At least one line is returned where there is one. A damaged file that is no longer written is kept under
        another name, and reading goes on in the next. Raises sqlite3.Error.
        """
        found: list[Record] = []
        size = 0
        with closing(self._records(bit, cursor, limit)) as records:
            for record in islice(records, limit):
                size += len(record.data)
                if found and size > max_bytes:
                    break
                found.append(record)
        return found

    def _records(self, bit: int, cursor: int, limit: int) -> Generator[Record, None, None]:
        """Over all files; at most ``limit`` are asked of each."""
        for path in self._folder.databases():
            is_written = path == self._written.path
            try:
                if not is_written and self._last_seq(path) <= cursor:
                    continue
                with self._written.lock if is_written else nullcontext(), closing(connect(path)) as connection:
                    yield from _marked(connection, bit, cursor, limit)
            except sqlite3.DatabaseError as error:
                if is_written or not is_damage(error):
                    raise
                self._leave_damaged(path, error)

    def _last_seq(self, path: Path) -> int:
        """The last seq of a file that is no longer written; 0 for one that is not ours."""
        if path.name not in self._last_seqs:
            try:
                with closing(connect(path)) as connection:
                    numbers = read_numbers(connection)
            except sqlite3.Error as error:
                if is_locked(error) or is_damage(error):
                    raise
                numbers = None
            self._last_seqs[path.name] = numbers["next_seq"] - 1 if numbers is not None else 0
        return self._last_seqs[path.name]

    def _leave_damaged(self, path: Path, error: sqlite3.Error) -> None:
        """Another uploader may have been here first. Raises ``error`` where the file cannot be renamed."""
        with self._renaming:
            if not path.exists():
                return
            try:
                target = self._folder.move_aside(path)
            except OSError:
                raise error from None
            self._say(
                f"{path} is damaged ({error}): it is kept as {target.name}; lines in it are not sent to controllers"
            )


def _marked(connection: sqlite3.Connection, bit: int, cursor: int, limit: int) -> Iterator[Record]:
    """Both tables merged by seq, at most ``limit``."""
    connection.execute("BEGIN")  # one snapshot for both tables
    streams = [
        map(Record._make, connection.execute(_SELECT.format(table=table), (cursor, bit, limit)))
        for table in ("logs", "outgoing")
    ]
    for count, record in enumerate(heapq.merge(*streams, key=lambda record: record.seq)):
        if count >= limit:
            return
        yield record
