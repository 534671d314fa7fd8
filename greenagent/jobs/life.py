"""The life of one job: its runs, the pauses between them, and what is reported (protocol 4.3, 5.3, 5.4)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace

from greenagent.jobs.handover import Frozen, FrozenJob
from greenagent.jobs.job import Identity, Job, Reason, Stage
from greenagent.jobs.repetition import Next, Repetition, Step
from greenagent.jobs.run_state import Outcome
from greenagent.spool.history import HistoryFile
from greenagent.spool.spool import Spool
from greenagent.values import states
from greenagent.values.result import Result

AGAIN_AFTER_KILL_ALL = 1.0
"""Seconds after which a remembered job that killall ended is started again."""


class JobLife:
    """Runs a job until it is over; everything it decides is written to the ledger first."""

    def __init__(
        self,
        job: Job,
        identity: Identity,
        spool: Spool,
        history: HistoryFile,
        execute: Callable[[Job], Outcome],
        stats_interval: int,
        on_limit: Callable[[Job, int], None],
    ) -> None:
        """``execute`` makes one run; ``on_limit(job, restarts)`` is told when the restart limit is reached."""
        self._job = job
        self._identity = identity
        self._spool = spool
        self._history = history
        self._execute = execute
        self._stats_interval = stats_interval
        self._on_limit = on_limit
        arguments = job.command.arguments
        restarts = job.frozen.restarts if job.frozen is not None else 0
        self._repetition = Repetition(arguments.max_restart, arguments.recurring_period, restarts=restarts)
        self._wakes = 0.0
        self._last: Outcome | None = None

    def run(self) -> None:
        """Returns when the job is over, or when the agent stops."""
        job = self._job
        if job.frozen is None and not self._may_start():
            return
        try:
            self._go_on()
        except Frozen as frozen:
            job.frozen = self._freeze(frozen)
            raise

    def _go_on(self) -> None:
        job = self._job
        if job.frozen is not None and job.frozen.run is None and not self._sleep_on(job.frozen):
            return
        while True:
            if job.end_requested is Reason.HAND_OVER:
                raise Frozen
            if job.frozen is None or job.frozen.run is None:
                job.run += 1
                job.enter(Stage.RUNNING)
                if job.run > 1 or (job.external and not job.has_begun):  # else its row says so since it was accepted
                    self._spool.running(job.row, job.run, int(time.time() * 1000))
            outcome = self._last = self._execute(job)
            job.last_state = outcome.state
            job.frozen = None
            if self._ends_by_request(outcome):
                return
            step = self._step_after(outcome)
            if step.gave_up:
                self._on_limit(job, job.command.arguments.max_restart)
            if step.next is Next.END:
                self._finish(outcome)
                return
            if step.report:
                self._report(outcome, ends=False)
            job.enter(Stage.SLEEPING)
            self._wakes = time.monotonic() + step.delay
            if not self._sleep():
                self._end_while_sleeping(outcome)
                return

    def _sleep_on(self, frozen: FrozenJob) -> bool:
        """Goes on with the pause an earlier image was in; False when the job ended meanwhile."""
        self._last = frozen.last_outcome()
        if self._last is None:
            return True  # it was handed over before its first run
        self._job.last_state = self._last.state
        self._wakes = frozen.wakes
        self._job.enter(Stage.SLEEPING)
        if self._sleep():
            return True
        self._end_while_sleeping(self._last)
        return False

    def _freeze(self, frozen: Frozen) -> FrozenJob:
        job = self._job
        return FrozenJob(
            row=job.row,
            command=dict(job.command.received),
            controller=job.controller,
            kind=job.kind,
            accepted=job.accepted,
            number=job.run,
            since=job.since,
            restarts=self._repetition.restarts,
            intake_port=job.intake_port,
            run=frozen.run,
            wakes=self._wakes,
            last=None if self._last is None else asdict(self._last),
        )

    def _may_start(self) -> bool:
        """False for a job that was asked to end between its leaving the waiting line and its first run."""
        job = self._job
        if job.end_requested in (Reason.STOP, Reason.DRAIN):
            if job.has_begun:
                self._spool.not_begun(job.row)
            return False  # never started: its row stays, and it is run at the agent's next start
        if job.end_requested is Reason.KILL_ALL and job.repeats:
            job.end_requested = None
        if job.end_requested not in (None, Reason.HAND_OVER) and job.external:
            self._finish(unstarted())
            return False
        return True

    def _step_after(self, outcome: Outcome) -> Step:
        job = self._job
        if job.after_report is not None:
            return Step(True, Next.END)  # it acts once it has answered, so it does not repeat
        if outcome.state == states.UNKNOWN_CMD:
            return Step(True, Next.END)  # its extension was removed
        if job.end_requested is Reason.KILL_ALL:
            job.end_requested = None
            if outcome.ended_by_request:
                period = job.command.arguments.recurring_period
                # Only repeating and remembered jobs get here: killall lets them go on (design, section 5).
                return Step(False, Next.RECUR, period or AGAIN_AFTER_KILL_ALL)
        return self._repetition.after(outcome.state, outcome.lived, outcome.has_result, outcome.can_restart)

    def _ends_by_request(self, outcome: Outcome) -> bool:
        """Deals with a run that was asked to end; True when the job is over with it."""
        job = self._job
        reason = job.end_requested
        if reason is None or reason is Reason.HAND_OVER:
            if outcome.state != states.KILLED:
                return False
            self._finish(outcome)  # it died of a signal that kill sent: the job ends with it
            return True
        if reason is Reason.KILL_ALL and job.repeats:
            return False
        if reason is Reason.STOP and job.command.arguments.remembered and not self._is_over(outcome):
            return True  # nothing is reported: it comes back at the next start
        if reason is Reason.DRAIN:
            return self._drained(outcome)
        if outcome.ended_by_request:
            self._finish(outcome)
            return True
        # It had ended by itself before it could be ended: that state stands if it was the last run anyway.
        self._finish(outcome if self._is_over(outcome) else replace(outcome, state=states.KILLED))
        return True

    def _is_over(self, outcome: Outcome) -> bool:
        """Whether a run that ended by itself was the job's last."""
        if outcome.ended_by_request:
            return False
        return self._step_after(outcome).next is Next.END

    def _drained(self, outcome: Outcome) -> bool:
        """The run that was let finish before the agent ends; another would follow only if nobody waited."""
        if self._is_over(outcome):
            self._finish(outcome)
        elif not self._job.command.arguments.remembered:
            self._finish(replace(outcome, state=states.KILLED))
        return True

    def _sleep(self) -> bool:
        """Waits between runs; False when the job is asked to end meanwhile."""
        job = self._job
        while (left := self._wakes - time.monotonic()) > 0:
            if job.end_requested is Reason.HAND_OVER:
                raise Frozen
            if job.end_requested is Reason.KILL_ALL:
                # Nothing runs: only a job that merely waits for its restart ends.
                if not job.repeats:
                    return False
                job.end_requested = None
            if job.end_requested is not None:
                return False
            job.changed.wait(left)
            job.changed.clear()
        return True

    def _end_while_sleeping(self, last: Outcome) -> None:
        leaving = self._job.end_requested in (Reason.STOP, Reason.DRAIN)
        if leaving and self._job.command.arguments.remembered:
            return
        self._finish(replace(last, state=states.KILLED))

    def _finish(self, outcome: Outcome) -> None:
        """The last result: the ledger first, then the history (design, section 3)."""
        self._report(outcome, ends=True)
        if self._job.is_in_history:
            self._history.remove(self._job.id)

    def _report(self, outcome: Outcome, ends: bool) -> None:
        job = self._job
        result = result_of(job, outcome, self._identity, self._stats_interval)
        job.last_result = result
        job.is_reported = ends
        if job.controller is not None:
            self._spool.report(job.row, job.controller, result, ends=ends)
        elif ends:
            self._spool.end(job.row)


def unstarted() -> Outcome:
    """A job that was ended before anything of it ran."""
    return Outcome(states.KILLED, data="killed before it was started", starttime=int(time.time() * 1000))


def result_of(job: Job, outcome: Outcome, identity: Identity, stats_interval: int) -> Result:
    """The result object of one outcome (protocol 4.1)."""
    command = job.command
    return Result(
        id=command.id,
        gid=identity.gid,
        nid=identity.nid,
        cmd=command.cmd,
        args=command.arguments.echo(stats_interval),
        data=outcome.data,
        level=outcome.level,
        state=outcome.state,
        starttime=outcome.starttime,
        time=round(outcome.lived * 1000),
        streams=outcome.streams,
        critical=outcome.critical,
        tags=command.tags,
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        truncated=outcome.truncated,
    )
