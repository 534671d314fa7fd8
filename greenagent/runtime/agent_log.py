"""What the agent logs about itself: single lines, on stderr and in the database under job id ``agent``.

Lines go through a bounded queue to a native thread: a terminal or pipe that blocks must not make
the agent deaf (design, section 3). What did not fit is counted and said.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Final

from greenagent.runtime.descriptors import write_all
from greenagent.runtime.native import NativeWorker
from greenagent.values import levels
from greenagent.values.text import visible

Sink = Callable[[int, str], None]

_CLOSE_WAIT = 2.0
"""Seconds for what waits when an output is closed."""
_RATE_LIMIT = 20
_RATE_PERIOD = 60.0
"""A rate-limited log takes 20 lines in 60 seconds."""
_WORDS = {levels.OPERATIONS_ERROR: "error", levels.WARNING: "warning", levels.LOG: "info", levels.DEBUG: "debug"}
VERBOSITIES: Final = tuple(_WORDS.values())
"""From what is said least to what is said most; each has all before it."""


class LineOutput:
    """Writes lines to a descriptor from a native thread and never blocks the caller."""

    def __init__(self, descriptor: int, name: str, limit: int = 4 * 1024 * 1024) -> None:
        """``limit`` is the number of bytes that may wait."""
        self._descriptor = descriptor
        self._limit = limit
        self._left_out = 0
        self._broken = False
        self._worker: NativeWorker[bytes] = NativeWorker(name, self._write)

    def write(self, text: str) -> None:
        """Queues one line (the newline is added) or counts it as left out."""
        data = (text + "\n").encode("utf-8", "backslashreplace")
        if self._worker.weight + len(data) > self._limit:
            self._left_out += 1
            return
        if self._left_out:
            note = f"({self._left_out} lines left out here: the output did not keep up)\n".encode()
            self._left_out = 0
            self._worker.put_now(note, len(note))
        self._worker.put_now(data, len(data))

    def close(self) -> None:
        """Writes what waits and ends the thread.

        One that is blocked is left behind: whoever does not read our output must not keep us from ending.
        """
        self._worker.stop(_CLOSE_WAIT)

    def _write(self, batch: list[bytes]) -> None:
        if self._broken:
            return
        try:
            write_all(self._descriptor, b"".join(batch))
        except OSError as error:
            # A pipe nobody reads stays so; a log file on a full disk takes lines again later. The database has them.
            self._broken = error.errno in (errno.EPIPE, errno.EBADF)


class AgentLog:
    """Logs what the agent itself has to say, in single lines."""

    def __init__(self, output: LineOutput | None) -> None:
        self._output = output
        self._sinks: list[Sink] = []
        self._left_out: frozenset[int] = frozenset()
        self.set_verbosity("info")

    def set_verbosity(self, verbosity: str) -> None:
        """``verbosity``: one of VERBOSITIES. Lines of the levels behind it are left out from now on."""
        shown = VERBOSITIES.index(verbosity) + 1
        self._left_out = frozenset(tuple(_WORDS)[shown:])

    def attach(self, sink: Sink) -> None:
        """Also gives every line as (level, text) to ``sink``, which must not block."""
        self._sinks.append(sink)

    def detach(self, sink: Sink) -> None:
        self._sinks.remove(sink)

    @property
    def has_details(self) -> bool:
        """Whether ``debug`` says anything: for who would make its text of much."""
        return levels.DEBUG not in self._left_out

    def debug(self, text: str) -> None:
        """Level 11: what happens all the time."""
        self.log(levels.DEBUG, text)

    def info(self, text: str) -> None:
        """Level 5: what happened."""
        self.log(levels.LOG, text)

    def warning(self, text: str) -> None:
        """Level 7: something is odd, and was dealt with."""
        self.log(levels.WARNING, text)

    def error(self, text: str) -> None:
        """Level 8: something was refused, failed or lost."""
        self.log(levels.OPERATIONS_ERROR, text)

    def log(self, level: int, text: str) -> None:
        """One line at a level: newlines inside become blanks, other control characters escapes."""
        if level in self._left_out:
            return
        line = visible(" ".join(text.splitlines()), keep="\t")
        if self._output is not None:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S%z")
            self._output.write(f"{stamp} {_WORDS.get(level, str(level))}: {line}")
        for sink in tuple(self._sinks):
            sink(level, line)

    def rate_limited(self) -> RateLimitedLog:
        """A log for what peers and jobs cause: they must not be able to fill ours."""
        return RateLimitedLog(self, _RATE_LIMIT, _RATE_PERIOD)

    def on_change(self) -> LogOnChange:
        """A log for one subject, of which only changes are worth a line."""
        return LogOnChange(self)


class RateLimitedLog:
    """Logs at most ``lines`` lines in ``period`` seconds; counts the rest and says how many before the next line."""

    def __init__(
        self, agent_log: AgentLog, lines: int, period: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._agent_log = agent_log
        self._lines = lines
        self._period = period
        self._clock = clock
        self._until = 0.0
        self._logged = 0
        self._left_out = 0

    def log(self, level: int, text: str) -> None:
        now = self._clock()
        if now >= self._until:
            self._until = now + self._period
            self._logged = 0
            if self._left_out:
                self._agent_log.log(level, f"{self._left_out} lines like the next were left out")
                self._left_out = 0
        if self._logged == self._lines:
            self._left_out += 1
            return
        self._logged += 1
        self._agent_log.log(level, text)
        if self._logged == self._lines:
            self._agent_log.log(level, f"more lines like the last are only counted for up to {self._period:g} s")


class LogOnChange:
    """Logs a line only when it differs from the last one on the same subject."""

    def __init__(self, agent_log: AgentLog) -> None:
        self._agent_log = agent_log
        self._last = ""

    @property
    def is_open(self) -> bool:
        """True between a warning and its ``resolved``."""
        return bool(self._last)

    def warning(self, text: str) -> None:
        if text != self._last:
            self._last = text
            self._agent_log.warning(text)

    def resolved(self, text: str) -> None:
        """The trouble is over: logged only if there was any."""
        if self._last:
            self._last = ""
            self._agent_log.info(text)
