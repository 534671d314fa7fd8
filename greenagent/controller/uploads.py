"""Log lines and statistics as agents upload them, kept in memory within stated caps."""

from __future__ import annotations

import sys
import time
import uuid
from collections import deque
from typing import Any, NamedTuple

from gevent.event import Event

from greenagent.controller.jobs import AgentKey
from greenagent.controller.limits import Limits

LINE_OVERHEAD = 300
"""Bytes a kept line costs beside its text."""
WHOLE_LIMIT = 2**53
"""From here on readers of JSON differ about a whole number; no id, stamp or level is that large."""
FIGURE_LIMIT = sys.float_info.max


class Line(NamedTuple):
    """One uploaded line; ``number`` rises over all lines of all jobs."""

    number: int
    key: AgentKey
    record: dict[str, Any]

    def to_wire(self) -> dict[str, Any]:
        return {"number": self.number, "gid": self.key.gid, "nid": self.key.nid, **self.record}

    @property
    def size(self) -> int:
        return LINE_OVERHEAD + len(self.record["data"])


class JobLines:
    """The kept lines of one job, oldest first."""

    def __init__(self) -> None:
        self.lines: deque[Line] = deque()
        self.dropped = 0
        self._seen: dict[AgentKey, set[int]] = {}
        self._grown = Event()

    def is_repeat(self, key: AgentKey, record: dict[str, Any]) -> bool:
        """True when a kept line of that agent has the same message id: the batch was sent again."""
        return record["id"] != 0 and record["id"] in self._seen.get(key, ())

    def append(self, line: Line) -> None:
        self.lines.append(line)
        self._seen.setdefault(line.key, set()).add(line.record["id"])

    def drop_oldest(self) -> Line:
        line = self.lines.popleft()
        self._seen[line.key].discard(line.record["id"])
        self.dropped += 1
        return line

    def grown(self) -> None:
        self._grown.set()
        self._grown = Event()

    def wait(self, timeout: float) -> None:
        self._grown.wait(timeout)


