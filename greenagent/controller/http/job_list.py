"""Which jobs ``GET /api/jobs`` lists, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from greenagent.controller.dispatch.results import is_kill_order
from greenagent.controller.model import AgentKey, Job
from greenagent.runtime.clock import monotonic_epoch
from greenagent.runtime.greenlets import give_way
from greenagent.values import states

_NONE: Final = -1.0
"""Sorts before every duration and moment."""


def _started(job: Job) -> float:
    return max((step["running_since"] or step["started"] or _NONE for step in _steps(job)), default=_NONE)


def _waited(job: Job) -> float:
    """To the start; where it may be but the last of several, or nobody posted the job here, that tells nothing."""
    started, tells = _started(job), not (job.brief.recurring or job.brief.restarts or job.adopted)
    return max(0.0, started - job.created) if started >= 0 and tells else _NONE


def _took(job: Job) -> float:
    """So far, of one that runs."""
    steps, now = _steps(job), job.stamp(monotonic_epoch())
    running = [now - step["running_since"] for step in steps if step["running_since"]]
    return max(running or [step["took"] for step in steps if step["took"] is not None], default=_NONE)


def _exit(job: Job) -> tuple[bool, str, int]:
    """Exit codes, then signals, then what has neither."""
    return max((_exit_key(step["exit"]) for step in _steps(job)), default=_exit_key(None))


def _exit_key(exit_shown: int | str | None) -> tuple[bool, str, int]:
    is_code = isinstance(exit_shown, int)
    return exit_shown is None, "" if is_code else str(exit_shown or ""), int(exit_shown or 0) if is_code else 0


def _steps(job: Job) -> list[dict[str, Any]]:
    return [one.steps() for one in job.assignments]


SORTS: Final[dict[str, Callable[[Job], Any]]] = {
    "posted": lambda job: job.created,
    "start": _started,
    "end": lambda job: job.stamp(job.finished),
    "waited": _waited,
    "took": _took,
    "exit": _exit,
    "job": lambda job: job.id,
    "command": lambda job: job.brief.command_line,
}


class JobQuestion(NamedTuple):
    """Which jobs: moments are those of the posting, in seconds since 1970, and ``until`` includes its whole second.

    ``states`` as read by ``values.states.read_states``, empty for all. ``begins``: of their ids. ``kills``: also the
    kill commands of this controller. ``schedule``: of that one, "" for any. ``limit`` of them; ``sort`` is one of
    ``SORTS``, or "" for the newest first.
    """

    states: frozenset[str]
    agent: AgentKey | None
    since: float
    until: float
    begins: str
    kills: bool
    schedule: str
    sort: str
    limit: int

    def takes(self, job: Job) -> bool:
        """Whether a job is one of those."""
        return (
            self.since <= job.created < int(self.until) + 1
            and self._takes_state(job)
            and job.id.startswith(self.begins)
            and self.schedule in ("", job.brief.schedule)
            and (self.kills or not is_kill_order(job))
            and (self.agent is None or any(one.agent == self.agent for one in job.assignments))
        )

    def _takes_state(self, job: Job) -> bool:
        if not self.states or job.state in self.states:
            return True
        if states.WAITING in self.states and job.waits:
            return True
        # One that recurs never ends by itself: it is its last run that failed.
        return job.brief.recurring and self.states >= states.FAILURES and job.has_failed_last

    def find(self, jobs: Iterable[Job]) -> list[Job]:
        """Of ``jobs``, newest first: the newest first, or by ``sort`` the largest last. Others have their turns."""
        found: list[Job] = []
        for job in jobs:
            give_way()
            if self.takes(job):
                found.append(job)
            if len(found) == self.limit and not self.sort:
                break
        if not self.sort:
            return found
        keyed = []
        for number, job in enumerate(reversed(found)):  # of equal ones the newest last
            give_way()
            keyed.append((SORTS[self.sort](job), number, job))
        return [job for _, _, job in sorted(keyed, key=lambda one: one[:2])[-self.limit :]]
