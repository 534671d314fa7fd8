"""The life of one job: its runs, the pauses between them, and what is reported (protocol 4.3, 5.3, 5.4)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from enum import Enum
from typing import Final, NamedTuple

from greenagent.jobs.context import JobContext
from greenagent.jobs.handover import Suspended, SuspendedJob
from greenagent.jobs.job import Job, Logged, Outcome, Reason, Stage, killed_before_start
from greenagent.jobs.run_records import CUT_OFF
from greenagent.jobs.runner import Runner
from greenagent.spool.schema import FROM_CONTROLLER
from greenagent.values import states
from greenagent.values.result import AGENT_STOPPED, STOPPED

AFTER_KILL_ALL: Final = 1.0
"""Seconds after which a remembered job that killall ended is started again."""
LONG_LIFE: Final = 300.0
"""Seconds: a run that lived longer forgives the restarts before it."""
FIRST_DELAY: Final = 1.0
MAX_DELAY: Final = 30.0


class Lifecycle:
    """Runs a job until it is over; everything it decides is written to the spool first."""

    def __init__(self, job: Job, context: JobContext, runner: Runner) -> None:
        self._job = job
        self._context = context
        self._runner = runner
        arguments = job.command.arguments
        restarts = job.suspended.restarts if job.suspended is not None else 0
        self._must_always_run = arguments.must_always_run and job.is_external
        self._policy = RestartPolicy(
            arguments.max_restart, arguments.recurring_period, restarts=restarts, always=self._must_always_run
        )
        self._wakes = 0.0
        self._last: Outcome | None = None

    def run(self) -> None:
        """Returns when the job is over, or when the agent stops."""
        job = self._job
        if job.suspended is None and not self._may_start():
            return
        try:
            self._go_on()
        except Suspended as suspended:
            job.suspended = self._suspend(suspended)
            raise

    def _go_on(self) -> None:
        job = self._job
        if job.suspended is not None:
            if job.suspended.run is None and not self._sleep_on(job.suspended):
                return
        elif job.due is not None and not self._sleep_until_due(job.due):
            return
        while True:
            if job.end_requested is Reason.HAND_OVER:
                raise Suspended
            if job.suspended is None or job.suspended.run is None:
                job.run += 1
                job.enter(Stage.RUNNING)
                if job.run > 1 or job.due or (job.is_external and not job.has_begun):
                    # Else its row says so since it was accepted.
                    self._context.spool.running(job.row, job.run, int(time.time() * 1000))
                job.due = None
                self._say("begins")
            outcome = self._last = self._runner.run()
            self._say("ended", outcome)
            job.last_state = outcome.state
            job.suspended = None
            if self._ends_by_request(outcome):
                return
            decision = self._decide(outcome)
            if decision.gave_up:
                self._runner.give_up(job.command.arguments.max_restart)
            elif self._must_always_run and decision.next is Next.RESTART:
                self._runner.will_restart(outcome, decision.delay)
            if decision.next is Next.END:
                self._finish(outcome)
                return
            write_down(self._context, job, outcome, decision, self._runner.logged())
            self._wakes = time.monotonic() + decision.delay
            if not self._sleep():
                return

    def _say(self, text: str, outcome: Outcome | None = None) -> None:
        """What only a verbose log has: the beginning and end of every run."""
        if self._context.agent_log.has_details:
            job = self._job
            what = f"{job.command.cmd} {job.command.arguments.name}".rstrip()
            how = "" if outcome is None else f": {_told(outcome)}"
            self._context.agent_log.debug(f"job {job.id}: run {job.run} ({what}) {text}{how}")

    def _sleep_on(self, suspended: SuspendedJob) -> bool:
        """Goes on with the pause an earlier image was in; False when the job ended meanwhile."""
        self._last = _last_outcome(suspended)
        if self._last is None and not suspended.wakes:
            return True  # it was handed over before its first run
        if self._last is not None:
            self._job.last_state = self._last.state
        self._wakes = suspended.wakes
        if self._job.keeps_period:
            self._job.due = time.time() + self._wakes - time.monotonic()
        return self._sleep()

    def _sleep_until_due(self, due: float) -> bool:
        """Goes on with the pause in which the agent was ended; False when the job ended meanwhile."""
        # The clock may have been set since: no pause is longer than a whole one.
        left = min(due - time.time(), self._job.command.arguments.recurring_period)
        self._wakes = time.monotonic() + left
        return self._sleep()

    def _suspend(self, suspended: Suspended) -> SuspendedJob:
        job = self._job
        return SuspendedJob(
            row=job.row,
            command=dict(job.command.received),
            controller=job.controller,
            kind=job.kind,
            accepted=job.accepted,
            number=job.run,
            since=job.since,
            restarts=self._policy.restarts,
            intake_port=job.statsd_port,
            run=suspended.run,
            wakes=self._wakes,
            last=None if self._last is None else asdict(self._last),
        )

    def _may_start(self) -> bool:
        """False for a job that was asked to end between its leaving the queue and its first run."""
        job = self._job
        if job.end_requested in (Reason.STOP, Reason.DRAIN):
            if job.has_begun:
                self._context.spool.not_begun(job.row)
            return False  # never started: its row stays, and it is run at the agent's next start
        if job.end_requested is Reason.KILL_ALL and job.repeats:
            job.end_requested = None
        if job.end_requested not in (None, Reason.HAND_OVER) and job.is_external:
            self._finish(killed_before_start())
            return False
        return True

    def _decide(self, outcome: Outcome) -> Decision:
        job = self._job
        if job.after_report is not None:
            return Decision(True, Next.END)  # it acts once it has answered, so it does not repeat
        if outcome.state == states.UNKNOWN_CMD:
            return Decision(True, Next.END)  # its extension was removed
        if job.end_requested is Reason.KILL_ALL:
            job.end_requested = None
            if outcome.ended_by_request:
                period = job.command.arguments.recurring_period
                # Only repeating and remembered jobs get here: killall lets them go on (design, section 5 "Ending").
                return Decision(False, Next.RECUR, period or AFTER_KILL_ALL)
        can_restart = outcome.can_restart
        if self._must_always_run and (job.run > 1 or job.kind != FROM_CONTROLLER):
            can_restart = True  # it could be started before: its program may be back soon, after an upgrade, say
        return self._policy.after(outcome.state, outcome.lived, outcome.has_result, can_restart)

    def _ends_by_request(self, outcome: Outcome) -> bool:
        """Deals with a run that was asked to end; True when the job is over with it."""
        job, reason = self._job, self._job.end_requested
        if reason is None or reason is Reason.HAND_OVER:
            if outcome.state != states.KILLED or self._must_always_run:
                return False
            self._finish(outcome)  # it died of a signal that kill sent: the job ends with it
            return True
        if reason is Reason.KILL_ALL and job.repeats:
            return False
        if outcome.ended_by_request and not self._comes_back:
            self._finish(outcome)
            return True
        if outcome.ended_by_request:
            outcome = replace(outcome, state=states.ERROR, data=outcome.data.replace(STOPPED, CUT_OFF) or CUT_OFF)
        decision = self._decide(outcome)
        if decision.next is Next.END and not outcome.ended_by_request:
            self._finish(outcome)  # it had ended by itself before it could be ended, and no other run was to follow
        elif not self._comes_back:
            self._finish(replace(outcome, state=states.KILLED))
        elif job.keeps_period:
            write_down(self._context, job, outcome, decision)
        return True

    @property
    def _comes_back(self) -> bool:
        """Whether the job is remembered over the agent's end: nothing is reported then."""
        leaves = self._job.end_requested in (Reason.STOP, Reason.DRAIN)
        return leaves and self._job.command.arguments.remembered

    def _sleep(self) -> bool:
        """Waits between runs; False when the job is asked to end meanwhile: then it has."""
        self._job.enter(Stage.SLEEPING)
        if self._wait_to_wake():
            return True
        if not self._comes_back:
            last = self._last or killed_before_start(data="killed between its runs")
            self._finish(replace(last, state=states.KILLED))
        return False

    def _wait_to_wake(self) -> bool:
        job = self._job
        while (left := self._wakes - time.monotonic()) > 0:
            if job.end_requested is Reason.HAND_OVER:
                raise Suspended
            if job.end_requested is Reason.KILL_ALL:
                # Nothing runs: only a job that merely waits for its restart ends.
                if not job.repeats:
                    return False
                job.end_requested = None
            if job.end_requested is not None:
                return False
            job.wait_for_change(left)
        return True

    def _finish(self, outcome: Outcome) -> None:
        """The job is over."""
        if outcome.state == states.KILLED and self._job.end_requested is Reason.STOP:
            outcome = replace(outcome, reason=AGENT_STOPPED)
        self._context.report(self._job, outcome, logged=self._runner.logged())


