"""The three pipes of one run: input is fed, output read, split and looked at before the log (protocol 3.4, 4.1)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any, Final, Protocol

import gevent
from gevent import Greenlet

from greenagent.jobs.handover import SuspendedStreams
from greenagent.logs.lines import Block, Mixed, Piece
from greenagent.logs.splitter import Splitter
from greenagent.process.child import Child
from greenagent.process.pipes import PipeFeeder, PipeReader
from greenagent.runtime.greenlets import Supervisor, TimeSlice
from greenagent.values import levels
from greenagent.values.message import Message

STREAM_LINES: Final = 1000
STREAM_BYTES: Final = 1024 * 1024


class Log(Protocol):
    """Where the messages go: the job's log (logs.write.job_log.JobLog)."""

    def append(self, pieces: Sequence[Piece]) -> None: ...

    def say(self, level: int, text: str) -> None: ...


class Tail:
    """The last lines of one stream: at most 1000 and at most 1 MiB, however much was printed."""

    def __init__(self, lines: int = STREAM_LINES, size: int = STREAM_BYTES) -> None:
        self._max_lines = lines
        self._max_size = size
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
            if self._lines - count < self._max_lines and self._size - len(first) < self._max_size:
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
        lines = lines[-self._max_lines :]
        tail = "\n".join(lines) + "\n"
        encoded = tail.encode("utf-8", "replace")
        if len(encoded) <= self._max_size:
            return tail
        tail = encoded[-self._max_size :].decode("utf-8", "ignore")
        # The first line has lost its beginning; it stays only where it is all there is.
        return tail.partition("\n")[2] or tail


UNCLOSED: Final = (
    "greenagent: a message of level {} was begun and not ended by a line ':::': all that came behind it is part of it"
)


class JobOutput:
    """Watches the messages of one run on their way to the log.

    Remembers the last result message, the last critical one and the tails of both streams; gives
    statistics (level 10) and process announcements (level 101) to its callbacks, and counts.
    """

    def __init__(
        self,
        log: Log,
        on_statistics: Callable[[str], None],
        on_process: Callable[[str], None],
        on_output: Callable[[int, int], None] = lambda lines, size: None,
    ) -> None:
        """``on_output`` gets the number of messages and of bytes read, before the log may block."""
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
        self._log.append(kept)

    def say(self, level: int, text: str) -> None:
        """A remark of the agent, which is no output of the run."""
        self._log.say(level, text)

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


class _Stream:
    """One stream of the child."""

    def __init__(self, level: int, descriptor: int | None, max_line: int, output: JobOutput) -> None:
        self.splitter = Splitter(level, max_line)
        self._output = output
        self._reader = PipeReader(descriptor) if descriptor is not None else None
        self._spawn: Callable[..., Greenlet]
        self._is_restored = False
        self._detached = False
        self.greenlet: Greenlet | None = None
        """Reads it; there is none as long as nothing has come: many jobs never say anything."""

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where an earlier image stopped; before ``start``."""
        self.splitter.restore(state)
        self._is_restored = True

    def start(self, spawn: Callable[..., Greenlet]) -> None:
        """``spawn`` runs a function, with what follows it, in a greenlet."""
        self._spawn = spawn
        if self._reader is not None:
            self._reader.when_ready(self._look)

    def finish(self, seconds: float) -> None:
        """The child is gone: reads what is left for at most ``seconds``."""
        self._look()
        if self._reader is not None and not self._reader.is_closed:
            self._reader.stop_after(seconds)
            self.greenlet = self.greenlet or self._spawn(self._read, b"")

    def _look(self) -> None:
        """On the hub: what has come is for a greenlet, since the log may block; the end of a silent stream is not."""
        if self._reader is None or self._reader.is_closed or self.greenlet is not None:
            return
        chunk = self._reader.first()
        if chunk or (chunk is not None and self._is_restored):
            self.greenlet = self._spawn(self._read, chunk)

    def _read(self, first: bytes) -> None:
        """Until the end of the stream, the drain deadline, or ``detach``."""
        assert self._reader is not None
        for chunk in chain([first] if first else [], self._reader.chunks()):
            self._output.take(self.splitter.feed(chunk), len(chunk), self.splitter.result_truncated)
        if not self._detached:
            self._output.take(self.splitter.finish(), 0, self.splitter.result_truncated)
            if self.splitter.unclosed is not None:
                text = UNCLOSED.format(self.splitter.unclosed)
                self._output.say(levels.WARNING, text)

    def detach(self) -> int | None:
        """Ends the reading between two chunks; the descriptor stays open, None when the stream has ended."""
        if self._reader is None:
            return None
        # Set first: the reading greenlet must not take this for the end of the stream.
        self._detached = True
        descriptor = self._reader.detach()
        self._detached = descriptor is not None
        return descriptor


class StreamCopier:
    """Moves the bytes of one run until ``finish``, or until ``suspend`` hands them over."""

    def __init__(
        self, name: str, child: Child, data: bytes, max_line: int, output: JobOutput, supervisor: Supervisor
    ) -> None:
        """``data`` is what the child is to read; ``max_line`` in bytes."""
        self._name = name
        self._output = output
        self._supervisor = supervisor
        self._streams = [
            _Stream(levels.STDOUT, child.stdout, max_line, output),
            _Stream(levels.STDERR, child.stderr, max_line, output),
        ]
        self._feeder = PipeFeeder(child.stdin, data) if child.stdin is not None else None
        self._feeding: Any = None

    @property
    def splitters(self) -> dict[int, Splitter]:
        """By the level of their stream."""
        return {levels.STDOUT: self._streams[0].splitter, levels.STDERR: self._streams[1].splitter}

    def restore(self, suspended: SuspendedStreams) -> None:
        """Goes on where an earlier image stopped; before ``start``."""
        self._output.restore(suspended.output)
        for stream, state in zip(self._streams, suspended.splitters, strict=True):
            stream.restore(state)

    def start(self) -> None:
        for stream in self._streams:
            stream.start(partial(self._supervisor.spawn, f"output of job {self._name}"))
        if self._feeder is not None and self._feeder.is_empty:
            self._feeder.close()
        elif self._feeder is not None:
            self._feeding = self._supervisor.spawn(f"stdin of job {self._name}", self._feeder.run)

    def finish(self, drain: float) -> None:
        """The child is gone: reads what is left for at most ``drain`` seconds, and stops feeding."""
        for stream in self._streams:
            stream.finish(drain)
        self._wait_for_readers()
        if self._feeding is not None:
            self._feeding.kill()

    def suspend(self) -> SuspendedStreams:
        """Stops between two chunks and leaves the pipes open; what was read is in the log or in what this returns."""
        descriptors = [stream.detach() for stream in self._streams]
        self._wait_for_readers()
        left = self._feeder.detach() if self._feeder is not None else None
        if self._feeding is not None:
            self._feeding.kill()
        return SuspendedStreams(
            stdin=left[0] if left is not None else None,
            data_left=left[1] if left is not None else b"",
            streams=descriptors,
            splitters=[stream.splitter.state() for stream in self._streams],
            output=self._output.state(),
        )

    def _wait_for_readers(self) -> None:
        readers = [stream.greenlet for stream in self._streams if stream.greenlet is not None]
        if readers:
            gevent.joinall(readers)
