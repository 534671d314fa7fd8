"""Log lines as agents upload them, kept in memory within stated caps.

No agent takes another's room: where there are too many lines, the oldest go of the agent that has most, and of jobs
that an agent has no part in, it has few.
"""

from __future__ import annotations

import json
import uuid
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Container, Iterator
from sys import getsizeof
from typing import Any, Final, NamedTuple

from greenagent.controller.json_parts import PIECE, json_object, json_text
from greenagent.controller.limits import Limits
from greenagent.controller.model import AgentKey
from greenagent.runtime.greenlets import give_way
from greenagent.values.command import MAX_ID_LENGTH

LINE_OVERHEAD: Final = 700
"""Bytes a kept line costs beside its texts."""
JOB_OVERHEAD: Final = 1500
"""Bytes a job with kept lines costs beside these."""
MAX_EMPTY: Final = 1000
"""Jobs without a kept line of which it is known how many were dropped."""
MAX_SHOWN: Final = 4 * 1024 * 1024
"""Bytes of lines given at once, if it is more than one line."""
TURN: Final = 100
"""Lines taken until others get a turn."""
MAX_WHOLE: Final = 2**53 - 1
"""Beyond it readers of JSON differ about a whole number; no id, stamp or level is that large."""


class Record(NamedTuple):
    """What an agent says of a line, with the keys people see."""

    id: int
    jobid: str
    domain: str
    name: str
    epoch_ms: int
    level: int
    data: str