def write_down(
    context: JobContext, job: Job, outcome: Outcome, decision: Decision, logged: Logged | None = None
) -> None:
    """What is to be known of a run that is not the last: its result, and when the next one is due."""
    job.due = time.time() + decision.delay if job.keeps_period else None
    if decision.report:
        context.report(job, outcome, ends=False, due=job.due, logged=logged)
    elif job.due is not None:
        context.spool.between_runs(job.row, job.due)


def _last_outcome(suspended: SuspendedJob) -> Outcome | None:
    """How the run before ended, for a job that sleeps; None before the first."""
    last = suspended.last
    if last is None:
        return None
    known = {one.name for one in fields(Outcome)}  # another version of ours may tell more
    told = {name: value for name, value in last.items() if name in known}
    return Outcome(**{**told, "streams": None if last["streams"] is None else tuple(last["streams"])})


def _told(outcome: Outcome) -> str:
    """How a run ended, for people: ``ERROR, exit code 3, after 1.2 s``."""
    code = None if outcome.exit_code is None else f"exit code {outcome.exit_code}"
    return ", ".join(filter(None, (outcome.state, code, outcome.signal, f"after {outcome.lived:.1f} s")))


class Next(Enum):
    END = "end"
    RESTART = "restart"
    RECUR = "recur"


