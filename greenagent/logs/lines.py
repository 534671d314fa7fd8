"""What the hub hands to the writer's thread, and how it becomes rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from greenagent.logs.models import LINE_COLUMNS

_CONTROL = re.compile(r"[\x01-\x09\x0b-\x1f]")
LAST_ID: Final = 0xFFFFFFFF
MIXED: Final = 0
"""Instead of the level of a block whose texts carry it: ``LEVEL::text``. No message has level 0."""


class Owner(NamedTuple):
    """Whose lines they are: the columns that all lines of a job share."""

    jobid: str
    domain: str
    name: str


class Lines:
    """Messages of one job that take one way: either a block of one level, or (level, text) each.

    ``text`` is a block's lines, each with its newline, or "" when ``rows`` holds them.
    ``first_id`` is the id of the first; ``size`` is in bytes of UTF-8. ``missing`` is not 0 in a note
    that so many other lines of the job were lost.
    """

    __slots__ = (
        "count",
        "epoch",
        "first_id",
        "flush",
        "keep",
        "level",
        "marks",
        "missing",
        "owner",
        "rows",
        "size",
        "text",
    )

    def __init__(
        self,
        owner: Owner,
        epoch: float,
        keep: bool,
        marks: int,
        flush: float,
        first_id: int,
        level: int,
        text: str,
        rows: Sequence[tuple[int, str]],
        count: int,
        size: int,
        missing: int = 0,
    ) -> None:
        self.owner = owner
        self.epoch = epoch
        self.keep = keep
        self.marks = marks
        self.flush = flush
        self.first_id = first_id
        self.level = level
        self.text = text
        self.rows = rows
        self.count = count
        self.size = size
        self.missing = missing

    @property
    def stored_size(self) -> int:
        """A little more than the bytes that these lines will take in the file, the index included."""
        jobid, domain, name = self.owner
        return self.size + self.count * (2 * len(jobid) + len(domain) + len(name) + 48)

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
            yield Lines(
                self.owner,
                self.epoch,
                self.keep,
                self.marks,
                self.flush,
                (self.first_id + start) & LAST_ID,
                self.level,
                "\n".join(texts[start:end]) + "\n" if texts else "",
                self.rows[start:end],
                count,
                size,
                self.missing,
            )
            start, size = end, 0


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
    """The rows of some lines, in the order of the table's columns: the slow way."""
    owner, epoch, marks, first_id = lines.owner, lines.epoch, lines.marks, lines.first_id
    if lines.rows:
        each = lines.rows
    elif lines.level == MIXED:
        parted = (line.partition("::") for line in lines.text.split("\n")[:-1])
        each = [(int(level), text) for level, _, text in parted]
    else:
        each = [(lines.level, text) for text in lines.text.split("\n")[:-1]]
    return [
        ((first_id + offset) & LAST_ID, *owner, epoch, level, text, marks, first_seq + offset)
        for offset, (level, text) in enumerate(each)
    ]


assert LINE_COLUMNS == ("id", "jobid", "domain", "name", "epoch", "level", "data", "marks", "seq")
