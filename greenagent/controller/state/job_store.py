"""All jobs: in memory, in the state file, and the one way to change them.

The rule: *lock, look, write, apply*. Who wants to change an assignment takes its lock, looks at it, has the state
file write the change, and only then is the change made in memory and seen by others. Writing lets other greenlets
run; the lock keeps them from acting on what is just being changed. There is one lock for each assignment and one
for each job id, and none for all: with a single one the writes of a fan-out to thousands of agents would come one
after the other instead of sharing their commits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Final

from gevent.event import Event

from greenagent.controller.assignments import Assignments
from greenagent.controller.expiry import Expiring
from greenagent.controller.limits import Limits
from greenagent.controller.model import AgentKey, Assignment, Brief, Job, Listener, Result, Target
from greenagent.controller.state.job_rows import (
    changed_row,
    finished_row,
    removal_rows,
    result_of,
    result_rows,
    row_of,
    rows_of,
    that_fit,
)
from greenagent.controller.state.state_file import StateFile, Statement, away_row
from greenagent.runtime.clock import monotonic_epoch
from greenagent.values import states
from greenagent.values.command import RESERVED_ID

LEFT_OUT: Final = "left out: results of jobs that go on take half of the memory for unfinished jobs at the controller"
MAX_REMEMBERED_REPEATS: Final = 1000
"""Results of one agent for one job by which a repeat is recognised."""
MAX_DROPPED_AT_ONCE: Final = 1000
"""Jobs removed in one transaction."""
JOB_OVERHEAD: Final = 2000
ASSIGNMENT_OVERHEAD: Final = 1000
MARK_OVERHEAD: Final = 200
"""Bytes that each costs beside its texts."""

_UNOWNED_ASSIGNMENTS: Final = "FROM assignments WHERE job NOT IN (SELECT seq FROM jobs)"
_UNOWNED_RESULTS: Final = (
    "FROM results WHERE job NOT IN (SELECT seq FROM jobs)"
    " OR NOT EXISTS (SELECT 1 FROM assignments WHERE job = results.job AND number = results.number)"
)


class JobStore:
    """All jobs by id, in the order they came: see ``stores.Jobs``."""

    def __init__(self, file: StateFile, limits: Limits) -> None:
        self._file = file
        self._limits = limits
        self._jobs: dict[str, Job] = {}
        self._finished: dict[str, Job] = {}
        self._finished_bytes = 0
        self._adopted: dict[str, Job] = {}
        self._adopted_bytes = 0
        self._locks: dict[str | Assignment, Event] = {}
        self._listeners: list[Listener] = []
        self._refused: list[Assignment] = []
        self._expiring = Expiring()
        self._next_seq = 1
        self.unfinished_bytes = 0
        """Bytes of the commands and results of unfinished jobs."""

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def _tell(self, job: Job, assignment: Assignment | None = None) -> None:
        job.changes.announce()
        for listener in self._listeners:
            listener(job.id, None if assignment is None else assignment.number)

    def get(self, job_id: str, key: AgentKey | None = None) -> Job | None:
        return self._jobs.get(job_id)

    def has_part(self, job_id: str, key: AgentKey) -> bool | None:
        if job_id == RESERVED_ID:
            return True
        job = self._jobs.get(job_id)
        return None if job is None else job.assignments.of(key) is not None

    def newest(self) -> Iterator[Job]:
        return reversed(list(self._jobs.values()))

    def ids(self) -> Iterator[str]:
        return iter(list(self._jobs))

    def running_on(self, key: AgentKey) -> list[Assignment]:
        open_jobs = (job for job in self._jobs.values() if not job.finished)
        found = (one for job in open_jobs for one in job.assignments if one.agent == key)
        return [one for one in found if one.state == states.RUNNING]

    def announce(self, job_ids: Iterable[str]) -> None:
        for job in filter(None, map(self._jobs.get, job_ids)):
            job.changes.announce()

    def note_waiting(self, job_id: str, key: AgentKey, waits: bool) -> None:
        if (job := self._jobs.get(job_id)) is not None:
            job.note_waiting(key, waits)

    @property
    def unfinished(self) -> int:
        return len(self._jobs) - len(self._finished) - len(self._adopted)

    @contextmanager
    def lock(self, key: str | Assignment) -> Iterator[None]:
        """Held by who changes an assignment, or makes the job of that id or adds an assignment to it.

        Not reentrant. Who needs both takes that of the id first.
        """
        while (held := self._locks.get(key)) is not None:
            held.wait()
        released = self._locks[key] = Event()
        try:
            yield
        finally:
            del self._locks[key]
            released.set()

    def new(self, job_id: str, command: str, brief: Brief, target: Target, **values: Any) -> Job:
        now = time.time()
        size = JOB_OVERHEAD + len(command)
        offset = now - monotonic_epoch()
        job = Job(self._next_seq, job_id, command, brief, target, now, wall_offset=offset, size=size, **values)
        self._next_seq += 1
        return job

    def add(self, job: Job) -> None:
        """Stores a new job with its assignments and what results they have. Raises StateError."""
        self._file.write(rows_of(job))
        self._jobs[job.id] = job
        job.size += ASSIGNMENT_OVERHEAD * len(job.assignments) + sum(one.size for _, one in _results(job))
        self._enter(job)
        if job.finished:
            self._finish(job)
        self._tell(job)

    def extend(self, job: Job, added: list[Assignment]) -> None:
        """Stores further assignments of a job. Raises StateError."""
        self._file.write(map(row_of, added))
        job.assignments.extend(added)
        self._count(job, ASSIGNMENT_OVERHEAD * len(added))
        self._tell(job)

    def update(self, assignment: Assignment, **changes: Any) -> None:
        """Changes an assignment. Raises StateError."""
        self._update(assignment, (), **changes)

    def _update(self, assignment: Assignment, rows: Iterable[Statement], **changes: Any) -> None:
        """``rows`` are stored with it."""
        self._file.write(chain(changed_row(assignment, changes), rows))
        assignment.change(**changes)
        self._tell(assignment.job, assignment)

    def expand(self, assignment: Assignment, agent: AgentKey, added: Sequence[Assignment]) -> None:
        """One of a fan-out that waited for its first agent is for that one, others of its job are added.

        With them the agents that are left out are stored. Raises StateError.
        """
        job = assignment.job
        rows = chain(map(row_of, added), [away_row(job.seq, job.away)])
        self._update(assignment, rows, agent=agent, unassigned=False)
        job.assignments.extend(added)

    def update_all(self, changes: Mapping[Assignment, dict[str, Any]]) -> None:
        self._file.write(chain.from_iterable(changed_row(one, new) for one, new in changes.items()))
        for one, new in changes.items():
            one.change(**new)
            self._tell(one.job, one)

    def stop_waiting(self, job: Job) -> None:
        self._file.write([("UPDATE jobs SET wait_until = 0 WHERE seq = ?", (job.seq,))])
        job.wait_until = 0.0

    def hold_refusal(self, assignment: Assignment, result: Result) -> None:
        """Stores a DUPILICATE_ID result that does not count yet; the next result takes its place. Raises StateError."""
        rows = result_rows(assignment, result, assignment.received + 1, self._limits.results_per_agent)
        self._update(assignment, rows, refused=result, refused_at=monotonic_epoch())
        self._refused.append(assignment)

    def take_expired(self) -> list[Job]:
        return [self._jobs[job_id] for job_id in self._expiring.take()]

    def refused(self) -> list[Assignment]:
        """Those with a DUPILICATE_ID result that is held back."""
        self._refused = [one for one in self._refused if one.refused is not None and not one.ended]
        return self._refused[:]

    def record(self, assignment: Assignment, result: Result, state: str) -> None:
        """Adds a result; ``state`` is what it makes of the assignment. Raises StateError."""
        job = assignment.job
        goes_on = not job.adopted and not states.is_terminal(state)
        if goes_on and self.unfinished_bytes + result.size > self._limits.unfinished_bytes // 2:
            result = result.without_output(LEFT_OUT)
        keep = 1 + that_fit(assignment.results, self._limits.results_per_agent - 1)
        ends = states.is_terminal(state) and job.assignments.have_ended(but=assignment)
        finished = job.finished or (monotonic_epoch() if ends else 0.0)
        received = assignment.received + 1
        agent = assignment.agent
        if agent is None and result.delivered:
            agent = result.key
        rows = result_rows(assignment, result, received, keep)
        if finished:
            rows = chain(rows, [finished_row(job, finished)])
        self._update(assignment, rows, agent=agent, state=state, token="", received=received, refused=None)
        is_counted = len(assignment.seen) >= MAX_REMEMBERED_REPEATS
        assignment.seen[_mark(result)] = None
        while len(assignment.seen) > MAX_REMEMBERED_REPEATS:
            del assignment.seen[next(iter(assignment.seen))]
        assignment.results.append(result)
        dropped = assignment.results[:-keep]
        del assignment.results[: len(dropped)]
        if self._jobs.get(job.id) is job:  # it was not dropped while the result was written
            mark = 0 if is_counted else MARK_OVERHEAD
            self._count(job, result.size + mark - sum(one.size for one in dropped))
        if job.assignments.have_ended():
            job.finished = finished or monotonic_epoch()
            self._finish(job)
            if not finished:  # the last two results were written at once, neither knowing of the other
                self._file.write([finished_row(job, job.finished)])

    def is_repeat(self, assignment: Assignment, result: Result) -> bool:
        return _mark(result) in assignment.seen

    def trim(self) -> None:
        """Drops finished jobs that are too old or too many, oldest first. Raises StateError."""
        now = monotonic_epoch()
        keep_for = max(self._limits.keep_for, self._limits.keep_least)
        self.forget([job for job in self._adopted.values() if job.finished and now - job.finished > keep_for])
        while drop := self._superfluous():
            self.forget(drop)

    def trim_adopted(self, key: AgentKey) -> None:
        """Drops the oldest adopted jobs where an agent has too many, or all together. Raises StateError."""
        limits = self._limits
        own = [job for job in self._adopted.values() if job.assignments[0].agent == key]
        drop = own[: max(0, len(own) - limits.adopted_per_agent)]
        left = len(self._adopted) - len(drop)
        size = self._adopted_bytes - sum(job.size for job in drop)
        for job in self._adopted.values():
            if left <= limits.adopted_jobs and size <= limits.adopted_bytes:
                break
            if job not in drop:
                drop.append(job)
                left -= 1
                size -= job.size
        self.forget(drop)

    def forget(self, drop: Sequence[Job]) -> None:
        """Forgets jobs that are adopted or have ended. Raises StateError."""
        # From the file first: rows left there would be taken for those of the next job of that id.
        if drop:
            self._file.write([row for job in drop for row in removal_rows(job)])
        for job in drop:
            if self._jobs.get(job.id) is not job:
                continue  # forgotten meanwhile; there may be a new one of that id
            if self._adopted.pop(job.id, None) is not None:
                self._adopted_bytes -= job.size
            else:
                del self._finished[job.id]
                self._finished_bytes -= job.size
            self._forget(job)

    def _forget(self, job: Job) -> None:
        """A job and its assignments name each other: together they would stay until the collector looks."""
        del self._jobs[job.id]
        job.assignments = Assignments()
        self._tell(job)

    def _superfluous(self) -> list[Job]:
        limits = self._limits
        now = monotonic_epoch()
        drop: list[Job] = []
        left, size = len(self._finished), self._finished_bytes
        for job in self._finished.values():
            age = now - job.finished
            is_over = age > limits.keep_for or left > limits.keep_jobs
            if len(drop) == MAX_DROPPED_AT_ONCE or (
                size <= limits.keep_bytes and not (is_over and age >= limits.keep_least)
            ):
                break
            left -= 1
            size -= job.size
            drop.append(job)
        return drop

    def _finish(self, job: Job) -> None:
        """From now on the job is kept for a limited time; adopted ones are in a book of their own."""
        if job.adopted:
            return
        if self._jobs.get(job.id) is job and job.id not in self._finished:
            self._finished[job.id] = job
            self._finished_bytes += job.size
            self.unfinished_bytes -= job.size
            self._expiring.remove(job)

    def _enter(self, job: Job) -> None:
        """Counts a job that is new here."""
        if job.adopted:
            self._adopted[job.id] = job
            self._adopted_bytes += job.size
        else:
            self.unfinished_bytes += job.size
            self._expiring.add(job)

    def _count(self, job: Job, size: int) -> None:
        job.size += size
        if job.adopted:
            self._adopted_bytes += size
        elif job.id in self._finished:
            self._finished_bytes += size
        else:
            self.unfinished_bytes += size

    def rows(self) -> Iterator[Statement]:
        """All jobs as they are in the state file."""
        for job in self._jobs.values():
            yield from rows_of(job)
            for assignment in job.assignments:
                if assignment.refused is not None:
                    yield from result_rows(assignment, assignment.refused, assignment.received + 1, 0)

    def load(self) -> list[Assignment]:
        """Reads the state file; returns the assignments that are not ended, in order. Raises StateError.

        Rows that mean nothing raise whatever Python does with them.
        """
        if self._file.read(f"SELECT 1 {_UNOWNED_ASSIGNMENTS} UNION ALL SELECT 1 {_UNOWNED_RESULTS} LIMIT 1"):
            # A result came while its job was removed.
            self._file.write([(f"DELETE {_UNOWNED_ASSIGNMENTS}", ()), (f"DELETE {_UNOWNED_RESULTS}", ())])
        by_seq: dict[int, Job] = {}
        for seq, job_id, text, created, wait_until, finished, adopted in self._file.read(
            "SELECT seq, id, command, created, wait_until, finished, adopted FROM jobs ORDER BY seq"
        ):
            command = json.loads(text)
            finished = min(finished, monotonic_epoch())  # stamped while the clock was ahead, it would be kept for ever
            job = Job(seq, job_id, text, Brief.of(command), Target.of(command), created, 0.0, wait_until, finished)
            job.adopted = bool(adopted)
            job.size = JOB_OVERHEAD + len(text)
            by_seq[seq] = self._jobs[job_id] = job
            self._next_seq = seq + 1
        for seq, text in self._file.read("SELECT job, agents FROM away"):
            if seq in by_seq:
                by_seq[seq].away = [AgentKey(*one) for one in json.loads(text)]
        by_place: dict[tuple[int, int], Assignment] = {}
        for seq, number, gid, nid, unassigned, state, token, deliveries, delivered, received in self._file.read(
            "SELECT job, number, gid, nid, floating, state, token, deliveries, delivered, received"
            " FROM assignments ORDER BY job, number"
        ):
            agent = None if gid is None else AgentKey(gid, nid)
            assignment = Assignment(
                by_seq[seq], number, agent, bool(unassigned), state, token, deliveries, delivered, received
            )
            by_seq[seq].assignments.append(assignment)
            by_seq[seq].size += ASSIGNMENT_OVERHEAD
            by_place[seq, number] = assignment
        for seq, number, text in self._file.read("SELECT job, number, body FROM results ORDER BY job, number, serial"):
            assignment = by_place[seq, number]
            result = result_of(assignment, json.loads(text), text)
            assignment.job.size += result.size + MARK_OVERHEAD
            if result.state == states.DUPLICATE_ID and not assignment.ended:
                assignment.change(refused=result, refused_at=monotonic_epoch())
                self._refused.append(assignment)
            else:
                assignment.results.append(result)
                assignment.seen[_mark(result)] = None
        for job in by_seq.values():
            self._enter(job)
            if not job.finished and all(one.ended for one in job.assignments):
                job.finished = monotonic_epoch()  # killed between its last results and the note that it has ended
        for job in sorted(by_seq.values(), key=lambda job: job.finished):
            if job.finished:
                self._finish(job)
        return [one for one in by_place.values() if not one.ended]


def _mark(result: Result) -> tuple[int, str]:
    return result.starttime, result.state


def _results(job: Job) -> Iterator[tuple[Assignment, Result]]:
    return ((assignment, result) for assignment in job.assignments for result in assignment.results)