class Decision(NamedTuple):
    """What to do after a run: whether its result is reported, what comes next, after how many seconds.

    ``gave_up`` is true when the restart limit was reached just now.
    """

    report: bool
    next: Next
    delay: float = 0.0
    gave_up: bool = False


class RestartPolicy:
    """Counts the restarts of one job and decides about each run that ended."""

    def __init__(
        self,
        max_restart: int,
        recurring_period: int,
        jitter: Callable[[], float] = random.random,
        restarts: int = 0,
        always: bool = False,
    ) -> None:
        """``always``: a run is followed by another however it ends, also where it was killed by a signal."""
        self._always = always
        self._max_restart = max_restart
        self._period = recurring_period
        self._jitter = jitter
        self.restarts = restarts

    def after(self, state: str, lived: float, has_result: bool, can_restart: bool = True) -> Decision:
        """Decides after a run that ended in ``state`` and lived ``lived`` seconds.

        ``can_restart`` is false when the executable is missing. Killed runs are not for this
        method: a killed job ends, but for one that must always run.
        """
        if lived > LONG_LIFE:
            self.restarts = 0
        if self._always and can_restart:
            self.restarts += 1
            return Decision(report=False, next=Next.RESTART, delay=self._restart_delay())
        failed = state != states.SUCCESS
        gave_up = False
        if failed and self._max_restart and can_restart:
            if self.restarts < self._max_restart:
                self.restarts += 1
                return Decision(report=False, next=Next.RESTART, delay=self._restart_delay())
            gave_up = True
        if self._period:
            self.restarts = 0
            return Decision(report=failed or has_result, next=Next.RECUR, delay=self._period, gave_up=gave_up)
        return Decision(report=True, next=Next.END, gave_up=gave_up)

    def _restart_delay(self) -> float:
        """1 s, then doubling with jitter up to 30 s."""
        if self.restarts <= 1:
            return FIRST_DELAY
        longest = min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(self.restarts - 1, 10))
        return longest / 2 + longest / 2 * self._jitter()
