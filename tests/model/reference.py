"""What the agent must do, in a few lines: every step is followed until nothing moves any more.

Jobs are of five kinds. ``quick`` ends at once (with an exit code), ``gated`` when its gate opens,
``failing`` is restarted once and fails again, ``recurring`` runs once and then sleeps for its
period, which the agent's end does not end, ``remembered`` is gated and comes back with the agent.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ModelJob:
    """One accepted job; ``state`` is waiting, running (or sleeping) or ended."""

    id: str
    kind: str
    queue: str
    code: int = 0
    state: str = "waiting"
    has_run: bool = False


@dataclass
class Model:
    """The reference: which runs were started, and which results a controller must have, by id and in order."""

    slots: int
    jobs: list[ModelJob] = field(default_factory=list)
    starts: dict[str, int] = field(default_factory=dict)
    results: dict[str, list[str]] = field(default_factory=dict)

    def live(self, *kinds: str) -> list[ModelJob]:
        return [job for job in self.jobs if job.state != "ended" and (not kinds or job.kind in kinds)]

    def find(self, job_id: str) -> ModelJob | None:
        """The live job of an id."""
        return next((job for job in self.live() if job.id == job_id), None)

    def run(self, job: ModelJob) -> None:
        self.jobs.append(job)
        self.settle()

    def answer(self, job_id: str, state: str) -> None:
        """A result reaches the controller."""
        self.results.setdefault(job_id, []).append(state)

    def open_gate(self, job: ModelJob) -> None:
        self._end(job, "SUCCESS")
        self.settle()

    def kill(self, job: ModelJob) -> None:
        self._end(job, "KILLED")
        self.settle()

    def kill_all(self) -> None:
        for job in self.live():
            if job.kind == "remembered" and job.state == "running":
                self._start(job)
            elif job.kind not in ("recurring", "remembered"):
                self._end(job, "KILLED")
        self.settle()

    def restart_agent(self, crash: bool) -> None:
        """SIGTERM or kill -9, and the next start."""
        for job in self.live():
            if job.state == "running" and job.kind not in ("recurring", "remembered"):
                self._end(job, "ERROR" if crash else "KILLED")
            job.state = "ended" if job.state == "ended" else "waiting"
        self.settle()

    def settle(self) -> None:
        """Starts what may start, the first accepted first, until nothing moves."""
        while True:
            live = self.live()
            if sum(job.state == "running" for job in live) >= self.slots:
                return
            for place, job in enumerate(live):
                is_behind = job.queue and any(other.queue == job.queue for other in live[:place])
                if job.state == "waiting" and not is_behind:
                    self._start(job)
                    break
            else:
                return

    @property
    def paused(self) -> int:
        """Jobs between two runs."""
        return sum(job.has_run for job in self.live("recurring"))

    def _start(self, job: ModelJob) -> None:
        job.state = "running"
        if job.kind == "recurring" and job.has_run:
            return  # it has its slot again, and sleeps on
        job.has_run = True
        self.starts[job.id] = self.starts.get(job.id, 0) + (2 if job.kind == "failing" else 1)
        if job.kind == "quick":
            self._end(job, "ERROR" if job.code else "SUCCESS")
        elif job.kind == "failing":
            self._end(job, "ERROR")

    def _end(self, job: ModelJob, state: str) -> None:
        job.state = "ended"
        self.answer(job.id, state)