class LineStore:
    """The newest lines of all jobs, by job."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.run = uuid.uuid4().hex
        """Another one after each start of the controller: numbers of lines count within it."""
        self._jobs: dict[str, JobLines] = {}
        self._arrivals: deque[tuple[int, str]] = deque()
        self._bytes = 0
        self._kept = 0
        self._next = 1
        self.received = 0

    def take(self, key: AgentKey, received: Any) -> bool:
        """Takes a batch an agent posted (protocol 7.1); False when it is not a list of messages."""
        if not isinstance(received, list) or not all(isinstance(record, dict) for record in received):
            return False
        touched: set[str] = set()
        for received_record in received:
            record = _tidy(received_record)
            jobid = record["jobid"]
            lines = self._jobs.get(jobid)
            if lines is None:
                lines = self._jobs[jobid] = JobLines()
            if lines.is_repeat(key, record):
                continue
            line = Line(self._next, key, record)
            self._next += 1
            self.received += 1
            lines.append(line)
            self._arrivals.append((line.number, jobid))
            self._bytes += line.size
            self._kept += 1
            touched.add(jobid)
            if len(lines.lines) > self._limits.log_lines_per_job:
                self._drop_oldest(lines)
        self._trim()
        for jobid in touched:
            if jobid in self._jobs:
                self._jobs[jobid].grown()
        return True

    def read(self, jobid: str, after: int, limit: int) -> tuple[list[Line], int]:
        """Up to ``limit`` lines numbered above ``after``, and how many of the job were dropped."""
        lines = self._jobs.get(jobid)
        if lines is None:
            return [], 0
        found: list[Line] = []
        for line in reversed(lines.lines):
            if line.number <= after:
                break
            found.append(line)
        found.reverse()
        return found[:limit], lines.dropped

    def knows(self, jobid: str) -> bool:
        """True when lines of the job came, even if they were dropped since."""
        lines = self._jobs.get(jobid)
        return lines is not None and (bool(lines.lines) or lines.dropped > 0)

    def wait(self, jobid: str, timeout: float) -> None:
        """Waits until the job has new lines or has ended, or ``timeout`` seconds."""
        lines = self._jobs.get(jobid)
        if lines is None:
            lines = self._jobs[jobid] = JobLines()
        lines.wait(timeout)
        if not lines.lines and not lines.dropped and self._jobs.get(jobid) is lines:
            del self._jobs[jobid]

    def wake(self, jobid: str) -> None:
        """The job has ended: nobody needs to wait for more."""
        lines = self._jobs.get(jobid)
        if lines is not None:
            lines.grown()

    def forget(self, known: set[str]) -> None:
        """Drops the counters of jobs without kept lines that are not ``known`` any more."""
        for jobid in [jobid for jobid, lines in self._jobs.items() if not lines.lines and jobid not in known]:
            del self._jobs[jobid]

    def _trim(self) -> None:
        while self._bytes > self._limits.log_bytes:
            number, jobid = self._arrivals.popleft()
            if self._is_kept(number, jobid):
                self._drop_oldest(self._jobs[jobid])
        if len(self._arrivals) > 2 * self._kept + 1000:  # most are of lines that their job's cap has dropped
            self._arrivals = deque(one for one in self._arrivals if self._is_kept(*one))

    def _is_kept(self, number: int, jobid: str) -> bool:
        lines = self._jobs.get(jobid)
        return lines is not None and bool(lines.lines) and lines.lines[0].number <= number

    def _drop_oldest(self, lines: JobLines) -> None:
        self._bytes -= lines.drop_oldest().size
        self._kept -= 1


class Figures:
    """The newest value of every statistics key of every agent, for ``ctl top``."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._agents: dict[AgentKey, dict[str, tuple[int, float, int]]] = {}
        self._received: dict[AgentKey, float] = {}

    def take(self, key: AgentKey, received: Any) -> bool:
        """Takes a batch an agent posted (protocol 8.4); False when it is not a list of flush objects."""
        points: list[tuple[str, int, float]] = []
        if not isinstance(received, list):
            return False
        for flush in received:
            if not isinstance(flush, dict) or not isinstance(flush.get("series"), list):
                return False
            stamp = flush.get("timestamp")
            if isinstance(stamp, bool) or not isinstance(stamp, int) or not abs(stamp) < WHOLE_LIMIT:
                return False
            for pair in flush["series"]:
                if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
                    return False
                value = pair[1]
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= FIGURE_LIMIT:
                    return False
                points.append((pair[0], stamp, float(value)))
        figures = self._agents.setdefault(key, {})
        self._received[key] = time.time()
        for name, stamp, value in points:
            old = figures.pop(name, None)
            if old is None:
                figures[name] = (stamp, value, 0)
            elif stamp < old[0]:
                figures[name] = old
            else:
                figures[name] = (stamp, value, stamp - old[0] or old[2])
        while len(figures) > self._limits.figures_per_agent:
            del figures[next(iter(figures))]
        while len(self._agents) > self._limits.agents:
            oldest = min(self._received, key=lambda one: self._received[one])
            del self._agents[oldest], self._received[oldest]
        return True

    def describe(self) -> list[dict[str, Any]]:
        """By agent, each key with its stamp (seconds since 1970), value and the interval it comes in.

        The interval is the distance to the stamp before, in seconds; None while there was none.
        """
        return [
            {
                "gid": key.gid,
                "nid": key.nid,
                "received": self._received[key],
                "figures": {
                    name: {"timestamp": stamp, "value": value, "interval": interval or None}
                    for name, (stamp, value, interval) in figures.items()
                },
            }
            for key, figures in sorted(self._agents.items())
        ]


def _tidy(received: dict[str, Any]) -> dict[str, Any]:
    """A record with the keys people see; originals send no ``jobid`` and either seconds or milliseconds."""
    epoch = received.get("epoch")
    epoch = epoch if isinstance(epoch, (int, float)) and abs(epoch) < WHOLE_LIMIT else 0
    milliseconds = received.get("epoch_ms")
    if not isinstance(milliseconds, int) or not abs(milliseconds) < WHOLE_LIMIT:
        milliseconds = int(epoch if epoch > 10**11 else epoch * 1000)
    return {
        "id": _as_whole(received.get("id")),
        **{key: _as_text(received.get(key)) for key in ("jobid", "domain", "name")},
        "epoch": milliseconds // 1000,
        "epoch_ms": milliseconds,
        "level": _as_whole(received.get("level")),
        "data": _as_text(received.get("data")),
    }


def _as_whole(value: Any) -> int:
    return value if isinstance(value, int) and abs(value) < WHOLE_LIMIT else 0


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else ("" if value is None else str(value))
