"""What a job prints, as its result needs it (protocol 3.4 and 4.1)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from greenagent.logs.pieces import Block, Mixed, Piece
from greenagent.runtime.greenlets import TimeSlice
from greenagent.values import levels
from greenagent.values.message import Message

STREAM_LINES: Final = 1000
STREAM_BYTES: Final = 1024 * 1024


class Log(Protocol):
    """Where the messages go: the job's log (logs.store.JobLog)."""

    def append(self, pieces: Sequence[Piece]) -> None: ...


class Tail:
    """The last lines of one stream: at most 1000 and at most 1 MiB, however much was printed."""

    def __init__(self, lines: int = STREAM_LINES, size: int = STREAM_BYTES) -> None:
        self._most_lines = lines
        self._most_size = size
        self._parts: deque[tuple[str, int]] = deque()
        self._lines = 0
        self._size = 0

    def add(self, text: str, lines: int) -> None:
        """Adds ``lines`` lines, each ended by a newline."""
        self._parts.append((text, lines))
        self._lines += lines
        self._size += len(text)
        while len(self._parts) > 1:
            first, count = self._parts[0]
            # Whole parts leave only while what stays is still enough.
            if self._lines - count < self._most_lines and self._size - len(first) < self._most_size:
                break
            self._parts.popleft()
            self._lines -= count
            self._size -= len(first)

    def state(self) -> list[list[Any]]:
        """For ``restore`` in another process."""
        return [[text, lines] for text, lines in self._parts]

    def restore(self, state: list[list[Any]]) -> None:
        for text, lines in state:
            self.add(text, lines)

    def text(self) -> str:
        """The tail, each line followed by a newline."""
        if not self._parts:
            return ""
        # A message may hold newlines itself; it counts as one line of the stream all the same.
        lines: list[str] = []
        for text, count in self._parts:
            lines.extend([text[:-1]] if count == 1 else text[:-1].split("\n"))
        lines = lines[-self._most_lines :]
        tail = "\n".join(lines) + "\n"
        encoded = tail.encode("utf-8", "replace")
        if len(encoded) <= self._most_size:
            return tail
        tail = encoded[-self._most_size :].decode("utf-8", "ignore")
        # The first line has lost its beginning; it stays only where it is all there is.
        return tail.partition("\n")[2] or tail


class JobOutput:
    """Watches the messages of one run on their way to the log.

    Remembers the last result message, the last critical one and the tails of both streams; gives
    statistics (level 10) and process announcements (level 101) to whom they concern, and counts.
    """

    def __init__(
        self,
        log: Log,
        on_statistics: Callable[[str], None],
        on_process: Callable[[str], None],
        on_output: Callable[[int, int], None] = lambda lines, size: None,
    ) -> None:
        """``on_output`` is told how many messages came and how many bytes were read, before the log may block."""
        self._log = log
        self._on_output = on_output
        self._on_statistics = on_statistics
        self._on_process = on_process
        self._tails = {levels.STDOUT: Tail(), levels.STDERR: Tail()}
        self.result: Message | None = None
        self.critical = ""
        self.truncated = False

    def take(self, pieces: Sequence[Piece], size: int = 0, result_truncated: bool = False) -> None:
        """Looks at the pieces of one chunk and hands them to the log, which may block: that slows the child down.

        ``size``: of the chunk in bytes. ``result_truncated``: whether the last result among them was cut at its limit.
        """
        kept: Sequence[Piece] = pieces
        announcements = False
        lines = 0
        pause = TimeSlice()
        for piece in pieces:
            lines += 1 if isinstance(piece, Message) else piece.count
            if isinstance(piece, Block):
                tail = self._tails.get(piece.level)
                if tail is not None:
                    tail.add(piece.text, piece.count)
                continue
            if isinstance(piece, Mixed):
                for stream, tail in self._tails.items():
                    if stream in piece.levels:
                        texts = piece.texts_of(stream)
                        tail.add("\n".join(texts) + "\n", len(texts))
                continue
            level, text = piece
            if level in self._tails:
                self._tails[level].add(text + "\n", 1)
            elif level in levels.RESULTS:
                self.truncated = result_truncated
                self.result = piece
            elif level == levels.CRITICAL:
                self.critical = text
            elif level == levels.STATISTICS:
                self._on_statistics(text.strip())
                pause()  # a chunk may hold 15,000 of them
            elif level == levels.PROCESS_ANNOUNCEMENT:
                announcements = True
                self._on_process(text)
                pause()
        if announcements:
            kept = [p for p in pieces if not isinstance(p, Message) or p.level != levels.PROCESS_ANNOUNCEMENT]
        self._on_output(lines, size)
        if kept:
            self._log.append(kept)

    def state(self) -> dict[str, Any]:
        """What was remembered so far, for ``restore`` in another process."""
        return {
            "tails": [tail.state() for tail in self._tails.values()],
            "result": None if self.result is None else list(self.result),
            "critical": self.critical,
            "truncated": self.truncated,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where another output was."""
        for tail, lines in zip(self._tails.values(), state["tails"], strict=True):
            tail.restore(lines)
        self.result = None if state["result"] is None else Message(*state["result"])
        self.critical = state["critical"]
        self.truncated = state["truncated"]

    @property
    def streams(self) -> tuple[str, str]:
        """(stdout, stderr) as the result carries them."""
        return self._tails[levels.STDOUT].text(), self._tails[levels.STDERR].text()
