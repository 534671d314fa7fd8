"""The three pipes of one run: input fed, both streams read, split and given to the job's output."""

from __future__ import annotations

from typing import Any

import gevent

from greenagent.jobs.handover import FrozenPipes
from greenagent.jobs.output import JobOutput
from greenagent.logs.splitter import Splitter
from greenagent.process.child import Child
from greenagent.process.pipes import PipeFeeder, PipeReader
from greenagent.runtime.greenlets import Supervisor
from greenagent.values import levels


class _Stream:
    """One stream of the child."""

    def __init__(self, level: int, descriptor: int | None, max_line: int, output: JobOutput) -> None:
        self.splitter = Splitter(level, max_line)
        self._output = output
        self._reader = PipeReader(descriptor) if descriptor is not None else None
        self._detached = False

    def read(self) -> None:
        """Body of a greenlet: until the end of the stream, the drain deadline, or ``detach``."""
        if self._reader is None:
            return
        for chunk in self._reader.chunks():
            self._output.take(self.splitter.feed(chunk), len(chunk), self.splitter.result_truncated)
        if not self._detached:
            self._output.take(self.splitter.finish(), 0, self.splitter.result_truncated)

    def stop_after(self, seconds: float) -> None:
        if self._reader is not None:
            self._reader.stop_after(seconds)

    def detach(self) -> int | None:
        """Ends the reading between two chunks; the descriptor stays open, None when the stream has ended."""
        if self._reader is None:
            return None
        # Set first: the reading greenlet must not take this for the end of the stream.
        self._detached = True
        descriptor = self._reader.detach()
        self._detached = descriptor is not None
        return descriptor


class Pumps:
    """Moves the bytes of one run until ``finish``, or until ``freeze`` hands them over."""

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
        self._readers: list[Any] = []
        self._feeding: Any = None

    def restore(self, frozen: FrozenPipes) -> None:
        """Goes on where an earlier image stopped; before ``start``."""
        self._output.restore(frozen.output)
        for stream, state in zip(self._streams, frozen.splitters, strict=True):
            stream.splitter.restore(state)

    def start(self) -> None:
        self._readers = [self._supervisor.spawn(f"output of job {self._name}", s.read) for s in self._streams]
        if self._feeder is not None and self._feeder.is_empty:
            self._feeder.close()
        elif self._feeder is not None:
            self._feeding = self._supervisor.spawn(f"stdin of job {self._name}", self._feeder.run)

    def finish(self, drain: float) -> None:
        """The child is gone: reads what is left for at most ``drain`` seconds, and stops feeding."""
        for stream in self._streams:
            stream.stop_after(drain)
        gevent.joinall(self._readers)
        if self._feeding is not None:
            self._feeding.kill()

    def freeze(self) -> FrozenPipes:
        """Stops between two chunks and leaves the pipes open; nothing that was read is left untold."""
        descriptors = [stream.detach() for stream in self._streams]
        gevent.joinall(self._readers)
        left = self._feeder.detach() if self._feeder is not None else None
        if self._feeding is not None:
            self._feeding.kill()
        return FrozenPipes(
            stdin=left[0] if left is not None else None,
            data_left=left[1] if left is not None else b"",
            streams=descriptors,
            splitters=[stream.splitter.state() for stream in self._streams],
            output=self._output.state(),
        )
