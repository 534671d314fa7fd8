"""Posts the commands of schedules when they are due.

What is due is decided by the wall clock, which is looked at once a second at the least: people who say "at half past
two" mean that one. It may be set, and the controller may be away for any time, so nothing is counted by waiting:

- **What is late** by no more than ``LATE`` runs; what is later was missed, which is noted and said. Where the schedule
  says so one run makes up for all that were missed.
- **A clock that is set ahead**, or a machine that was asleep, is to a schedule what a controller is that was away.
- **A clock that is set back** makes everything be reckoned anew from then on. By up to ``SET_BACK`` a schedule for
  certain minutes of certain hours does not run a second time for what it ran for already, as with Debian's cron.
"""

from __future__ import annotations

import math
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

from gevent.lock import BoundedSemaphore

from greenagent.controller.dispatch.submission import KnownIdError, Posted, TooManyJobsError, parse_posted
from greenagent.controller.limits import Limits
from greenagent.controller.model import Changes, Job
from greenagent.controller.schedules.cron import CronError, Expression
from greenagent.controller.schedules.schedule import Progress, Schedule
from greenagent.controller.schedules.store import Kept, ScheduleStore
from greenagent.controller.schedules.zones import ZoneError
from greenagent.controller.state.state_file import StateError
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.greenlets import give_way
from greenagent.values import levels
from greenagent.values.errors import CommandError, GreenagentError

LATE: Final = 60.0
"""Seconds by which a run may be late: a controller is started again, and a machine stands still, in less."""
SET_BACK: Final = 3 * 3600.0
"""Seconds; a clock that is set back by more was wrong, and what ran by it counts no more."""
SLACK: Final = 1.0
"""Seconds by which a clock goes back that is just being adjusted."""
LONGEST_LOOK: Final = 1.0
"""Seconds between two looks at the clock."""
MAX_COUNTED: Final = 1000
"""Missed runs are counted up to here."""


class UnknownScheduleError(GreenagentError):
    """There is no schedule of that id."""


class KnownScheduleError(GreenagentError):
    """There is a schedule of that id."""


class StillRunsError(GreenagentError):
    """The run before has not ended."""


class TooManySchedulesError(GreenagentError):
    """More schedules are kept than may be."""


class Jobs(Protocol):
    """What is known of jobs."""

    def get(self, job_id: str) -> Job | None: ...


class Moments(NamedTuple):
    """What has become of the moments of a schedule by now."""

    missed: int
    first: float
    """The first of those missed."""
    last: float
    runs: bool
    """Whether one is in time."""