class Line(NamedTuple):
    """One uploaded line; ``number`` rises over all lines of all jobs."""

    number: int
    key: AgentKey
    record: Record

    def to_json(self) -> str | Iterator[str]:
        """Its JSON text, in parts where it is long."""
        record = self.record._asdict()
        data = record.pop("data")
        shown = {"number": self.number, **self.key.to_wire(), **record, "epoch": self.record.epoch_ms // 1000}
        if len(data) < PIECE:
            return json.dumps({**shown, "data": data})
        return json_object(shown, data=json_text(data))

    @property
    def size(self) -> int:
        record = self.record
        return LINE_OVERHEAD + getsizeof(record.data) + getsizeof(record.domain) + getsizeof(record.name)


class JobLines:
    """The kept lines of one job, oldest first."""

    def __init__(self, jobid: str) -> None:
        self.jobid = jobid
        self.lines: OrderedDict[int, Line] = OrderedDict()
        self.dropped = 0
        self._numbers: list[int] = []
        """Those of its lines, rising, and of some that were dropped: where a reader goes on is found by halves."""
        self._ids: dict[AgentKey, set[int]] = {}

    def is_repeat(self, key: AgentKey, record: Record) -> bool:
        """True when a kept line of that agent has the same message id: the batch was sent again."""
        return record.id != 0 and record.id in self._ids.get(key, ())

    def append(self, line: Line) -> None:
        self.lines[line.number] = line
        self._numbers.append(line.number)
        self._ids.setdefault(line.key, set()).add(line.record.id)

    def drop(self, number: int) -> Line:
        line = self.lines.pop(number)
        if len(self._numbers) > 2 * len(self.lines) + TURN:
            self._numbers = list(self.lines)
        ids = self._ids[line.key]
        ids.discard(line.record.id)
        if not ids:
            del self._ids[line.key]
        return line

    def after(self, number: int) -> Iterator[Line]:
        """The lines with larger numbers, oldest first."""
        numbers = self._numbers
        places = range(bisect_right(numbers, number), len(numbers))
        return (self.lines[numbers[place]] for place in places if numbers[place] in self.lines)


class AgentLines:
    """Whose the kept lines of one agent are, by number, oldest first."""

    def __init__(self) -> None:
        self.order: OrderedDict[int, JobLines] = OrderedDict()
        self.stray: OrderedDict[int, bool] = OrderedDict()
        """Those of jobs that it has no part in (True), or that nobody knows (False)."""
        self.bytes = 0


class LineStore:
    """The newest lines of all jobs, by job."""

    def __init__(self, limits: Limits) -> None:
        self.run = uuid.uuid4().hex
        """Another one after each start of the controller: numbers of lines count within it."""
        self._limits = limits
        self._jobs: dict[str, JobLines] = {}
        self._agents: dict[AgentKey, AgentLines] = {}
        self._empty: OrderedDict[str, None] = OrderedDict()
        self._bytes = 0
        self._next = 1

    def take(self, key: AgentKey, records: list[Record], has_part: Callable[[str], bool | None]) -> set[str]:
        """Takes a batch an agent posted; returns the known jobs that have new lines.

        Other greenlets run meanwhile. ``has_part`` says whether the agent has a part in a job; None where nobody
        knows the job.
        """
        touched: set[str] = set()
        parts: dict[str, bool | None] = {}
        for first in range(0, len(records), TURN):
            for record in records[first : first + TURN]:
                jobid = record.jobid
                if jobid not in parts:
                    if len(parts) > TURN:
                        parts.clear()
                    parts[jobid] = has_part(jobid)
                self._add(key, record, parts[jobid])
                if parts[jobid]:
                    touched.add(jobid)
            self._keep_to_caps()
            give_way()
        return touched

    def _add(self, key: AgentKey, record: Record, has_part: bool | None) -> None:
        lines = self._jobs.get(record.jobid)
        if lines is None:
            lines = self._jobs[record.jobid] = JobLines(record.jobid)
            self._empty[record.jobid] = None
        if lines.is_repeat(key, record):
            return
        agent = self._agents.setdefault(key, AgentLines())
        line = Line(self._next, key, record)
        self._next += 1
        if not lines.lines:
            del self._empty[record.jobid]
            self._bytes += JOB_OVERHEAD
        lines.append(line)
        agent.order[line.number] = lines
        agent.bytes += line.size
        self._bytes += line.size
        if not has_part:
            agent.stray[line.number] = has_part is not None
            if len(agent.stray) > self._limits.stray_lines:
                number = next(iter(agent.stray))
                self._drop(key, agent, number)
        if len(lines.lines) > self._limits.log_lines_per_job:
            oldest = next(iter(lines.lines.values()))
            self._drop(oldest.key, self._agents[oldest.key], oldest.number)

    def _keep_to_caps(self) -> None:
        while self._bytes > self._limits.log_bytes:
            key, agent = max(self._agents.items(), key=lambda item: item[1].bytes)
            for _ in range(TURN):
                if agent.order and self._bytes > self._limits.log_bytes:
                    self._drop(key, agent, next(iter(agent.order)))
        while len(self._empty) > MAX_EMPTY:
            jobid, _ = self._empty.popitem(last=False)
            del self._jobs[jobid]

    def _drop(self, key: AgentKey, agent: AgentLines, number: int) -> None:
        lines = agent.order.pop(number)
        line = lines.drop(number)
        agent.bytes -= line.size
        self._bytes -= line.size
        if not agent.stray.pop(number, False):  # a job's owner is not told of what others said in its name
            lines.dropped += 1
        if not agent.order:
            del self._agents[key]
        if not lines.lines:
            self._bytes -= JOB_OVERHEAD
            self._empty[lines.jobid] = None

    def read(
        self, jobid: str, after: int, limit: int, agents: Container[AgentKey | None] | None = None
    ) -> tuple[list[Line], int]:
        """Up to ``limit`` lines numbered above ``after``, and how many of the job were dropped.

        ``agents``: those whose lines count; None for all.
        """
        lines = self._jobs.get(jobid)
        if lines is None:
            return [], 0
        found: list[Line] = []
        left = MAX_SHOWN
        for line in lines.after(after):
            if agents is not None and line.key not in agents:
                continue
            left -= line.size
            if len(found) == limit or (left < 0 and found):
                break
            found.append(line)
        return found, lines.dropped

    def knows(self, jobid: str) -> bool:
        """True when lines of the job came, even if they were dropped since."""
        lines = self._jobs.get(jobid)
        return lines is not None and (bool(lines.lines) or lines.dropped > 0)

    def forget(self, known: set[str]) -> None:
        """Drops the counters of jobs without kept lines that are not ``known`` any more."""
        for jobid in [jobid for jobid in self._empty if jobid not in known]:
            del self._empty[jobid], self._jobs[jobid]


def parse_records(received: Any) -> list[Record] | None:
    """The lines of a posted batch (protocol 7.1) that belong to a job; None when it is not a list of messages.

    Originals name no job: nobody could ask for such a line.
    """
    if not isinstance(received, list) or not all(isinstance(record, dict) for record in received):
        return None
    records = map(_record, received)
    return [record for record in records if 0 < len(record.jobid) <= MAX_ID_LENGTH]


def _record(received: dict[str, Any]) -> Record:
    """Originals send either seconds or milliseconds."""
    epoch = received.get("epoch")
    epoch = epoch if isinstance(epoch, (int, float)) and abs(epoch) <= MAX_WHOLE else 0
    milliseconds = received.get("epoch_ms")
    if not isinstance(milliseconds, int) or not abs(milliseconds) <= MAX_WHOLE:
        milliseconds = int(epoch if epoch > 10**11 else epoch * 1000)
    return Record(
        id=_as_whole(received.get("id")),
        jobid=_as_text(received.get("jobid")),
        domain=_as_text(received.get("domain")),
        name=_as_text(received.get("name")),
        epoch_ms=milliseconds,
        level=_as_whole(received.get("level")),
        data=_as_text(received.get("data")),
    )


def _as_whole(value: Any) -> int:
    return value if isinstance(value, int) and abs(value) <= MAX_WHOLE else 0


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else ("" if value is None else str(value))
