"""The entrance: every command is checked, written down, and started or queued.

See design, section 5 "Commands and admission".
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence

import gevent

from greenagent.jobs.context import JobContext
from greenagent.jobs.handover import Suspended, SuspendedJob
from greenagent.jobs.job import Job, JobQueue, Outcome, Reason, Stage, killed_before_start
from greenagent.jobs.lifecycle import Lifecycle
from greenagent.jobs.runner import BuiltInRunner, ExternalRunner
from greenagent.runtime.agent_log import RateLimitedLog
from greenagent.spool.schema import FROM_CONTROLLER, FROM_STARTUP, NewJob
from greenagent.values import levels, states
from greenagent.values.command import Command, parse_command, without_queue
from greenagent.values.errors import CommandError
from greenagent.values.result import NOT_FOUND, Result
from greenagent.values.signals import signal_name

UNKILLABLE_WAIT = 5.0
"""Seconds beyond grace and drain after which a kill answers that a job would not die."""

TOO_MANY = "refused: too many jobs wait on this node already"

ENTERING_WAIT = 2.0
"""Seconds a stop gives commands that are being written down."""


class Admission:
    """Keeps the live jobs and the queue of those that wait; made once, by the agent."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._remarks: defaultdict[str, RateLimitedLog] = defaultdict(context.agent_log.rate_limited)
        self.live: dict[str, Job] = {}
        self.queue = JobQueue(context.settings().main.max_jobs)
        self.stopping = False
        self._entering = 0
        self.done: Counter[str] = Counter()
        """How many jobs ended since the agent's start, by state."""

    # -- in

    def acknowledges(self, controller: str) -> None:
        """This controller may deliver a command again: from now on one that has ended is answered, not run."""
        self._context.spool.acknowledging.add(controller)

    def _reruns(self, controller: str | None) -> bool:
        """Whether a command equal to one that has ended is to run again."""
        settings = self._context.settings().controllers.get(controller or "")
        if settings is None or settings.rerun_ended == "auto":
            return settings is not None and controller not in self._context.spool.acknowledging
        return settings.rerun_ended == "true"

    def accept(self, commands: Sequence[Command], controller: str) -> None:
        """Takes commands of a controller; returns once the spool has them. Never raises for a bad command."""
        entering: list[Job] = []
        try:
            for command in commands:
                if (job := self._admit(command, controller)) is not None:
                    entering.append(job)
        except BaseException:
            self._withdraw(entering)
            raise
        self.enter(*entering)

    def _admit(self, command: Command, controller: str) -> Job | None:
        """The job that a command is to become; None where it becomes none, which has been answered then."""
        for warning in command.warnings:
            self._remark("odd", levels.WARNING, f"job {command.id}: {warning}")
        known = self.live.get(command.id)
        while known is not None and known.is_reported:
            # Its controller may have the result already and send the next command of that id.
            known.ended.wait()
            known = self.live.get(command.id)
        if known is not None:
            if known.controller == controller and command.is_same_as(known.command):
                again = f"job {command.id}: delivered again while it lives; nothing to do"
                self._remark("delivered again", levels.LOG, again)
                return None
            self._answer(command, controller, states.DUPLICATE_ID, "A job exists with the same ID")
            return None
        job = Job(command, controller, FROM_CONTROLLER, 0, time.time())
        self.live[command.id] = job
        try:
            refused = self.queue.is_full and self._context.commands.is_external(command.cmd)
            # Asked before the history is written, which comes before the spool; and before a refusal.
            ask_first = refused or command.arguments.remembered
            may_answer = ask_first and not self._reruns(controller)
            if may_answer and self._context.spool.answer_again(command, controller):
                self._was_answered(job)
                return None
            if refused:
                self.live.pop(command.id, None)
                self._answer(command, controller, states.ERROR, TOO_MANY)
                return None
        except BaseException:
            self.live.pop(command.id, None)
            raise
        return job

    def refuse(self, error: CommandError, controller: str) -> None:
        """A command that cannot be understood: answered ERROR when its id can be read, and always logged."""
        refused = f"controller {controller}: a command is refused: {error.reason}"
        self._remark("refused", levels.OPERATIONS_ERROR, refused)
        if error.command_id is None:
            return
        identity = self._context.identity
        result = Result(
            id=error.command_id,
            gid=identity.gid,
            nid=identity.nid,
            cmd=error.name,
            data=error.reason,
            state=states.ERROR,
            starttime=int(time.time() * 1000),
        )
        self._context.spool.report(0, controller, result, ends=False)

    def _answer(self, command: Command, controller: str, state: str, data: str) -> None:
        """Answers a command that becomes no job, and logs that."""
        self._remark(state, levels.WARNING, f"job {command.id}: {data}")
        job = Job(command, controller, FROM_CONTROLLER, 0, time.time())
        self._context.report(job, Outcome(state, data, starttime=int(time.time() * 1000)), ends=False)

    def _remark(self, kind: str, level: int, text: str) -> None:
        """Logs what a controller caused, each kind a few times a minute."""
        self._remarks[kind].log(level, text)

    def enter(self, *jobs: Job) -> None:
        """Writes jobs down in one go (unless they have their rows already) and starts or queues them."""
        self._entering += len(jobs)
        left = deque(jobs)
        try:
            self._write_down(jobs)
            while left:
                self._start_or_queue(left[0])
                left.popleft()
                self._entering -= 1
        except BaseException:
            self._withdraw(left)
            raise
        finally:
            self._entering -= len(left)

    def _withdraw(self, jobs: Iterable[Job]) -> None:
        """They were not taken: if their commands come again they are new ones."""
        for job in jobs:
            if self.live.get(job.id) is job:
                del self.live[job.id]

    def _write_down(self, jobs: Sequence[Job]) -> None:
        new: dict[Job, NewJob] = {}
        free = self.queue.free - (self._entering - len(jobs))
        for job in jobs:
            command = job.command
            self.live[command.id] = job
            external = self._context.commands.is_external(command.cmd)
            job.is_external = external is not False
            if external is not None and command.arguments.remembered and job.controller is not None:
                self._context.history.add(command, job.controller, job.accepted)
            if not job.row:
                job.has_begun = bool(external) and free > 0 and self._begins_at_once(command)
                free -= bool(external)
                new[job] = NewJob(
                    command,
                    job.controller,
                    job.kind,
                    waiting=bool(external),
                    accepted=job.accepted,
                    begins=job.has_begun,
                    reruns=self._reruns(job.controller),
                )
        if new:
            for job, row in zip(new, self._context.spool.accept(list(new.values())), strict=True):
                job.row = row or 0

    def _start_or_queue(self, job: Job) -> None:
        if not job.row:
            self._was_answered(job)
        elif self._context.commands.is_external(job.command.cmd) is None:
            self._end_unknown(job)
        elif job.is_external:
            self.queue.add(job)
            if job.end_requested is not None:  # while the spool wrote
                self.end_job(job, job.end_requested)
            self.start_next()
            if job.has_begun and job.greenlet is None and job.stage is Stage.WAITING:
                job.has_begun = False  # the agent is stopping, or has fewer slots by now
                self._context.spool.not_begun(job.row)
        else:
            self._begin(job)

    def _begins_at_once(self, command: Command) -> bool:
        """Whether it starts at once where a slot is free: its first run is written with it then, in one go."""
        return not (self.stopping or command.arguments.queue or command.arguments.remembered)

    def start_next(self) -> None:
        """Starts what may start now."""
        while not self.stopping and (job := self.queue.take()) is not None:
            self._begin(job)

    # -- kill

    def kill(self, job_id: str, number: int | None = None) -> str | None:
        """Ends a job, or sends it a signal; returns what went wrong, None when it is gone (or was signalled)."""
        job = self.live.get(job_id)
        if job is None:
            if self._context.spool.send_refused_again(job_id):
                return f"job '{job_id}' had ended before: its result is sent once more"
            return f"there is no job with the id '{job_id}'"
        if number is not None:
            if job.child is None:
                return f"job '{job_id}' has no process that could be signalled"
            try:
                if not job.child.signal(number):
                    return f"job '{job_id}' had ended before the signal was sent"
            except PermissionError:
                return f"job '{job_id}': the agent's user may not signal process {job.child.pid}"
            job.signals.add(signal_name(number))  # its end is not seen before: nothing gave way
            return None
        self.end_job(job, Reason.KILL)
        main = self._context.settings().main
        if job.ended.wait(main.kill_grace + main.pipe_drain + UNKILLABLE_WAIT):
            if job.unkillable:
                return f"job '{job_id}' left processes that could not be ended: {job.unkillable}"
            return None
        pid = job.child.pid if job.child is not None else "unknown"
        return f"job '{job_id}' does not end: process {pid} would not die"

    def end_job(self, job: Job, reason: Reason) -> None:
        """Asks one job to end; a waiting one is taken out of the queue and reported at once."""
        if reason is Reason.KILL_ALL and job.repeats and job.stage is Stage.WAITING:
            return  # nothing of it runs, and it goes on afterwards
        if self.queue.remove(job):
            self._context.report(job, killed_before_start())
            self._over(job)
        else:
            job.ask_to_end(reason)

    def kill_all(self, spare: str) -> int:
        """Ends the current run of every job but ``spare`` and other built-ins; returns how many were asked."""
        victims = [job for job in self.live.values() if job.id != spare and job.is_external]
        for job in victims:
            self.end_job(job, Reason.KILL_ALL)
        return len(victims)

    # -- the agent's end

    def stop(self, reason: Reason = Reason.STOP) -> list[Job]:
        """Starts nothing more and asks all running jobs to end (``DRAIN``: after their run); returns the running.

        Waiting ones stay in the spool, and so does what a poll still brings: they run at the next start.
        """
        self.stopping = True
        self._wait_for_entering()
        running = [job for job in self.live.values() if job.greenlet is not None]
        for job in running:
            job.ask_to_end(reason)
        return running

    def _wait_for_entering(self) -> None:
        """What is being written down says in the spool that it waits before the spool is closed."""
        deadline = time.monotonic() + ENTERING_WAIT
        while self._entering and time.monotonic() < deadline:
            gevent.sleep(0.002)

    # -- replacement in place

    def suspend(self, seconds: float) -> tuple[list[SuspendedJob], list[Job]]:
        """Starts nothing more and turns the running jobs into values; waiting ones are in the spool.

        There is no way back. Jobs that are just ending are waited for, ``seconds`` at most. Returns the suspended jobs
        and those that neither stopped nor ended.
        """
        running = self.stop(Reason.HAND_OVER)
        gevent.wait([job.ended for job in running], timeout=seconds)
        # Not all that have a suspended state: a job that was taken over keeps that of the replacement before.
        suspended = [job.suspended for job in running if job.suspended is not None and job.is_detached]
        return suspended, [job for job in running if not job.ended.is_set()]

    def resume(self, jobs: Iterable[SuspendedJob]) -> None:
        """Goes on with jobs that an earlier image of the agent suspended."""
        for suspended in jobs:
            command = parse_command(suspended.command)
            if suspended.kind == FROM_STARTUP:
                command = without_queue(command)
            job = Job(command, suspended.controller, suspended.kind, suspended.row, suspended.accepted)
            job.run = suspended.number
            job.suspended = suspended
            job.statsd_port = suspended.intake_port
            # One whose extension is gone by now runs all the same.
            job.is_external = suspended.run is not None or self._context.commands.is_external(command.cmd) is not False
            self.live[job.id] = job
            if job.is_external:
                self.queue.add_running(job)
            job.enter(Stage.RUNNING)
            job.since = suspended.since
            self._begin(job)

    # -- lives

    def _begin(self, job: Job) -> None:
        job.greenlet = self._context.supervisor.spawn(f"job {job.id}", self._live, job)

    def _live(self, job: Job) -> None:
        # The order at the end must stay. ``ended`` wakes the agent, which writes down what goes to a new image: nothing
        # may yield between it and the state of the log, which ``close`` takes first. And a slot is freed before the
        # log is closed, since that blocks while the log's disk hangs.
        runner = (ExternalRunner if job.is_external else BuiltInRunner)(job, self._context)
        try:
            Lifecycle(job, self._context, runner).run()
        except Suspended:
            job.is_detached = True
        except Exception as error:
            # Our own bug must not lose the job: its controller gets a result, then the bug is logged.
            reason = f"internal error of the agent: {type(error).__name__}: {error}"
            self._context.report(job, Outcome(states.ERROR, reason))
            raise
        finally:
            if job.is_detached:
                job.ended.set()  # for this image of the agent; nothing is reported and no slot is freed
            else:
                self._over(job)
            runner.close()
        if job.after_report is not None:
            job.after_report()

    def end_lost(self) -> None:
        """To be called every few seconds: answers for jobs whose greenlet lacked memory to begin."""
        lost = [job for job in self.live.values() if job.greenlet is not None and job.greenlet.dead]
        for job in lost:
            if not job.ended.is_set():
                self._context.report(job, Outcome(states.ERROR, "the agent lacked the memory to begin it"))
                self._over(job)

    def _over(self, job: Job) -> None:
        job.enter(Stage.ENDED)
        if self.live.get(job.id) is job:
            del self.live[job.id]
        if job.last_result is not None:
            self.done[job.last_result.state] += 1
        self.queue.finish(job)
        job.ended.set()
        self.start_next()

    def _end_unknown(self, job: Job) -> None:
        self._remark("unknown", levels.WARNING, f"job {job.id}: unknown command '{job.command.cmd}'")
        told = self._context.commands.names_instead_of(job.command.cmd)
        self._context.report(job, Outcome(states.UNKNOWN_CMD, told, reason=NOT_FOUND))
        self._over(job)

    def _was_answered(self, job: Job) -> None:
        """A command delivered once more after its job's end: its result is on its way again."""
        again = f"job {job.id}: delivered again after its end; its result is sent again"
        self._remark("answered again", levels.LOG, again)
        self._over(job)
