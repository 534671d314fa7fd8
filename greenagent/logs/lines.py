"""Messages on their way: what a splitter gives, what the writer's thread gets, and how that becomes rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from greenagent.values import levels
from greenagent.values.message import Message

ALONE: Final = frozenset({levels.CRITICAL, levels.STATISTICS, levels.PROCESS_ANNOUNCEMENT, *levels.RESULTS})
"""Levels that a block never has: the job's output handler must see each of these messages."""
MIXED: Final = 0
"""Instead of the level of a block whose texts carry it: ``LEVEL::text``. No message has level 0."""
LAST_ID: Final = 0xFFFFFFFF

_CONTROL = re.compile(r"[\x01-\x09\x0b-\x1f]")


class Block(NamedTuple):
    """Complete one-line messages of one level, each ended by a newline; ``level`` is never in ``ALONE``."""

    level: int
    text: str
    count: int  # type: ignore[assignment]

    def lines(self) -> list[str]:
        """The messages, one by one."""
        return self.text.split("\n")[:-1]


class Mixed(NamedTuple):
    """Complete one-line messages of several levels, none of them in ``ALONE``: ``LEVEL::text`` and a newline each.

    ``levels``: how many there are of each.
    """

    levels: Mapping[int, int]
    text: str
    count: int  # type: ignore[assignment]

    def messages(self) -> list[Message]:
        """The messages, one by one."""
        return [Message(*levelled) for levelled in _levelled(self.text)]

    def texts_of(self, level: int) -> list[str]:
        """The texts of one level."""
        return re.findall(rf"^0*{level}::(.*)$", self.text[:-1], re.MULTILINE)


Piece = Block | Mixed | Message


class Owner(NamedTuple):
    """Whose lines they are: the columns that all lines of a job share."""

    jobid: str
    domain: str
    name: str


class OpenText(NamedTuple):
    """What a stream has begun and not ended: ``key`` tells it from the next one, ``size`` grows with it (bytes)."""

    key: tuple[bool, int]
    size: int


class OpenLine(NamedTuple):
    """A row of table ``open_lines``: the end of an open text of ``size`` bytes. ``stream``: 1 stdout, 2 stderr."""

    owner: Owner
    stream: int
    epoch: float
    level: int
    data: str
    size: int


@dataclass(slots=True)
class Lines:
    """Messages of one job that take one way: either a block of one level, or (level, text) each.

    ``keep``: they belong in table ``logs``. ``marks``: the bits of the upload pairs that want them. ``flush``: seconds
    within which the job wants them sent, 0 for as configured. ``first_id`` is the id of the first. ``text`` is a
    block's lines, each with its newline, or "" when ``rows`` holds them. ``size`` is in bytes of UTF-8.
    ``tells``: this is the note that so many lines of the job were lost, and no line of the job's own; else 0.
    ``closes``: the streams whose open text is whole with these lines. ``counts``: of a mixed block, how many lines
    there are of each level, where that is known.
    """

    owner: Owner
    epoch: float
    keep: bool
    marks: int
    flush: float
    first_id: int
    level: int
    text: str
    rows: Sequence[tuple[int, str]]
    count: int
    size: int
    tells: int = 0
    closes: tuple[int, ...] = ()
    counts: Mapping[int, int] | None = None

    @property
    def stored_size(self) -> int:
        """A little more than the bytes that these lines will take in the file, the index included."""
        jobid, domain, name = self.owner
        return self.size + self.count * (2 * len(jobid) + len(domain) + len(name) + 48)

    def levelled(self) -> Sequence[tuple[int, str]]:
        """Level and text of each."""
        if self.rows:
            return self.rows
        if self.level == MIXED:
            return _levelled(self.text)
        return [(self.level, text) for text in self.text.split("\n")[:-1]]

    def by_level(self) -> Mapping[int, int]:
        """How many there are of each level."""
        if not self.rows and self.level != MIXED:
            return {self.level: self.count}
        if self.counts is not None:
            return self.counts
        if len(self.rows) == 1:
            return {self.rows[0][0]: 1}
        return Counter([level for level, _ in self.levelled()])

    def parts(self, limit: int) -> Iterator[Lines]:
        """The same lines, cut so that each part's ``stored_size`` is at most ``limit``, or one line."""
        if self.stored_size <= limit or self.count == 1:
            yield self
            return
        texts = self.text.split("\n")[:-1]
        sizes = [byte_size(text) + 1 for text in texts] if texts else [byte_size(text) for _, text in self.rows]
        overhead = (self.stored_size - self.size) // self.count
        start = size = 0
        for end in range(1, self.count + 1):
            size += sizes[end - 1]
            count = end - start
            if end < self.count and size + sizes[end] + (count + 1) * overhead <= limit:
                continue
            yield replace(
                self,
                first_id=(self.first_id + start) & LAST_ID,
                text="\n".join(texts[start:end]) + "\n" if texts else "",
                rows=self.rows[start:end],
                count=count,
                size=size,
                counts=None,
            )
            start, size = end, 0


def _levelled(text: str) -> list[tuple[int, str]]:
    """Level and text of each line of a mixed block."""
    parted = (line.partition("::") for line in text.split("\n")[:-1])
    return [(int(level), rest) for level, _, rest in parted]


def byte_size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def block_as_json(text: str, control: bool = True) -> str | None:
    """A JSON list of a block's lines, or None where json_each would not give them back.

    Everything under 0x20, the quotation mark and the backslash must be escaped: a raw TAB or ESC
    is malformed JSON. A NUL, even escaped, would cut the value (design, section 7). Looking for
    control characters takes longer than all the rest, so ``control`` false leaves them: sqlite
    then refuses the list, or is new enough to take them as they are.
    """
    if "\0" in text:
        return None
    if "\\" in text:
        text = text.replace("\\", "\\\\")
    if '"' in text:
        text = text.replace('"', '\\"')
    if control:
        for character in set(_CONTROL.findall(text)):
            text = text.replace(character, f"\\u{ord(character):04x}")
    return '["' + text[:-1].replace("\n", '","') + '"]'


def as_rows(lines: Lines, first_seq: int) -> list[tuple[object, ...]]:
    """The rows of some lines, in the order of ``schema.LINE_COLUMNS``: the slow way."""
    owner, epoch, marks, first_id = lines.owner, lines.epoch, lines.marks, lines.first_id
    return [
        ((first_id + offset) & LAST_ID, *owner, epoch, level, text, marks, first_seq + offset)
        for offset, (level, text) in enumerate(lines.levelled())
    ]
