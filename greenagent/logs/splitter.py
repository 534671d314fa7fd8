"""Bytes of a stream in, messages out: the first half of the hot path.

See protocol 3 and design, section 5 "Messages and logs".

Most output is plain lines, and those never become Python objects one by one: a run of lines of one
level leaves as one block of text. Only what a job's output handler must see alone leaves as a
``Message``.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from typing import Any, Final

from greenagent.logs.lines import ALONE, Block, Mixed, OpenText, Piece
from greenagent.values import levels
from greenagent.values.message import Message

MAX_LINE: Final = 1 << 20
MAX_MESSAGE: Final = 16 << 20

_PREFIX = re.compile(rb"([0-9]{1,9})(:::?)")
_LEVELS = re.compile(rb"^([0-9]{1,9})::", re.MULTILINE)
_SPECIAL_LINE = re.compile(
    rb"^(?:(?=[0-9]{1,9}:)0*(?:%s)?(?=::)|[0-9]{1,9}(?=:::))"
    % "|".join(str(level) for level in sorted({*ALONE, levels.EXIT_STATE})).encode(),
    re.MULTILINE,
)
"""A line that must be looked at alone: a level of its own kind, level 0, which is text, or an opener."""
_PLAIN_START = re.compile(rb"^(?![0-9]{1,9}::)(?=[\s\S])", re.MULTILINE)
_SLACK: Final = 16
"""A line without its end is looked at when it is this much over the limit: a prefix and a CR fit in."""


class Splitter:
    """Splits one stream; any way of cutting the bytes into chunks gives the same messages.

    Lines over ``max_line`` bytes are cut into consecutive messages of one level. Multi-line
    messages and results end at ``max_message`` bytes; the rest of them is dropped, counted in
    ``truncated`` and said in a message of level 7 behind it. ``result_truncated`` tells whether
    the latest result was one of them. Level 50 comes out as 2; level 101 comes out as it is and
    is for the job's output handler, never for the store.
    """

    def __init__(self, stream_level: int, max_line: int = MAX_LINE, max_message: int = MAX_MESSAGE) -> None:
        self._level = stream_level
        self._max_line = max_line
        self._max_message = max(max_message, max_line)
        self._tail = bytearray()
        self._continued: int | None = None
        """The level of a cut line of which more comes."""
        self._open: bytearray | None = None
        self._open_level = 0
        self._open_is_line = False
        """The open message is one long line: a newline ends it."""
        self._mid_line = False
        self._open_was_cut = False
        self._open_number = 0
        self.truncated = 0
        self.result_truncated = False
        self.unclosed: int | None = None
        """The level of a multi-line message that the end of the stream has closed, once there was one."""
        self._begun = 0
        """How often a line or a message was begun."""

    def feed(self, chunk: bytes) -> list[Piece]:
        """Takes the next bytes and returns what is complete."""
        pieces: list[Piece] = []
        end = chunk.rfind(b"\n") + 1
        if end:
            if self._tail:
                self._tail += chunk[:end]
                block = bytes(self._tail)
            else:
                block = chunk[:end]
            self._tail = bytearray(chunk[end:])
            self._begun += 1
            self._lines(block, pieces)
        else:
            self._tail += chunk
        while len(self._tail) > self._max_line + _SLACK:
            self._overflow(pieces)
        return pieces

    def finish(self) -> list[Piece]:
        """The end of the stream: what is left is a last line, or a multi-line message as it is."""
        pieces: list[Piece] = []
        if self._tail:
            line = bytes(self._tail)
            self._tail.clear()
            # A CR at the very end is not part of a line end: it must survive the newline added here.
            self._lines(line + (b"\r\n" if line.endswith(b"\r") else b"\n"), pieces)
        elif self._continued is not None:
            self._continued = None
        if self._open is not None:
            self.unclosed = None if self._open_is_line else self._open_level
            self._close_open(pieces)
        return pieces

    def open_text(self) -> OpenText | None:
        """What is begun and not ended, None where nothing is; cheap."""
        if self._open is not None:
            return OpenText((True, self._open_number), len(self._open) + len(self._tail))
        return OpenText((False, self._begun), len(self._tail)) if self._tail else None

    def peek(self, limit: int) -> tuple[int, str]:
        """Level and text of what is open, its last ``limit`` bytes at most, as ``finish`` would give it."""
        tail = bytes(self._tail[-limit - _SLACK :])
        if self._open is not None:
            level = self._open_level
            if not self._open_is_line and not self._mid_line:
                tail = b"" if b":::".startswith(tail[:3]) else b"\n" + tail
            data = bytes(self._open[-limit:]) + tail
            size = len(self._open) + len(tail)
        else:
            match = _PREFIX.match(self._tail) if self._continued is None else None
            level = _meant(int(match.group(1))) if match is not None else 0
            start = 0
            if match is None or level == 0:
                level = self._level if self._continued is None else self._continued
            else:
                start = match.end()
            size = len(self._tail) - start
            data = bytes(self._tail[max(start, len(self._tail) - limit) :])
        if size > limit:  # never begins within a character
            data = data[-limit:]
            data = data[next((at for at in range(min(4, len(data))) if data[at] & 0xC0 != 0x80), 0) :]
        return level, codecs.getincrementaldecoder("utf-8")("backslashreplace").decode(data)

    def state(self) -> dict[str, Any]:
        """What is unfinished between two chunks, for ``restore`` in another process; bytes as latin-1 text."""
        return {
            "tail": self._tail.decode("latin-1"),
            "continued": self._continued,
            "open": None if self._open is None else self._open.decode("latin-1"),
            "flags": [self._open_level, self._open_is_line, self._mid_line, self._open_was_cut],
            "truncated": [self.truncated, self.result_truncated],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where another splitter was."""
        self._tail = bytearray(state["tail"].encode("latin-1"))
        self._continued = state["continued"]
        self._open = None if state["open"] is None else bytearray(state["open"].encode("latin-1"))
        self._open_level, self._open_is_line, self._mid_line, self._open_was_cut = state["flags"]
        self.truncated, self.result_truncated = state["truncated"]

    def _lines(self, block: bytes, pieces: list[Piece]) -> None:
        """Complete lines, the last newline included."""
        if self._open is None and self._continued is None and b"::" not in block:
            self._plain(block, pieces)
            return
        position = 0
        size = len(block)
        while position < size:
            if self._open is not None:
                position = self._inside(block, position, pieces)
                continue
            if self._continued is not None:
                end = block.index(b"\n", position)
                level, self._continued = self._continued, None
                self._text(_without_cr(block[position:end]), level, pieces)
                position = end + 1
                continue
            special = _SPECIAL_LINE.search(block, position)
            start = special.start() if special is not None else size
            if start > position:
                self._ordinary(block[position:start], pieces)
            if special is None:
                return
            match = _PREFIX.match(block, start)
            assert match is not None
            position = self._prefixed(block, match, pieces)

    def _ordinary(self, block: bytes, pieces: list[Piece]) -> None:
        """Lines of which none is special: plain ones, and one-line messages."""
        if b"::" not in block:
            self._plain(block, pieces)
            return
        if self._is_too_long(block):
            for line in block.split(b"\n")[:-1]:
                match = _PREFIX.match(line)
                text = line if match is None else line[match.end() :]
                level = self._level if match is None else int(match.group(1))
                self._text(_without_cr(text), level, pieces)
            return
        if self._uniform(block, pieces):
            return
        prefixes = _LEVELS.findall(block)
        if not prefixes:
            self._plain(block, pieces)
            return
        found: Counter[int] = Counter()
        for prefix, lines in Counter(prefixes).items():
            found[int(prefix)] += lines
        count = block.count(b"\n")
        if len(prefixes) < count:
            block = _PLAIN_START.sub(b"%d::" % self._level, block)
            found[self._level] += count - len(prefixes)
        pieces.append(Mixed(found, _decode(block), count))

    def _uniform(self, block: bytes, pieces: list[Piece]) -> bool:
        """Handles a block in which every line has the same prefix; False when it is not one."""
        match = _PREFIX.match(block)
        if match is None:
            return False
        prefix = b"\n" + match.group()
        count = block.count(b"\n")
        if block.count(prefix) != count - 1:
            return False
        text = block[len(prefix) - 1 :].replace(prefix, b"\n")
        if count == 1:
            pieces.append(Message(int(match.group(1)), _decode(text)[:-1]))
        else:
            pieces.append(Block(int(match.group(1)), _decode(text), count))
        return True

    def _plain(self, block: bytes, pieces: list[Piece]) -> None:
        if self._is_too_long(block):
            for line in block.split(b"\n")[:-1]:
                self._text(_without_cr(line), self._level, pieces)
            return
        pieces.append(Block(self._level, _decode(block), block.count(b"\n")))

    def _is_too_long(self, block: bytes) -> bool:
        """True when a line may be over the limit."""
        return len(block) > self._max_line and any(len(line) > self._max_line for line in block.split(b"\n"))

    def _prefixed(self, block: bytes, match: re.Match[bytes], pieces: list[Piece]) -> int:
        """One line that begins with a level; returns where the next line begins."""
        level = _meant(int(match.group(1)))
        end = block.index(b"\n", match.end())
        rest = _without_cr(block[match.end() : end])
        if level == 0:
            self._text(_without_cr(block[match.start() : end]), self._level, pieces)
        elif len(match.group(2)) == 3:
            self._begin(level, is_line=False)
            self._add(rest)
        elif level in levels.RESULTS:
            self._begin(level, is_line=True)
            self._add(rest)
            self._close_open(pieces)
        else:
            self._text(rest, level, pieces)
        return end + 1

    def _inside(self, block: bytes, position: int, pieces: list[Piece]) -> int:
        """The part of a block that belongs to the open message; returns where it ends."""
        if self._open_is_line or self._mid_line:
            end = block.index(b"\n", position)
            self._add(_without_cr(block[position:end]))
            self._mid_line = False
            if self._open_is_line:
                self._close_open(pieces)
            return end + 1
        closes_at_once = block.startswith(b":::", position)
        stop = position if closes_at_once else block.find(b"\n:::", position) + 1 or len(block)
        if stop > position:
            inner = block[position : stop - 1]
            if inner.endswith(b"\r"):
                inner = inner[:-1]
            self._add(b"\n" + inner.replace(b"\r\n", b"\n"))
        if stop == len(block):
            return stop
        self._close_open(pieces)
        after = stop + 3
        if block.startswith(b"\n", after):
            return after + 1
        if block.startswith(b"\r\n", after):
            return after + 2
        # What is glued to the terminator is a new line.
        match = _PREFIX.match(block, after)
        if match is not None:
            return self._prefixed(block, match, pieces)
        end = block.index(b"\n", after)
        self._text(_without_cr(block[after:end]), self._level, pieces)
        return end + 1

    def _overflow(self, pieces: list[Piece]) -> None:
        """A line that has no end yet and is over the limit: its beginning is dealt with."""
        tail = self._tail
        if self._open is not None:
            if not self._open_is_line and not self._mid_line:
                if tail.startswith(b":::"):
                    self._close_open(pieces)
                    del tail[:3]
                    return
                self._add(b"\n")
                self._mid_line = True
            self._add(bytes(tail[:-1]))  # the last byte stays: it may be the CR of a line end
            del tail[:-1]
            return
        if self._continued is None:
            match = _PREFIX.match(tail)
            level = _meant(int(match.group(1))) if match is not None else 0
            if match is None or level == 0:
                self._continued = self._level
            else:
                multi = len(match.group(2)) == 3
                del tail[: match.end()]
                if multi or level in levels.RESULTS:
                    self._begin(level, is_line=not multi)
                    self._mid_line = multi
                    return
                self._continued = level
            if len(tail) <= self._max_line + 1:
                return
        self._begun += 1
        cut = _boundary(tail, self._max_line)
        pieces.append(Message(self._continued, _decode_line(bytes(tail[:cut]))))
        del tail[:cut]

    def _text(self, text: bytes, level: int, pieces: list[Piece]) -> None:
        """One message without its line end, cut where it is over the limit."""
        while len(text) > self._max_line:
            cut = _boundary(text, self._max_line)
            pieces.append(Message(level, _decode_line(text[:cut])))
            text = text[cut:]
        pieces.append(Message(level, _decode_line(text)))

    def _begin(self, level: int, is_line: bool) -> None:
        self._open = bytearray()
        self._begun += 1
        self._open_number = self._begun
        self._open_level = level
        self._open_is_line = is_line
        self._mid_line = False
        self._open_was_cut = False

    def _add(self, data: bytes) -> None:
        assert self._open is not None
        room = self._max_message - len(self._open)
        if len(data) > room:
            data = data[:room]
            self._open_was_cut = True
        self._open += data

    def _close_open(self, pieces: list[Piece]) -> None:
        assert self._open is not None
        data, self._open = bytes(self._open), None
        self._mid_line = False
        level = self._open_level
        if level in levels.RESULTS:
            self.result_truncated = self._open_was_cut
        if not self._open_was_cut:
            pieces.append(Message(level, _decode_line(data)))
            return
        self.truncated += 1
        pieces.append(Message(level, _decode_line(data[: _boundary(data + b"\x80", len(data))])))
        note = (
            f"the message of level {level} before this line was longer than {self._max_message} bytes: the rest is cut"
        )
        pieces.append(Message(levels.WARNING, note))


def _meant(level: int) -> int:
    """Level 50 is internal to another generation of the original; from a child it is its stderr."""
    return levels.STDERR if level == levels.EXIT_STATE else level


def _without_cr(line: bytes) -> bytes:
    return line[:-1] if line.endswith(b"\r") else line


def _boundary(data: bytes | bytearray, at: int) -> int:
    """The last place up to ``at`` that does not cut a UTF-8 character in two (``at`` if it is none anyway)."""
    cut = at
    while cut > at - 4 and cut > 1 and data[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut if cut > at - 4 and cut > 0 and data[cut] >= 0xC0 else at


def _decode(block: bytes) -> str:
    text = block.decode("utf-8", "backslashreplace")
    return text.replace("\r\n", "\n") if "\r\n" in text else text


def _decode_line(line: bytes) -> str:
    return line.decode("utf-8", "backslashreplace")
