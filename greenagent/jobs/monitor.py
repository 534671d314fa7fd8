"""The monitor of one job: its statistics lines, the processes that it announces, and their metering (protocol 8)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from greenagent.jobs.job import Job
from greenagent.process.child import Child
from greenagent.runtime.greenlets import Supervisor, give_way
from greenagent.statistics.collector import SeriesHandle, Statistics
from greenagent.statistics.meter import Meter, Spent, Watch
from greenagent.statistics.statsd_listener import StatsdListener

MAX_LOOKED_UP: Final = 200
"""Processes looked up in a second: each costs a walk through /proc."""
MAX_REPORTED: Final = 10
"""Refusals logged one by one in a run; further ones are counted."""
_PERIOD: Final = 1.0
_PIECE: Final = 4096
"""Characters of statsd lines that are counted at once, in some milliseconds: a message may have sixteen million."""


class JobMonitor:
    """Feeds the series of a job from its messages, from its statsd port, and from the readings of its processes."""

    def __init__(
        self,
        job: Job,
        statistics: Statistics,
        meter: Meter,
        warn: Callable[[str], None],
        listen_under: Supervisor | None = None,
    ) -> None:
        """``warn`` puts a warning into the job's log. With ``listen_under`` the job gets a statsd port of its own."""
        arguments = job.command.arguments
        self._job = job
        self._meter = meter
        self._warn = warn
        self._series: SeriesHandle = statistics.open(
            job.command.cmd, arguments.domain, arguments.name, arguments.stats_interval or None
        )
        self._watch: Watch | None = None
        self._listener = self._open_port(listen_under) if listen_under is not None else None

    def message(self, text: str) -> None:
        """Takes statsd lines; the first refused one is named in the job's log, further ones are counted."""
        if len(text) <= _PIECE:
            self._take([text])
            return
        for piece in _pieces(text):
            self._take([piece])
            give_way()

    def _take(self, texts: list[str]) -> None:
        """Counts all of them before the first refusal is logged: that may block, while the job's log is behind."""
        had_refused = self._series.refused
        refused = [reason for text in texts for reason in self._series.feed(text)]
        if refused and not had_refused:
            self._warn(f"statistics line refused: {refused[0]}")

    def output(self, lines: int, size: int) -> None:
        """``size`` bytes came out of the job's pipes and ended ``lines`` messages."""
        self._series.add_output(lines, size)

    def environment(self) -> dict[str, str]:
        """Where the child finds its statsd port, if it has one."""
        return {} if self._listener is None else self._listener.environment

    def started(self, child: Child, *, is_new: bool) -> None:
        """Meters the child from now on, with what it announces and what left its tree.

        ``is_new``: it was started just now, not by an earlier image of the agent.
        """
        self._series.add_output(0, 0)
        start_ticks = child.start_ticks if is_new else 0
        self._watch = self._meter.watch(
            self._job.id, child.pid, child.tree.find_in, self._series.add_usage, start_ticks
        )

    def ended(self, reap: Callable[[], Spent] | None = None) -> int:
        """The last reading of this run, before the child is reaped. Returns the most memory that one saw, in bytes.

        ``reap``: reaps the child, which has exited, where there is nothing more to read of it.
        """
        peak = 0
        if self._watch is not None:
            self._watch.close(reap)
            peak = self._watch.peak
            self._watch = None
            self._series.end_run()
        return peak

    def close(self) -> None:
        """The job is over: what it fed is sent with its interval."""
        if self._listener is not None:
            suspended = self._job.suspended
            detached = self._listener.detach() if self._job.is_detached else None
            if suspended is not None and detached is not None:
                suspended.intake, rest = detached
                self._take(rest)
            else:
                self._listener.close()
        if self._series.refused > 1:
            self._warn(f"{self._series.refused} statistics lines were refused in all")
        self._series.close()

    def _open_port(self, supervisor: Supervisor) -> StatsdListener | None:
        try:
            # A job that an earlier image of the agent started goes on sending to its old port.
            suspended = self._job.suspended
            open_port = suspended.intake if suspended is not None else None
            listener = StatsdListener(self._job.id, self.message, supervisor, self._job.statsd_port, open_port)
        except OSError as error:
            self._warn(f"there is no statsd port for this job: {error.strerror}")
            return None
        self._job.statsd_port = listener.port
        return listener


class AnnouncedPids:
    """Gives the processes a job announces to its child. A flood of them costs little and says little.

    A process is looked up once in a second, however often it is named: it may become the job's later.
    """

    def __init__(self, child: Child, warn: Callable[[str], None]) -> None:
        """``warn`` puts a warning into the job's own log."""
        self._child = child
        self._warn = warn
        self._refused: set[int | str] = set()
        self._unreported = 0
        self._passed_over = 0
        self._period_ends = 0.0
        self._looked_up: dict[int, bool] = {}

    def take(self, text: str) -> None:
        """The text of one message."""
        if not (text.isascii() and text.strip().isdigit()) or len(text) > 10:
            self._refuse(text[:40], f"101::{text[:40]} names no process and is left out")
            return
        pid = int(text)
        now = time.monotonic()
        if now >= self._period_ends:
            self._period_ends = now + _PERIOD
            self._looked_up.clear()
        believed = self._looked_up.get(pid)
        if believed is None:
            if len(self._looked_up) >= MAX_LOOKED_UP:
                self._passed_over += 1
                return
            believed = self._looked_up[pid] = self._child.tree.announce(pid)
        if not believed:
            self._refuse(pid, f"process {pid} is not one of this job's and is left alone")

    def end(self) -> None:
        """The run is over, or goes on in another image: says what was only counted."""
        if self._unreported:
            self._warn(f"{self._unreported} more 101:: lines named no process of this job")
        if self._passed_over:
            self._warn(
                f"{self._passed_over} 101:: lines were not looked at: "
                f"more than {MAX_LOOKED_UP} processes were announced in a second"
            )
        self._unreported = self._passed_over = 0

    def _refuse(self, key: int | str, text: str) -> None:
        if key in self._refused or len(self._refused) >= MAX_REPORTED:
            self._unreported += 1
            return
        self._refused.add(key)
        self._warn(text)


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces of whole lines."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + _PIECE) + 1 or len(text)
        yield text[start:end]
        start = end