class Scheduler:
    """All schedules: who changes one, and the process that makes the runs, asks here."""

    def __init__(
        self,
        store: ScheduleStore,
        jobs: Jobs,
        submit: Callable[[Posted], Job],
        log: AgentLog,
        limits: Limits,
        clock: Callable[[], float] = time.time,
        makes_runs: Callable[[], bool] = lambda: True,
    ) -> None:
        """``clock``: the wall clock. ``makes_runs``: of several processes one makes the runs."""
        self._store = store
        self._jobs = jobs
        self._submit = submit
        self._log = log
        self._said = log.rate_limited()
        self._limits = limits
        self._clock = clock
        self._makes_runs = makes_runs
        self._making = BoundedSemaphore()
        """Held by who makes a run."""
        self._changed = Changes()
        self._has_looked = False

    def all(self) -> list[Kept]:
        """All of them with their progress, by id."""
        return self._store.all()

    def get(self, schedule_id: str) -> Kept:
        """Raises UnknownScheduleError."""
        kept = self._store.get(schedule_id)
        if kept is None:
            raise _unknown(schedule_id)
        return kept

    def add(self, schedule: Schedule, *, replaces: bool) -> None:
        """Takes a schedule; one that is replaced keeps its progress, and stays paused where it is.

        Raises KnownScheduleError, TooManySchedulesError, StateError.
        """
        kept = self._store.get(schedule.id)
        if kept is not None:
            if not replaces:
                raise KnownScheduleError(f"there is a schedule {schedule.id!r} already")
            schedule = replace(schedule, paused=schedule.paused or kept[0].paused)
        elif len(self._store.all()) >= self._limits.schedules:
            raise TooManySchedulesError(f"{self._limits.schedules} schedules are kept at most: remove some")
        self._put(schedule)

    def pause(self, schedule_id: str, paused: bool) -> None:
        """Pauses or resumes one; what would have run meanwhile is not missed.

        Raises UnknownScheduleError, StateError.
        """
        schedule, _ = self.get(schedule_id)
        if schedule.paused != paused:
            self._put(schedule.changed(paused=paused))

    def remove(self, schedule_id: str) -> None:
        """The jobs it has posted go on. Raises UnknownScheduleError, StateError."""
        if not self._store.remove([schedule_id]):
            raise _unknown(schedule_id)

    def remove_all(self, prefix: str) -> int:
        """Removes those whose ids begin so; how many that were. Raises StateError."""
        return self._store.remove([one.id for one, _ in self._store.all() if one.id.startswith(prefix)])

    def run_now(self, schedule_id: str) -> Job:
        """Posts its command at once, also of a paused one; when it is due stays as it is.

        Raises UnknownScheduleError, StillRunsError, and what posting a command raises.
        """
        with self._making:
            schedule, progress = self.get(schedule_id)
            if not schedule.overlap and self._runs(progress.job):
                raise StillRunsError(f"the run before of schedule {schedule_id!r} has not ended: job {progress.job}")
            job = self._submit(_command_of(schedule, str(uuid.uuid4())))
            noted = replace(progress, job=job.id).with_event(self._clock(), "run", "asked for", job.id)
            self._store.note(schedule_id, noted)
            return job

    def run(self) -> None:
        """For ever."""
        trouble = self._log.on_change()
        while True:
            changed = self._changed
            try:
                wait = self.look() if self._makes_runs() else LONGEST_LOOK
            except StateError as error:
                trouble.warning(f"schedules: {error}")
                wait = LONGEST_LOOK
            else:
                trouble.resolved("schedules: the state can be written again")
            changed.wait(wait)

    def look(self) -> float:
        """Makes all runs that are due; seconds until the next look. Raises StateError."""
        following = self._clock() + LONGEST_LOOK
        for schedule, progress in self._store.all():
            give_way()
            if (at := _next_look(schedule, progress, self._clock())) <= self._clock():
                with self._making:
                    kept = self._store.get(schedule.id)  # it may have been changed, and a run may have been made
                    at = following if kept is None else self._look_at(*kept, self._clock())
            following = min(following, at)
        self._has_looked = True
        return max(0.0, following - self._clock())

    def _put(self, schedule: Schedule) -> None:
        self._store.put(schedule)
        self._changed.announce()

    def _look_at(self, schedule: Schedule, progress: Progress, now: float) -> float:
        """Does what is to be done; when it is to be looked at again."""
        if (at := _next_look(schedule, progress, now)) > now:
            return at
        try:
            expression = schedule.expression
            if progress.version == schedule.version and progress.at is not None and progress.at <= now:
                noted = self._due(schedule, expression, progress, now)
            else:
                noted = self._reckoned(schedule, expression, replace(progress, version=schedule.version), now)
        except (CronError, ZoneError) as error:
            self._said.log(levels.WARNING, f"schedule {schedule.id}: {error}")
            noted = replace(progress, version=schedule.version, due=None, at=None)
            noted = noted.with_event(now, "refused", str(error))
        self._store.note(schedule.id, noted)
        return _next_look(schedule, noted, now)

    def _reckoned(self, schedule: Schedule, expression: Expression, progress: Progress, now: float) -> Progress:
        """With the first moment after ``now``."""
        if schedule.paused:
            return replace(progress, reckoned=now, due=None, at=None)
        due = expression.following(now)
        # Put off beyond the moment after, a run would take the place of that one.
        most = min(schedule.jitter, expression.following(due) - due) if schedule.jitter else 0.0
        return replace(progress, reckoned=now, due=due, at=due + random.uniform(0.0, most))

    def _due(self, schedule: Schedule, expression: Expression, progress: Progress, now: float) -> Progress:
        assert progress.due is not None
        assert progress.at is not None
        put_off = progress.at - progress.due
        found = _moments(expression, progress.due, now - put_off)
        if found.missed:
            progress = self._missed(schedule, progress, found, now)
        if found.runs or (found.missed and schedule.catch_up):
            progress = self._make(schedule, progress, now)
        return self._reckoned(schedule, expression, progress, now - put_off)

    def _missed(self, schedule: Schedule, progress: Progress, found: Moments, now: float) -> Progress:
        count = f"{found.missed}{' or more' if found.missed >= MAX_COUNTED else ''} run{'s'[: found.missed > 1]} missed"
        between = " to ".join(map(_shown, dict.fromkeys((found.first, found.last))))
        why = "the clock was set ahead, or the machine stood still" if self._has_looked else "no controller was there"
        text = f"{count} ({between}): {why}"
        self._said.log(levels.WARNING, f"schedule {schedule.id}: {text}")
        return replace(progress, missed=progress.missed + found.missed).with_event(now, "missed", text)

    def _make(self, schedule: Schedule, progress: Progress, now: float) -> Progress:
        """Posts the command, or notes why not."""
        if not schedule.overlap and self._runs(progress.job):
            text = f"the run before has not ended: job {progress.job}"
            self._said.log(levels.WARNING, f"schedule {schedule.id}: a run is skipped, {text}")
            return replace(progress, skipped=progress.skipped + 1).with_event(now, "skipped", text, progress.job)
        job_id = progress.next_id()
        made = replace(progress, runs=progress.runs + 1)
        try:
            self._submit(_command_of(schedule, job_id))
        except KnownIdError:
            pass  # posted just before the controller was killed, which did not come to noting it
        except (CommandError, TooManyJobsError) as error:
            self._said.log(levels.WARNING, f"schedule {schedule.id}: its command is refused: {error}")
            return made.with_event(now, "refused", str(error))
        return replace(made, job=job_id).with_event(now, "run", "", job_id)

    def _runs(self, job_id: str) -> bool:
        job = self._jobs.get(job_id) if job_id else None
        return job is not None and not job.finished


