"""Upload pairs and how far each has got: ``uploads.sqlite``, beside the log databases.

It is a file of its own because a cursor spans all of them and must survive their rotation, damage
and removal. A crash between a batch and its cursor costs a repetition, never a line. Everything
here runs in the writer's thread.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from greenagent.logs.models import GET_META, SET_META, UPLOADS_SCHEMA
from greenagent.logs.read.database import is_no_room
from greenagent.values.errors import GreenagentError

MAX_PAIRS: Final = 62
REMOVED_MEMORY: Final = 7 * 86400.0
"""Seconds for which the cursor of a pair that left the configuration is kept."""


class PairState:
    """One pair: its bit, its cursor, and the last line that is marked for it."""

    __slots__ = ("bit", "cursor", "last_marked", "name", "removed")

    def __init__(self, bit: int, name: str, cursor: int, removed: float | None) -> None:
        self.bit = bit
        self.name = name
        self.cursor = cursor
        self.removed = removed
        self.last_marked = 0

    def needs(self, last_seq: int) -> bool:
        """True when lines up to ``last_seq`` may hold some that it has not delivered."""
        return self.removed is None and self.cursor < min(last_seq, self.last_marked)


class UploadTable:
    """All pairs, in memory and in their file."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self._path = path
        self._say = say
        self._connection: sqlite3.Connection | None = None
        self.pairs: dict[int, PairState] = {}
        self._changed = False

    def open(self) -> int:
        """Reads the pairs; returns a seq that is certainly not below any used one when last written."""
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if "locked" in str(error) or not self._path.exists():
                raise
            target = self._path.with_name(f"damaged-{int(time.time())}-{self._path.name}")
            os.rename(self._path, target)
            self._say(
                f"{self._path} is damaged ({error}): it is kept as {target.name}; "
                "what waited for controllers is not sent, new lines are"
            )
            self._open()
        assert self._connection is not None
        for bit, name, cursor, removed in self._connection.execute("SELECT bit, name, cursor, removed FROM pair"):
            self.pairs[bit] = PairState(bit, name, cursor, removed)
        floor = self._connection.execute(GET_META, ("floor",)).fetchone()
        return max([floor[0] if floor else 1, *(pair.cursor + 1 for pair in self.pairs.values())])

    def _open(self) -> None:
        if not self._path.exists():
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640))
        connection = sqlite3.connect(str(self._path), timeout=5, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            for statement in UPLOADS_SCHEMA:
                connection.execute(statement)
            if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("malformed")
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def register(self, names: Sequence[str], end: int) -> dict[str, int]:
        """Makes ``names`` the pairs in force; a new one begins at ``end`` (the newest seq).

        Raises GreenagentError or sqlite3.Error, and then nothing has changed.
        """
        known = {pair.name: pair for pair in self.pairs.values()}
        free = [1 << n for n in range(MAX_PAIRS) if 1 << n not in self.pairs]
        new = [name for name in dict.fromkeys(names) if name not in known]
        if len(new) > len(free):
            raise GreenagentError(f"more than {MAX_PAIRS} pairs of AC logger and controller")
        before = dict(self.pairs), {pair.bit: pair.removed for pair in known.values()}, self._changed
        for pair in known.values():
            pair.removed = None if pair.name in names else pair.removed or time.time()
        for name, bit in zip(new, free, strict=False):
            known[name] = self.pairs[bit] = PairState(bit, name, end, None)
        self._changed = True
        try:
            self.save(end)
        except sqlite3.Error as error:
            if not is_no_room(error):  # where the disk is full, they are in force all the same
                self.pairs, removed, self._changed = before
                for bit, when in removed.items():
                    self.pairs[bit].removed = when
                raise
        return {name: known[name].bit for name in names}

    def drop_old(self) -> list[PairState]:
        """Takes out the pairs that left the configuration long ago, and returns them."""
        now = time.time()
        old = [pair for pair in self.pairs.values() if pair.removed is not None and now - pair.removed > REMOVED_MEMORY]
        for pair in old:
            del self.pairs[pair.bit]
            self._changed = True
        return old

    def marked(self, bit: int, last_seq: int) -> None:
        """The line ``last_seq`` is the newest that carries this mark: a later one would never be delivered."""
        pair = self.pairs.get(bit)
        if pair is not None:
            pair.last_marked = last_seq

    def advance(self, bit: int, seq: int) -> None:
        """The pair's controller has everything up to ``seq``."""
        pair = self.pairs.get(bit)
        if pair is not None and seq > pair.cursor:
            pair.cursor = seq
            self._changed = True

    def catch_up(self, end: int) -> None:
        """Carries the cursors of pairs for which nothing waits to the end, so that no start reads all again."""
        for pair in self.pairs.values():
            if pair.removed is None and pair.cursor >= pair.last_marked and pair.cursor < end:
                pair.cursor = end
                self._changed = True

    def wanting(self, last_seq: int) -> list[PairState]:
        """The pairs that may still want lines up to ``last_seq``."""
        return [pair for pair in self.pairs.values() if pair.needs(last_seq)]

    def delivered(self, end: int) -> int:
        """The seq up to which no pair wants anything any more; ``end`` where nothing waits."""
        waiting = [p.cursor for p in self.pairs.values() if p.removed is None and p.cursor < p.last_marked]
        return min(waiting, default=end)

    def save(self, end: int) -> None:
        """Writes what changed. Raises sqlite3.Error; what is in memory stays in force."""
        if not self._changed or self._connection is None:
            return
        rows = [(pair.bit, pair.name, pair.cursor, pair.removed) for pair in self.pairs.values()]
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute("DELETE FROM pair")
            connection.executemany("INSERT INTO pair (bit, name, cursor, removed) VALUES (?, ?, ?, ?)", rows)
            connection.execute(SET_META, ("floor", end + 1))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._changed = False

    def close(self, end: int) -> None:
        self._changed = True
        try:
            self.save(end)
        finally:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
