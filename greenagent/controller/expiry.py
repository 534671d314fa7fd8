"""Commands that are to be started in time or not at all: those with ``expires``.

What waits here ends then, and is not handed over any more. What waits for its turn at an agent of ours, as far as that
has said so, is killed there; what an agent has begun goes on.
"""

from __future__ import annotations

from greenagent.controller.model import Job
from greenagent.runtime.clock import monotonic_epoch


def expiry_of(job: Job) -> float:
    """The moment of ``monotonic_epoch`` by which a job must have been started; 0: any."""
    return job.created - job.wall_offset + job.brief.expires if job.brief.expires else 0.0


def has_expired(job: Job) -> bool:
    """Whether that moment is over."""
    return 0.0 < expiry_of(job) <= monotonic_epoch()


class Expiring:
    """The unfinished jobs that expire, by id."""

    def __init__(self) -> None:
        self._moments: dict[str, float] = {}

    def add(self, job: Job) -> None:
        """One that does not expire is left out."""
        if moment := expiry_of(job):
            self._moments[job.id] = moment

    def remove(self, job: Job) -> None:
        """It has ended, or was never among them."""
        self._moments.pop(job.id, None)

    def take(self) -> list[str]:
        """Those that have expired, each once."""
        now = monotonic_epoch()
        found = [job_id for job_id, moment in self._moments.items() if moment <= now]
        for job_id in found:
            del self._moments[job_id]
        return found
