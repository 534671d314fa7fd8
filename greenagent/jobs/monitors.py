"""The monitor of one job: its statistics lines and the metering of its processes (protocol 8)."""

from __future__ import annotations

from greenagent.jobs.job import Job
from greenagent.process.child import Child
from greenagent.statistics.collector import Feed, Statistics
from greenagent.statistics.meter import Meter, Watch


class JobMonitor:
    """Feeds the series of a job from its messages and from the readings of its processes."""

    def __init__(self, job: Job, statistics: Statistics, meter: Meter) -> None:
        arguments = job.command.arguments
        self._job = job
        self._meter = meter
        self._feed: Feed = statistics.open(
            job.id, job.command.cmd, arguments.domain, arguments.name, arguments.stats_interval or None
        )
        self._watch: Watch | None = None

    def message(self, text: str) -> list[str]:
        """Takes the text of a level 10 message; returns why lines of it were refused."""
        return self._feed.message(text)

    def environment(self) -> dict[str, str]:
        """Nothing to add for the child."""
        return {}

    def started(self, child: Child) -> None:
        """Meters the child from now on, with what it announces and what left its tree."""
        self._watch = self._meter.watch(self._job.id, child.pid, child.known_pids, self._feed.usage)

    def ended(self) -> None:
        """The last reading of this run, before the child is reaped."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
            self._feed.run_ended()

    def close(self) -> None:
        """The job is over: what it fed is sent with its interval."""
        self._feed.close()
