"""The entrance: every command is checked, written down, and started or lined up (design, section 5)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import gevent

from greenagent.jobs.answers import Answers
from greenagent.jobs.handover import Frozen, FrozenJob
from greenagent.jobs.job import Identity, Job, Reason, Stage
from greenagent.jobs.launcher import Launcher
from greenagent.jobs.life import JobLife, unstarted
from greenagent.jobs.queues import WaitingLine
from greenagent.jobs.run_state import Outcome
from greenagent.process.child import signal_name
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.greenlets import Supervisor
from greenagent.settings.models import Settings
from greenagent.spool.history import HistoryFile
from greenagent.spool.records import FROM_CONTROLLER, FROM_STARTUP
from greenagent.spool.spool import Spool
from greenagent.values import levels, states
from greenagent.values.command import Command, parse_command, without_queue
from greenagent.values.errors import CommandError

UNKILLABLE_WAIT = 5.0
"""Seconds beyond grace and drain after which a kill answers that a job would not die."""

TOO_MANY = "refused: too many jobs wait on this node already"

ENTERING_WAIT = 2.0
"""Seconds a stop gives commands that are being written down."""


class Admission:
    """Keeps the live jobs and the waiting line; started once, by the agent."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        identity: Identity,
        spool: Spool,
        history: HistoryFile,
        launcher: Launcher,
        supervisor: Supervisor,
        agent_log: AgentLog,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._spool = spool
        self._history = history
        self._launcher = launcher
        self._supervisor = supervisor
        self._answers = Answers(settings, identity, spool, agent_log)
        self.live: dict[str, Job] = {}
        self.line = WaitingLine(settings().main.max_jobs)
        self.stopping = False
        self._entering = 0
        self.done: dict[str, int] = {}

    # -- in

    def accept(self, command: Command, controller: str) -> None:
        """Takes a command of a controller; returns once the ledger has it. Never raises for a bad command."""
        for warning in command.warnings:
            self._answers.remark("odd", levels.WARNING, f"job {command.id}: {warning}")
        known = self.live.get(command.id)
        while known is not None and known.is_reported:
            # Its controller may have the result already and send the next command of that id.
            known.ended.wait()
            known = self.live.get(command.id)
        if known is not None:
            if known.controller == controller and command.is_same_as(known.command):
                again = f"job {command.id}: delivered again while it lives; nothing to do"
                self._answers.remark("delivered again", levels.LOG, again)
                return
            self._answers.give(command, controller, states.DUPLICATE_ID, "A job exists with the same ID")
            return
        job = Job(command, controller, FROM_CONTROLLER, 0, time.time())
        self.live[command.id] = job
        try:
            refused = self.line.is_full and self._launcher.is_external(command.cmd)
            # Asked before the history is written, which comes before the ledger; and before a refusal.
            ask_first = refused or command.arguments.remembered
            if ask_first and self._spool.answer_again(command, controller):
                self._was_answered(job)
            elif refused:
                self.live.pop(command.id, None)
                self._answers.give(command, controller, states.ERROR, TOO_MANY)
            else:
                self.enter(job)
        except BaseException:
            self.live.pop(command.id, None)
            raise

    def refuse(self, error: CommandError, controller: str) -> None:
        """A command that cannot be understood: answered ERROR when its id can be read, and always said."""
        self._answers.refuse(error, controller)

    def enter(self, job: Job) -> None:
        """Writes a job down (unless it has its row already) and starts it or lines it up."""
        self._entering += 1
        try:
            self._enter(job)
        finally:
            self._entering -= 1

    def _enter(self, job: Job) -> None:
        command = job.command
        self.live[command.id] = job
        external = self._launcher.is_external(command.cmd)
        job.external = external is not False
        if external is not None and command.arguments.remembered and job.controller is not None:
            self._history.add(command, job.controller, job.accepted)
        if not job.row:
            begins = bool(external) and self._begins_at_once(command)
            row = self._spool.accept(
                command, job.controller, job.kind, waiting=bool(external), accepted=job.accepted, begins=begins
            )
            if row is None:
                self._was_answered(job)
                return
            job.row = row
            job.has_begun = begins and row > 0
        if external is None:
            self._end_unknown(job)
        elif external:
            self.line.add(job)
            if job.end_requested is not None:  # while the ledger wrote
                self.end_job(job, job.end_requested)
            self.start_next()
            if job.has_begun and job.greenlet is None and job.stage is Stage.WAITING:
                job.has_begun = False  # the agent is stopping, or has fewer slots by now
                self._spool.not_begun(job.row)
        else:
            job.greenlet = self._supervisor.spawn(f"job {job.id}", self._live_builtin, job)

    def _begins_at_once(self, command: Command) -> bool:
        """Whether a slot is free for it and nothing before it: then its first run is written with it, in one go."""
        arguments = command.arguments
        return not (self.stopping or arguments.queue or arguments.remembered) and self.line.free >= self._entering

    def start_next(self) -> None:
        """Starts what may start now."""
        while not self.stopping and (job := self.line.take()) is not None:
            job.greenlet = self._supervisor.spawn(f"job {job.id}", self._live_external, job)

    # -- kill

    def kill(self, job_id: str, number: int | None = None) -> str | None:
        """Ends a job, or sends it a signal; returns what went wrong, None when it is gone (or was signalled)."""
        job = self.live.get(job_id)
        if job is None:
            return f"there is no job with the id '{job_id}'"
        if number is not None:
            if job.child is None:
                return f"job '{job_id}' has no process that could be signalled"
            job.signals.add(signal_name(number))
            if not job.child.signal(number):
                return f"job '{job_id}' had ended before the signal was sent"
            return None
        self.end_job(job, Reason.KILL)
        main = self._settings().main
        if job.ended.wait(main.kill_grace + main.pipe_drain + UNKILLABLE_WAIT):
            if job.unkillable:
                return f"job '{job_id}' left processes that would not die: {', '.join(job.unkillable)}"
            return None
        pid = job.child.pid if job.child is not None else "unknown"
        return f"job '{job_id}' does not end: process {pid} would not die"

    def end_job(self, job: Job, reason: Reason) -> None:
        """Asks one job to end; a waiting one is taken out of the line and reported at once."""
        if reason is Reason.KILL_ALL and job.repeats and job.stage is Stage.WAITING:
            return  # nothing of it runs, and it goes on afterwards
        if self.line.remove(job):
            self._report_end(job, unstarted())
            self._over(job)
        else:
            job.ask_to_end(reason)

    def kill_all(self, spare: str) -> int:
        """Ends the current run of every job but ``spare`` and other built-ins; returns how many were asked."""
        victims = [job for job in self.live.values() if job.id != spare and job.external]
        for job in victims:
            self.end_job(job, Reason.KILL_ALL)
        return len(victims)

    # -- the agent's end

    def stop(self, reason: Reason = Reason.STOP) -> list[Job]:
        """Starts nothing more and asks all running jobs to end (``DRAIN``: after their run); returns the running.

        Waiting ones stay in the ledger, and so does what a poll still brings: they run at the next start.
        """
        self.stopping = True
        self._wait_for_entering()
        running = [job for job in self.live.values() if job.greenlet is not None]
        for job in running:
            job.ask_to_end(reason)
        return running

    def _wait_for_entering(self) -> None:
        """What is being written down says in the ledger that it waits before the ledger is closed."""
        deadline = time.monotonic() + ENTERING_WAIT
        while self._entering and time.monotonic() < deadline:
            gevent.sleep(0.002)

    # -- replacement in place

    def freeze(self, seconds: float) -> tuple[list[FrozenJob], list[Job]]:
        """Starts nothing more and turns the running jobs into values; waiting ones are in the ledger.

        There is no way back. Jobs that are just ending are waited for, ``seconds`` at most. Returns the frozen jobs
        and those that neither froze nor ended.
        """
        self.stopping = True
        self._wait_for_entering()
        running = [job for job in self.live.values() if job.greenlet is not None]
        for job in running:
            job.ask_to_end(Reason.HAND_OVER)
        gevent.wait([job.ended for job in running], timeout=seconds)
        # Not all that have a frozen state: one that was taken over keeps that of the replacement before.
        frozen = [job.frozen for job in running if job.frozen is not None and job.is_handed_on]
        return frozen, [job for job in running if not job.ended.is_set()]

    def resume(self, jobs: Iterable[FrozenJob]) -> None:
        """Goes on with jobs that an earlier image of the agent froze."""
        for frozen in jobs:
            command = parse_command(frozen.command)
            if frozen.kind == FROM_STARTUP:
                command = without_queue(command)
            job = Job(command, frozen.controller, frozen.kind, frozen.row, frozen.accepted)
            job.run = frozen.number
            job.frozen = frozen
            job.intake_port = frozen.intake_port
            job.external = frozen.run is not None or self._launcher.is_external(command.cmd) is not False
            self.live[job.id] = job
            if job.external:
                self.line.adopt(job)
            job.enter(Stage.RUNNING)
            job.since = frozen.since
            live = self._live_external if job.external else self._live_builtin
            job.greenlet = self._supervisor.spawn(f"job {job.id}", live, job)

    # -- lives

    def _live_external(self, job: Job) -> None:
        opened = self._launcher.opened(job)
        try:
            self._live(job, opened.execute, opened.say_limit)
        finally:
            opened.close()

    def _live_builtin(self, job: Job) -> None:
        self._live(job, self._launcher.run_builtin, lambda job, restarts: None)

    def _live(self, job: Job, execute: Callable[[Job], Outcome], on_limit: Callable[[Job, int], None]) -> None:
        interval = round(self._settings().stats.interval)
        life = JobLife(job, self._identity, self._spool, self._history, execute, interval, on_limit)
        try:
            life.run()
        except Frozen:
            job.is_handed_on = True
            job.ended.set()  # for this image of the agent; nothing is reported and no slot is freed
            return
        except Exception as error:
            # Our own bug must not lose the job: its controller hears of it, then the bug is said.
            reason = f"internal error of the agent: {type(error).__name__}: {error}"
            self._report_end(job, Outcome(states.ERROR, reason))
            self._over(job)
            raise
        except BaseException:
            self._over(job)
            raise
        self._over(job)
        if job.after_report is not None:
            job.after_report()

    def end_lost(self) -> None:
        """To be called every few seconds: answers for jobs whose greenlet lacked memory to begin."""
        lost = [job for job in self.live.values() if job.greenlet is not None and job.greenlet.dead]
        for job in lost:
            if not job.ended.is_set():
                self._report_end(job, Outcome(states.ERROR, "the agent lacked the memory to begin it"))
                self._over(job)

    def _over(self, job: Job) -> None:
        job.enter(Stage.ENDED)
        if self.live.get(job.id) is job:
            del self.live[job.id]
        if job.last_result is not None:
            state = job.last_result.state
            self.done[state] = self.done.get(state, 0) + 1
        self.line.finish(job)
        job.ended.set()
        self.start_next()

    def _end_unknown(self, job: Job) -> None:
        self._answers.remark("unknown", levels.WARNING, f"job {job.id}: unknown command '{job.command.cmd}'")
        self._report_end(job, Outcome(states.UNKNOWN_CMD))
        self._over(job)

    def _was_answered(self, job: Job) -> None:
        """A command delivered once more after its job's end: its result is on its way again."""
        again = f"job {job.id}: delivered again after its end; its result is sent again"
        self._answers.remark("answered again", levels.LOG, again)
        self._over(job)

    def _report_end(self, job: Job, outcome: Outcome) -> None:
        job.last_result = self._answers.result_of(job, outcome)
        job.is_reported = True
        if job.controller is not None:
            self._spool.report(job.row, job.controller, job.last_result, ends=True)
        else:
            self._spool.end(job.row)
        if job.is_in_history:
            self._history.remove(job.id)
