"""Upload pairs: which bit marks the lines of an AC logger and a controller, and how far that controller has got.

The cursors are kept outside of this room, since they must survive every log database; a crash between a batch and its
cursor costs a repetition, never a line. Each database tells in its meta table which bit stands for which pair, and the
cursor as the file was begun: where the cursors are lost, lines go out again instead of silently not at all.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from greenagent.runtime.clock import monotonic_epoch
from greenagent.values.errors import GreenagentError
from greenagent.values.message import MAX_PAIRS

REMOVED_MEMORY: Final = 7 * 86400.0
"""Seconds for which the cursor of a pair that left the configuration is kept."""
MARK: Final = "pair "
"""Begins the key of a pair in the meta table of a log database: ``pair BIT NAME``."""


def pair_name(logger: str, controller: str) -> str:
    """What an AC logger together with one of its controllers is called.

    Both may have a ``/`` in their names. Escaped in the logger's, the first one divides: no two pairs share a name,
    and so a cursor. The names are stored with the cursors: written otherwise, a pair begins at the end of the log.
    """
    return f"{logger.replace('%', '%25').replace('/', '%2F')}/{controller}"


def split_pair_name(pair: str) -> tuple[str, str]:
    """The names of the AC logger and the controller."""
    logger, _, controller = pair.partition("/")
    return logger.replace("%2F", "/").replace("%25", "%"), controller


CursorRow = tuple[str, int, int, float | None]
"""Name of the pair ``logger/controller``, its bit, the last seq its controller has, when it left the configuration."""


class CursorStore(Protocol):
    """Where cursors are kept. On the hub; nothing here raises for a full or locked disk."""

    def load(self, uploads: Path) -> tuple[Sequence[CursorRow], int]:
        """All cursors, and a seq above all that were in use; ``uploads`` is where version 0.1 kept them."""
        ...

    def replace(self, rows: Iterable[CursorRow], floor: int) -> None:
        """Makes these the cursors; returns once that is stored."""
        ...

    def advance(self, name: str, seq: int, floor: int) -> None:
        """A controller has everything up to ``seq``: stored soon, without waiting."""
        ...


@dataclass(slots=True)
class Cursor:
    """One pair: its controller has everything up to ``seq``; the last line that is marked for it is ``last_marked``."""

    name: str
    bit: int
    seq: int
    removed: float | None = None
    last_marked: int = sys.maxsize
    """``sys.maxsize`` while it is not known: until the pairs are registered, every file may hold lines that wait."""

    def needs(self, last_seq: int) -> bool:
        """True when lines up to ``last_seq`` may hold some that it has not delivered."""
        return self.removed is None and self.seq < min(last_seq, self.last_marked)

    def would_miss(self, first_seq: int, last_seq: int) -> bool:
        """True when it left the configuration and these lines may hold some that it lacks if it returns.

        Unlike ``needs`` this asks where they begin: its cursor stands still, and must not keep what came later.
        """
        return self.removed is not None and self.seq < last_seq and first_seq <= self.last_marked


class Cursors:
    """All pairs, by their bits. In the writer's thread."""

    def __init__(self) -> None:
        self.by_bit: dict[int, Cursor] = {}

    def load(self, rows: Iterable[CursorRow], meta: Mapping[str, int]) -> None:
        """Takes the cursors from where they are kept, and those that only the newest database's meta table knows.

        What that says of a bit holds: it has marked the lines.
        """
        kept = {name: Cursor(name, bit, seq, removed) for name, bit, seq, removed in rows}
        for key, seq in meta.items():
            if key.startswith(MARK):
                bit_text, name = key.removeprefix(MARK).split(" ", 1)
                known = kept.pop(name, None)
                removed = known.removed if known is not None else monotonic_epoch()
                if known is not None and known.bit == int(bit_text):
                    seq = max(seq, known.seq)
                self.by_bit[int(bit_text)] = Cursor(name, int(bit_text), seq, removed)
        for cursor in kept.values():
            self.by_bit.setdefault(cursor.bit, cursor)
        for cursor in self._old():
            cursor.removed = monotonic_epoch()  # by a clock that may just be ahead: that alone takes no lines

    def rows(self) -> list[CursorRow]:
        """For ``CursorStore.replace``."""
        return [(cursor.name, cursor.bit, cursor.seq, cursor.removed) for cursor in self.by_bit.values()]

    def meta(self) -> list[tuple[str, int]]:
        """For the meta table of a log database."""
        return [(f"{MARK}{cursor.bit} {cursor.name}", cursor.seq) for cursor in self.by_bit.values()]

    def register(self, names: Sequence[str], end: int) -> list[Cursor]:
        """Makes ``names`` the pairs in force; a new one begins at ``end`` (the newest seq).

        Raises GreenagentError, and then nothing has changed.
        """
        known = {cursor.name: cursor for cursor in self.by_bit.values()}
        for name in names:
            old = known.get("/".join(split_pair_name(name)))  # what 0.1 called it, without escapes
            if name not in known and old is not None and old.removed is None and old.name not in names:
                known[name] = known.pop(old.name)
                old.name = name
        free = [1 << n for n in range(MAX_PAIRS) if 1 << n not in self.by_bit]
        new = [name for name in dict.fromkeys(names) if name not in known]
        if len(new) > len(free):
            raise GreenagentError(f"more than {MAX_PAIRS} pairs of AC logger and controller")
        for cursor in known.values():
            cursor.removed = None if cursor.name in names else cursor.removed or monotonic_epoch()
        for name, bit in zip(new, free, strict=False):
            known[name] = self.by_bit[bit] = Cursor(name, bit, end, last_marked=0)
        return [known[name] for name in names]

    def drop_old(self) -> list[Cursor]:
        """Takes out the pairs that left the configuration long ago, and returns them."""
        old = self._old()
        for cursor in old:
            del self.by_bit[cursor.bit]
        return old

    def _old(self) -> list[Cursor]:
        oldest = monotonic_epoch() - REMOVED_MEMORY
        return [cursor for cursor in self.by_bit.values() if cursor.removed is not None and cursor.removed < oldest]

    def marked(self, bit: int, last_seq: int) -> None:
        """The line ``last_seq`` is the newest that carries this mark: a later one would never be delivered."""
        if bit in self.by_bit:
            self.by_bit[bit].last_marked = last_seq

    def advance(self, bit: int, seq: int) -> None:
        """The pair's controller has everything up to ``seq``."""
        if bit in self.by_bit:
            self.by_bit[bit].seq = max(self.by_bit[bit].seq, seq)

    def catch_up(self, end: int) -> None:
        """Carries the cursors of pairs for which nothing waits to the end, so that no start reads all again."""
        for cursor in self.by_bit.values():
            if cursor.removed is None and cursor.seq >= cursor.last_marked:
                cursor.seq = max(cursor.seq, end)

    def wanting(self, last_seq: int) -> list[Cursor]:
        """The pairs that may still want lines up to ``last_seq``."""
        return [cursor for cursor in self.by_bit.values() if cursor.needs(last_seq)]

    def removed(self) -> list[Cursor]:
        """The pairs that left the configuration less than 7 days ago, in case they return."""
        return [cursor for cursor in self.by_bit.values() if cursor.removed is not None]

    def delivered(self, end: int) -> int:
        """The seq up to which no pair wants anything any more; ``end`` where nothing waits."""
        return min((cursor.seq for cursor in self.wanting(end)), default=end)
