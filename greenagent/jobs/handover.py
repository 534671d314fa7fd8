"""A running job as a value: what the new image of the agent needs to go on with it.

Times are of the monotonic clock, which goes on across an exec. Descriptors keep their numbers.
"""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

VERSION: Final = 2
"""Of the form below, which this image writes."""
READ_VERSIONS: Final = (1, VERSION)
"""What this image can go on from. greenagent 0.1 wrote version 1, without the ledger and without a request."""


class Suspended(Exception):
    """Raised in a job's greenlet to end it here; ``run``, if one is under way, goes on in the new image."""

    def __init__(self, run: SuspendedRun | None = None) -> None:
        super().__init__("suspended")
        self.run = run


@dataclass(slots=True)
class SuspendedStreams:
    """The pipes of a run, None where closed, and what was read from them and is not in the log yet."""

    stdin: int | None
    data_left: bytes
    streams: list[int | None]
    splitters: list[dict[str, Any]]
    output: dict[str, Any]


@dataclass(slots=True)
class SuspendedRun:
    """A run under way; ``known`` are the processes seen below the child with their start times."""

    pid: int
    pidfd: int
    start_ticks: int
    tag: str
    known: dict[int, int]
    starttime: int
    began: float
    leave_children: bool
    signals: list[str]
    pipes: SuspendedStreams
    number: int = 0
    """Of its record in the log databases, 0 in version 1; ``command`` is its command line there."""
    command: str = ""


@dataclass(slots=True)
class SuspendedJob:
    """A live job. Between runs ``run`` is None, and the next one starts at ``wakes``."""

    row: int
    command: dict[str, Any]
    controller: str | None
    kind: str
    accepted: float
    number: int
    since: float
    restarts: int
    intake_port: int = 0
    """The number of the job's statsd port. Named as in version 1: the log store's intake is another thing."""
    intake: int | None = None
    """The descriptor of that port, where the job has one."""
    run: SuspendedRun | None = None
    wakes: float = 0.0
    last: dict[str, Any] | None = None
    log: dict[str, Any] = field(default_factory=dict)
    """What its log has counted (``logs.write.job_log.JobLog.state``)."""

    def to_json(self) -> dict[str, Any]:
        """A form that ``json`` takes."""
        value = asdict(self)
        if self.run is not None:
            value["run"]["pipes"]["data_left"] = base64.b64encode(self.run.pipes.data_left).decode()
        return value


@dataclass(slots=True)
class StartupState:
    """The ids of the startup tasks that were started, of those that are up or done, and of those that failed.

    One that was refused since another failed is among the last without having been started.
    """

    started: list[str] = field(default_factory=list)
    up: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@dataclass(slots=True)
class HandedOver:
    """Everything that goes to the new image."""

    jobs: list[SuspendedJob] = field(default_factory=list)
    startup: StartupState = field(default_factory=StartupState)
    locks: dict[str, int] = field(default_factory=dict)
    gauges: list[Any] = field(default_factory=list)
    left: list[Any] = field(default_factory=list)
    """The processes that may stay (``process.detached.DetachedProcesses.state``)."""
    ledger_file: Path | None = None
    """The ledger with the rows of these jobs; in version 1 the state file lay beside it, and its name was derived."""
    descriptor: int = -1
    """Where it is written to; told by the environment of the new image, not in the state."""
    request: str = ""
    """What was asked about the agent's end when there was no way back any more: the new image does it."""
    clock_base: float | None = None
    """Of the clock that nobody can set (``runtime.clock.clock_base``); None where an older image did not tell."""

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "jobs": [job.to_json() for job in self.jobs],
            "startup": self.startup.started,
            "startup_up": self.startup.up,
            "startup_failed": self.startup.failed,
            "locks": self.locks,
            "gauges": self.gauges,
            "left": self.left,
            "ledger": None if self.ledger_file is None else str(self.ledger_file),
            "request": self.request,
            "clock_base": self.clock_base,
        }

    @property
    def tags(self) -> list[str]:
        """Those of the running jobs."""
        return [job.run.tag for job in self.jobs if job.run is not None]

    @property
    def descriptors(self) -> list[int]:
        """All that must survive the exec."""
        found = list(self.locks.values())
        for job in self.jobs:
            if job.intake is not None:
                found.append(job.intake)
            if job.run is not None:
                kept = (job.run.pidfd, job.run.pipes.stdin, *job.run.pipes.streams)
                found.extend(number for number in kept if number is not None)
        return found


def from_json(value: dict[str, Any]) -> HandedOver:
    """Reads what ``to_json`` made, here or in greenagent 0.1. Raises ValueError for another version."""
    if value.get("version") not in READ_VERSIONS:
        raise ValueError(f"the state is of version {value.get('version')}, this agent reads {readable_versions()}")
    jobs = []
    for entry in value["jobs"]:
        run = entry.pop("run")
        job = SuspendedJob(**entry)
        if run is not None:
            pipes = run.pop("pipes")
            pipes["data_left"] = base64.b64decode(pipes["data_left"])
            run["known"] = {int(pid): ticks for pid, ticks in run["known"].items()}
            job.run = SuspendedRun(**run, pipes=SuspendedStreams(**pipes))
        jobs.append(job)
    return HandedOver(
        jobs=jobs,
        startup=StartupState(value["startup"], value["startup_up"], value["startup_failed"]),
        locks=value["locks"],
        gauges=value["gauges"],
        left=value["left"],
        ledger_file=Path(value["ledger"]) if value.get("ledger") else None,
        request=value.get("request", ""),
        clock_base=value.get("clock_base"),
    )


def readable_versions() -> str:
    """For people: ``versions 1 and 2``."""
    return f"versions {' and '.join(map(str, READ_VERSIONS))}"
