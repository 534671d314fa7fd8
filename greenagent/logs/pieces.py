"""What a splitter gives: single messages, and blocks of many that never become objects one by one."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from greenagent.values import levels
from greenagent.values.message import Message

ALONE: Final = frozenset({levels.CRITICAL, levels.STATISTICS, levels.PROCESS_ANNOUNCEMENT, *levels.RESULTS})
"""Levels that a block never has: the job's output handler must see each of these messages."""


class Block(NamedTuple):
    """Complete one-line messages of one level, each ended by a newline; ``level`` is never in ``ALONE``."""

    level: int
    text: str
    count: int  # type: ignore[assignment]

    def lines(self) -> list[str]:
        """The messages, one by one."""
        return self.text.split("\n")[:-1]


class Mixed(NamedTuple):
    """Complete one-line messages of several levels, none of them in ``ALONE``: ``LEVEL::text`` and a newline each."""

    levels: frozenset[int]
    text: str
    count: int  # type: ignore[assignment]

    def messages(self) -> list[Message]:
        """The messages, one by one."""
        parted = (line.partition("::") for line in self.text.split("\n")[:-1])
        return [Message(int(level), text) for level, _, text in parted]

    def texts_of(self, level: int) -> list[str]:
        """The texts of one level."""
        return re.findall(rf"^0*{level}::(.*)$", self.text[:-1], re.MULTILINE)


Piece = Block | Mixed | Message
