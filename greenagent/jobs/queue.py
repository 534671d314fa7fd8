"""The queue of jobs: who may start next, under ``max_jobs`` and the serial queues (protocol 5.1, 5.5).

Jobs wait in order of acceptance. Of the jobs of one queue only the oldest is ever ready or
running, so a full ``max_jobs`` and queues cannot block each other.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Final

from greenagent.jobs.job import Job

MAX_WAITING: Final = 100_000
"""Jobs that may wait at once; further ones are refused, so that no controller can exhaust the memory."""
MAX_WAITING_BYTES: Final = 384 * 1024 * 1024
"""Memory that waiting jobs may take, by estimate: small ones reach their number first."""
_JOB_BYTES: Final = 3000
"""What a waiting job costs beside its texts (measured)."""


class JobQueue:
    """Jobs that were accepted and not started. Not started means: nothing of them runs, no slot is held."""

    def __init__(self, slots: int) -> None:
        """``slots``: how many jobs may run at once (``max_jobs``)."""
        self.slots = slots
        self._running: set[Job] = set()
        self._ready: list[tuple[int, int, Job]] = []
        self._queues: dict[str, deque[Job]] = {}
        self._arrivals = 0
        self._waiting: set[Job] = set()
        self._waiting_bytes = 0

    @property
    def running(self) -> int:
        """Slots in use; a job that sleeps between runs keeps its own (protocol 5.1)."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def free(self) -> int:
        """Slots that a new job would find: negative when jobs wait already."""
        return self.slots - len(self._running) - len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether so much waits that no more is to be taken."""
        return len(self._waiting) >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_BYTES

    def add(self, job: Job) -> None:
        """Puts a job at the end, or at the end of its serial queue."""
        self._arrivals += 1
        self._waiting.add(job)
        self._waiting_bytes += _weight(job)
        name = job.command.arguments.queue
        if name:
            queue = self._queues.setdefault(name, deque())
            queue.append(job)
            if len(queue) > 1:
                return
        self._push(job)

    def add_running(self, job: Job) -> None:
        """A job that runs already (an earlier image of the agent started it): it has its slot and its queue."""
        self._running.add(job)
        name = job.command.arguments.queue
        if name:
            self._queues.setdefault(name, deque()).appendleft(job)

    def take(self) -> Job | None:
        """The next job that may start now, its slot taken; None when there is none or no slot."""
        while self._ready and len(self._running) < self.slots:
            job = heapq.heappop(self._ready)[2]
            if job in self._waiting:
                self._leave_waiting(job)
                self._running.add(job)
                return job
        return None

    def remove(self, job: Job) -> bool:
        """Takes a job out that never started; False when it is not waiting."""
        if job not in self._waiting:
            return False
        self._leave_waiting(job)
        self._leave_queue(job)
        return True

    def finish(self, job: Job) -> None:
        """A started job is over: frees its slot and the next of its queue. Harmless when repeated."""
        if job in self._running:
            self._running.discard(job)
            self._leave_queue(job)

    def _leave_waiting(self, job: Job) -> None:
        self._waiting.discard(job)
        self._waiting_bytes -= _weight(job)

    def _push(self, job: Job) -> None:
        heapq.heappush(self._ready, (job.row, self._arrivals, job))

    def _leave_queue(self, job: Job) -> None:
        name = job.command.arguments.queue
        queue = self._queues.get(name)
        if not queue:
            return
        was_first = queue[0] is job
        try:
            queue.remove(job)
        except ValueError:
            return
        if not queue:
            del self._queues[name]
        elif was_first:
            self._push(queue[0])


def _weight(job: Job) -> int:
    arguments = job.command.arguments
    return _JOB_BYTES + len(job.command.data) + sum(map(len, arguments.args)) + sum(len(v) for _, v in arguments.env)
