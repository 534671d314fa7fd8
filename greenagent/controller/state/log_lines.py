"""Log lines as agents upload them, kept in memory within stated caps."""

from __future__ import annotations

import uuid
from collections import OrderedDict, deque
from typing import Any, Final, NamedTuple

from greenagent.controller.limits import Limits
from greenagent.controller.model import AgentKey

LINE_OVERHEAD: Final = 300
"""Bytes a kept line costs beside its text."""
MAX_WHOLE: Final = 2**53 - 1
"""Beyond it readers of JSON differ about a whole number; no id, stamp or level is that large."""


class Line(NamedTuple):
    """One uploaded line; ``number`` rises over all lines of all jobs."""

    number: int
    key: AgentKey
    record: dict[str, Any]

    def to_wire(self) -> dict[str, Any]:
        return {"number": self.number, **self.key.to_wire(), **self.record}

    @property
    def size(self) -> int:
        return LINE_OVERHEAD + len(self.record["data"])


class JobLines:
    """The kept lines of one job, oldest first."""

    def __init__(self) -> None:
        self.lines: deque[Line] = deque()
        self.dropped = 0
        self._ids: dict[AgentKey, set[int]] = {}

    def is_repeat(self, key: AgentKey, record: dict[str, Any]) -> bool:
        """True when a kept line of that agent has the same message id: the batch was sent again."""
        return record["id"] != 0 and record["id"] in self._ids.get(key, ())

    def append(self, line: Line) -> None:
        self.lines.append(line)
        self._ids.setdefault(line.key, set()).add(line.record["id"])

    def drop_oldest(self) -> Line:
        line = self.lines.popleft()
        self._ids[line.key].discard(line.record["id"])
        self.dropped += 1
        return line


class LineStore:
    """The newest lines of all jobs, by job."""

    def __init__(self, limits: Limits) -> None:
        self.run = uuid.uuid4().hex
        """Another one after each start of the controller: numbers of lines count within it."""
        self._limits = limits
        self._jobs: dict[str, JobLines] = {}
        self._order: OrderedDict[int, str] = OrderedDict()
        """The job of every kept line by the line's number, oldest first."""
        self._bytes = 0
        self._next = 1

    def take(self, key: AgentKey, received: Any) -> set[str] | None:
        """Takes a batch an agent posted (protocol 7.1); returns the jobs that have new lines.

        None when it is not a list of messages.
        """
        if not isinstance(received, list) or not all(isinstance(record, dict) for record in received):
            return None
        touched: set[str] = set()
        for received_record in received:
            record = _normalize(received_record)
            jobid = record["jobid"]
            if jobid not in self._jobs:
                self._jobs[jobid] = JobLines()
            lines = self._jobs[jobid]
            if lines.is_repeat(key, record):
                continue
            line = Line(self._next, key, record)
            self._next += 1
            lines.append(line)
            self._order[line.number] = jobid
            self._bytes += line.size
            touched.add(jobid)
            if len(lines.lines) > self._limits.log_lines_per_job:
                self._drop_oldest(lines)
        while self._bytes > self._limits.log_bytes:
            self._drop_oldest(self._jobs[next(iter(self._order.values()))])
        return touched

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

    def forget(self, known: set[str]) -> None:
        """Drops the counters of jobs without kept lines that are not ``known`` any more."""
        for jobid in [jobid for jobid, lines in self._jobs.items() if not lines.lines and jobid not in known]:
            del self._jobs[jobid]

    def _drop_oldest(self, lines: JobLines) -> None:
        line = lines.drop_oldest()
        del self._order[line.number]
        self._bytes -= line.size


def _normalize(received: dict[str, Any]) -> dict[str, Any]:
    """A record with the keys people see; originals send no ``jobid`` and either seconds or milliseconds."""
    epoch = received.get("epoch")
    epoch = epoch if isinstance(epoch, (int, float)) and abs(epoch) <= MAX_WHOLE else 0
    milliseconds = received.get("epoch_ms")
    if not isinstance(milliseconds, int) or not abs(milliseconds) <= MAX_WHOLE:
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
    return value if isinstance(value, int) and abs(value) <= MAX_WHOLE else 0


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else ("" if value is None else str(value))