def _next_look(schedule: Schedule, progress: Progress, now: float) -> float:
    """When something is to be done about a schedule: a moment that is over for what is to be done at once."""
    if progress.version != schedule.version:
        return now
    if progress.at is None:
        return math.inf
    back = progress.reckoned - now
    if back <= SLACK:
        return progress.at
    try:
        keeps = back <= SET_BACK and schedule.expression.is_fixed
    except (CronError, ZoneError):
        keeps = False
    return progress.at if keeps else now  # the clock was set back


def _moments(expression: Expression, first: float, now: float) -> Moments:
    """Of those from ``first`` on that have come by now the newest is in time, unless it is too late.

    All others are missed.
    """
    missed, last = 0, first
    due = first
    while due <= now - LATE and missed < MAX_COUNTED:
        give_way()
        missed, last = missed + 1, due
        due = expression.following(due)
    if missed >= MAX_COUNTED:
        due, last = expression.following(now - LATE), now - LATE
    in_time = []
    while due <= now:
        in_time.append(due)
        due = expression.following(due)
    late = in_time[:-1]
    return Moments(missed + len(late), first, late[-1] if late else last, bool(in_time))


def _unknown(schedule_id: str) -> UnknownScheduleError:
    return UnknownScheduleError(f"there is no schedule {schedule_id[:100]!r}")


def _command_of(schedule: Schedule, job_id: str) -> Posted:
    """The command of one run. Raises CommandError."""
    return parse_posted({**schedule.cmd, "id": job_id}, schedule.id)


def _shown(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(moment))
