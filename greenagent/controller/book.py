"""The book of jobs: every job known, how long finished ones are kept, and how they come back from the state file."""

from __future__ import annotations

import json
import time
from typing import Any

from gevent.event import Event

from greenagent.controller.jobs import AgentKey, Assignment, Job, Target
from greenagent.controller.journal import UNOWNED, UNOWNED_REMOVAL, Journal, removal_rows
from greenagent.controller.limits import Limits
from greenagent.runtime.clock import monotonic_epoch
from greenagent.values import states


class Book:
    """All jobs by id, in the order they came."""

    def __init__(self, journal: Journal, limits: Limits) -> None:
        self._journal = journal
        self._limits = limits
        self._jobs: dict[str, Job] = {}
        self._finished: dict[str, Job] = {}
        self._bytes = 0
        self._open_bytes = 0
        self._reserved: dict[str, Event] = {}
        self._next = 1

    def get(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def settle(self, job_id: str) -> None:
        """Waits while a job of that id is being written: only then is it known, or not."""
        while (reserved := self._reserved.get(job_id)) is not None:
            reserved.wait()

    def all(self) -> list[Job]:
        """Oldest first."""
        return list(self._jobs.values())

    @property
    def unfinished(self) -> int:
        return len(self._jobs) - len(self._finished)

    @property
    def open_bytes(self) -> int:
        """Bytes of the commands of unfinished jobs."""
        return self._open_bytes

    def new(self, job_id: str, command: dict[str, Any], target: Target, size: int) -> Job:
        """A job that takes its id at once but is not in the book before ``add``."""
        self._reserved[job_id] = Event()
        now = time.time()
        job = Job(self._next, job_id, command, target, now, size=size, skew=now - monotonic_epoch())
        self._next += 1
        return job

    def add(self, job: Job) -> None:
        self._jobs[job.id] = job
        self._open_bytes += job.size
        self._reserved.pop(job.id).set()

    def abandon(self, job: Job) -> None:
        """The job could not be written: its id is free again."""
        reserved = self._reserved.pop(job.id, None)
        if reserved is not None:
            reserved.set()

    def finish(self, job: Job) -> None:
        """Notes the end of a job, from which on it is kept only so long."""
        job.finished = job.finished or monotonic_epoch()
        if self._jobs.get(job.id) is job and job.id not in self._finished:
            self._finished[job.id] = job
            self._bytes += job.size
            self._open_bytes -= job.size

    def grow(self, job: Job, size: int) -> None:
        """Counts the bytes of a result."""
        if self._jobs.get(job.id) is not job:
            return  # dropped while the result was written
        job.size += size
        if job.id in self._finished:
            self._bytes += size
        else:
            self._open_bytes += size

    def trim(self) -> None:
        """Drops finished jobs that are too old or too many, oldest first. Raises StateError."""
        while self._trim_some():
            pass

    def _trim_some(self) -> bool:
        limits = self._limits
        now = monotonic_epoch()
        drop: list[Job] = []
        left, size = len(self._finished), self._bytes
        for job in self._finished.values():
            age = now - job.finished
            is_over = age > limits.keep_for or left > limits.keep_jobs
            if size <= limits.keep_bytes and not (is_over and age >= limits.keep_least):
                break
            left -= 1
            size -= job.size
            drop.append(job)
            if len(drop) == 1000:
                break
        if not drop:
            return False
        # A job leaves the book after the file: rows left there would be taken for those of the next job of its id.
        self._journal.write([row for job in drop for row in removal_rows(job)])
        for job in drop:
            del self._finished[job.id]
            del self._jobs[job.id]
            self._bytes -= job.size
        return len(drop) == 1000

    def load(self) -> list[Assignment]:
        """Reads the state file; returns the assignments that are not ended, in order. Raises StateError."""
        if self._journal.read(UNOWNED):
            self._journal.write(UNOWNED_REMOVAL)
        by_seq: dict[int, Job] = {}
        for seq, job_id, command, created, wait_until, finished, adopted in self._journal.read(
            "SELECT seq, id, command, created, wait_until, finished, adopted FROM jobs ORDER BY seq"
        ):
            received = json.loads(command)
            finished = min(finished, monotonic_epoch())  # stamped while the clock was ahead, it would be kept for ever
            job = Job(seq, job_id, received, target_of(received), created, wait_until, finished, bool(adopted))
            job.size = len(command)
            self._open_bytes += job.size
            by_seq[seq] = self._jobs[job_id] = job
            self._next = seq + 1
        open_ones = self._load_assignments(by_seq)
        for job in by_seq.values():
            if not job.finished and all(one.ended for one in job.assignments):
                job.finished = monotonic_epoch()  # its last two results were written at the same moment
        for job in sorted(by_seq.values(), key=lambda job: job.finished):
            if job.finished:
                self.finish(job)
        return open_ones

    def _load_assignments(self, by_seq: dict[int, Job]) -> list[Assignment]:
        open_ones: list[Assignment] = []
        by_place: dict[tuple[int, int], Assignment] = {}
        for seq, number, gid, nid, floating, state, token, deliveries, delivered, count in self._journal.read(
            "SELECT job, number, gid, nid, floating, state, token, deliveries, delivered, received"
            " FROM assignments ORDER BY job, number"
        ):
            assignment = by_seq[seq].add(None if gid is None else AgentKey(gid, nid), bool(floating), state)
            assignment.number = number  # there are gaps where an agent's share could not be written
            by_place[seq, number] = assignment
            assignment.token = token
            assignment.deliveries = deliveries
            assignment.delivered = delivered
            assignment.count = count
            if not assignment.ended:
                open_ones.append(assignment)
        for seq, number, body in self._journal.read(
            "SELECT job, number, body FROM results ORDER BY job, number, serial"
        ):
            result = json.loads(body)
            assignment = by_place[seq, number]
            by_seq[seq].size += len(body)
            self._open_bytes += len(body)
            if result["state"] == states.DUPLICATE_ID and not assignment.ended:
                assignment.refused = result
                assignment.refused_at = monotonic_epoch()
                continue
            assignment.results.append(result)
            assignment.seen[(result["starttime"], result["state"])] = None
        return open_ones


def target_of(command: dict[str, Any]) -> Target:
    """Whom a command object that was checked before is for."""
    roles = command.get("roles")
    if not roles:
        role = command.get("role")
        roles = [role] if role else []
    key = AgentKey(int(command.get("gid") or 0), int(command.get("nid") or 0))
    return Target(key, tuple(roles), bool(command.get("fanout")))
