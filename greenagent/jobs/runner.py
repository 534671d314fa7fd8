"""The runs of a job: a process, or a built-in (protocol 5.2, 5.6; design, section 5 "Ending")."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

import gevent

from greenagent.jobs.commands import Execution, NoScriptError, RemovedExtensionError, child_environment
from greenagent.jobs.context import JobContext
from greenagent.jobs.handover import Suspended, SuspendedRun, SuspendedStreams
from greenagent.jobs.job import Job, Logged, Outcome, Reason, killed_before_start
from greenagent.jobs.monitor import AnnouncedPids, JobMonitor
from greenagent.jobs.streams import JobOutput, StreamCopier
from greenagent.logs.runs import RunRecord
from greenagent.process.child import Child, ExitStatus, Survivor, end, named, sweep
from greenagent.process.job_tree import job_tag
from greenagent.process.spawn import SpawnError, SpawnRequest
from greenagent.settings.models import MainSettings
from greenagent.values import levels, states
from greenagent.values.command_line import command_line
from greenagent.values.errors import CommandError, GreenagentError
from greenagent.values.result import CANNOT_START, NOT_FOUND, STOPPED

START_PAUSES: Final = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Seconds between the tries of a start for which the system has no room just now."""
NOTED_AFTER: Final = 0.05
"""Seconds after its start at which a process is written down: most jobs are over by then, and have a tag anyway."""
SUSPEND: Final = "suspend"
"""Not a state: the run goes on in the agent's new image."""


class BuiltInRunner:
    """Runs a command inside the agent."""

    def __init__(self, job: Job, context: JobContext) -> None:
        self._job = job
        self._context = context

    def run(self) -> Outcome:
        """One call."""
        job = self._job
        starttime, began = int(time.time() * 1000), time.monotonic()
        try:
            answer = self._context.commands.built_ins[job.command.cmd](job.command)
        except GreenagentError as error:
            return Outcome(states.ERROR, str(error), starttime=starttime, lived=time.monotonic() - began)
        if answer.after_report is not None:
            job.after_report = answer.after_report
        return Outcome(
            states.SUCCESS,
            answer.data,
            answer.level,
            starttime=starttime,
            lived=time.monotonic() - began,
            truncated=answer.truncated,
        )

    def give_up(self, restarts: int) -> None:
        """A built-in has no log of its own."""

    def will_restart(self, outcome: Outcome, delay: float) -> None:
        """Nothing must always run inside the agent."""

    def logged(self) -> Logged | None:
        """Nor has it lines."""
        return None

    def close(self) -> None:
        """Holds nothing."""


class _Run(NamedTuple):
    """One process; ``starttime`` in milliseconds since 1970, ``began`` monotonic; ``record``: what is kept of it."""

    child: Child
    record: RunRecord
    starttime: int
    began: float
    leave_children: bool


class ExternalRunner:
    """Runs a job's processes one after the other; its log and its monitor are open for the job's whole life."""

    def __init__(self, job: Job, context: JobContext) -> None:
        self._job = job
        self._context = context
        self._log = context.routing.open(job)
        if job.suspended is not None:
            self._log.restore(job.suspended.log)
        statsd_under = context.supervisor if context.settings().stats.local_intake else None
        self._monitor = JobMonitor(job, context.statistics, context.meter, self._warn, statsd_under)

    @property
    def _main(self) -> MainSettings:
        return self._context.settings().main

    def run(self) -> Outcome:
        """One run, or the rest of one that an earlier image of the agent started.

        Returns when the process, its pipes and its descendants are done with. Raises Suspended: the agent is
        replaced in place.
        """
        job = self._job
        if job.suspended is not None and job.suspended.run is not None:
            return self._resume(job.suspended.run)
        context, starttime, began = self._context, int(time.time() * 1000), time.monotonic()
        record = context.runs.new(job, starttime)
        begun = self._begin(starttime)
        if isinstance(begun, Outcome):
            context.runs.ended(record, replace(begun, lived=time.monotonic() - began))
            return begun
        execution, child = begun
        if job.command.cmd in context.settings().extensions:
            record = record._replace(command=command_line((execution.executable, *execution.arguments)))
        context.runs.begun(record)
        job.signals.clear()
        note = partial(context.spool.process, job.row, child.pid, child.start_ticks)
        timer = gevent.get_hub().loop.timer(NOTED_AFTER)
        timer.start(note)
        run = _Run(child, record, starttime, time.monotonic(), execution.leave_children)
        try:
            return self._supervise(run, execution.data.encode("utf-8"))
        except Suspended:
            note()
            raise
        finally:
            timer.close()

    def _begin(self, starttime: int) -> tuple[Execution, Child] | Outcome:
        """Starts the process; the outcome where that fails."""
        try:
            execution = self._context.commands.resolve(self._job.command, self._job.controller)
            child = self._start(execution)
        except RemovedExtensionError as error:
            return Outcome(states.UNKNOWN_CMD, error.reason, starttime=starttime, reason=NOT_FOUND, can_restart=False)
        except CommandError as error:
            reason = NOT_FOUND if isinstance(error, NoScriptError) else CANNOT_START
            return Outcome(states.ERROR, error.reason, starttime=starttime, reason=reason, can_restart=False)
        except SpawnError as error:
            tried = f" (tried for {sum(START_PAUSES):.0f} s)" if error.temporary else ""
            return Outcome(
                states.ERROR,
                f"{error}{tried}",
                starttime=starttime,
                reason=NOT_FOUND if error.absent else CANNOT_START,
                can_restart=not error.missing,
            )
        return killed_before_start(by_request=True) if child is None else (execution, child)

    def give_up(self, restarts: int) -> None:
        """The restart limit is reached: one critical message in the job's own log (protocol 5.3)."""
        self._write(levels.CRITICAL, f"given up after {restarts} restarts")

    def will_restart(self, outcome: Outcome, delay: float) -> None:
        """A warning in the job's own log, since no result tells of a run that another follows."""
        how = f"exit code {outcome.exit_code}" if outcome.exit_code is not None else f"ended by {outcome.signal}"
        if outcome.exit_code is None and outcome.signal is None:
            how = outcome.data
        self._warn(f"{how} after {outcome.lived:.1f} s: starts again in {delay:.0f} s")

    def logged(self) -> Logged | None:
        """What became of the job's lines until now, the last ones of the agent about it being written."""
        return self._context.routing.logged(self._job, self._log)

    def close(self) -> None:
        """The job is over, or goes on in another image."""
        if self._job.suspended is not None:
            self._job.suspended.log = self._log.state()  # at once: the agent hands it over as soon as this gives way
        self._monitor.close()
        self._context.routing.close(self._job)

    def _start(self, execution: Execution) -> Child | None:
        """Starts the process, again for some seconds while the system has no room.

        None when the job is asked to end meanwhile. Raises SpawnError, and Suspended: the new image starts it.
        """
        request = SpawnRequest(
            execution.executable, execution.arguments, self._environment(execution), execution.directory or None
        )
        for pause in START_PAUSES:
            try:
                return self._context.spawner.spawn(request)
            except SpawnError as error:
                if not error.temporary:
                    raise
            if not self._pause(pause):
                return None
        return self._context.spawner.spawn(request)

    def _environment(self, execution: Execution) -> dict[str, str]:
        job, context = self._job, self._context
        settings = context.settings()
        controller = settings.controllers.get(job.controller) if job.controller is not None else None
        wanted = {**settings.main.env, **self._monitor.environment(), **execution.environment}
        tag = job_tag(context.spool.instance, job.id, job.run, execution.leave_children)
        return child_environment(wanted, tag, context.identity.gid, context.identity.nid, controller)

    def _pause(self, seconds: float) -> bool:
        """Waits; False when the job is asked to end."""
        job = self._job
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if job.end_requested is Reason.HAND_OVER:
                job.run -= 1  # this run has not begun
                raise Suspended
            if job.must_end_now:
                return False
            job.wait_for_change(left)
        return not job.must_end_now

    def _resume(self, suspended: SuspendedRun) -> Outcome:
        streams = suspended.pipes
        pipes = (streams.stdin, streams.streams[0], streams.streams[1])
        child = self._context.spawner.children.attach(
            suspended.pid, suspended.pidfd, suspended.start_ticks, suspended.tag, pipes
        )
        child.tree.known.update(suspended.known)
        self._job.signals.update(suspended.signals)
        record = self._context.runs.new(self._job, suspended.starttime, suspended.number, suspended.command)
        run = _Run(child, record, suspended.starttime, suspended.began, suspended.leave_children)
        return self._supervise(run, streams.data_left, streams)

    def _supervise(self, run: _Run, data: bytes, before: SuspendedStreams | None = None) -> Outcome:
        """Moves the process's bytes until its end; ``before``: how far an earlier image of the agent was."""
        job, child, monitor, supervisor = self._job, run.child, self._monitor, self._context.supervisor
        job.child = child
        monitor.started(child, is_new=before is None)
        announced = AnnouncedPids(child, self._warn)
        output = JobOutput(self._log, monitor.message, announced.take, monitor.output)
        copier = StreamCopier(job.id, child, data, self._main.max_line, output, supervisor)
        if before is not None:
            copier.restore(before)
        self._log.watch(copier.splitters)
        copier.start()
        child.when_exited(job.changed.set)
        cause = self._await_end(run)
        if cause == SUSPEND:
            child.members()  # so that it is known by its pid whatever is known now by other signs
            streams = copier.suspend()
            announced.end()
            monitor.ended()
            raise Suspended(self._suspended(run, streams))
        survivors = () if cause is None else end(child, self._main.kill_grace)
        self._clean_up(run, cause, survivors)
        copier.finish(self._main.pipe_drain)
        announced.end()
        peak = monitor.ended(child.reap_spent if child.has_exited else None)
        if child.has_exited:
            status = child.reap()
        else:
            status = ExitStatus(None, None)
            supervisor.spawn(f"late end of job {job.id}", child.reap)
        job.child = None
        outcome = self._outcome(run, status, cause, output)
        self._context.runs.ended(run.record, outcome, child.used.cpu, max(peak, child.used.memory))
        return outcome

    def _await_end(self, run: _Run) -> str | None:
        """Waits for the exit; the state to report if the agent has to end the process, else None (or SUSPEND)."""
        job = self._job
        limit = job.command.arguments.time_limit
        while not run.child.has_exited:
            if job.end_requested is Reason.HAND_OVER:
                return SUSPEND
            if job.must_end_now:
                return states.KILLED
            left = None if limit is None else run.began + limit - time.monotonic()
            if left is not None and left <= 0:
                return states.TIMEOUT
            job.wait_for_change(left)
        return None

    def _suspended(self, run: _Run, streams: SuspendedStreams) -> SuspendedRun:
        child = run.child
        return SuspendedRun(
            pid=child.pid,
            pidfd=child.pidfd,
            start_ticks=child.start_ticks,
            tag=child.tag or "",
            known=child.tree.known,
            starttime=run.starttime,
            began=run.began,
            leave_children=run.leave_children,
            number=run.record.number,
            command=run.record.command,
            signals=sorted(self._job.signals),
            pipes=streams,
        )

    def _clean_up(self, run: _Run, cause: str | None, survivors: tuple[Survivor, ...]) -> None:
        """Ends what the process left behind: no process outlives its job (design, promise 5)."""
        if cause is None and run.leave_children and run.child.wait() == ExitStatus(0, None):
            run.child.leave_children()
        elif not survivors:
            swept, survivors = sweep(run.child, self._main.kill_grace)
            if cause is None and swept:
                self._warn(f"ended what the job left running: {named(swept)}")
        self._job.unkillable = named(survivors)
        if survivors:
            text = f"could not be ended: {self._job.unkillable}"
            self._write(levels.OPERATIONS_ERROR, text)
            self._context.agent_log.error(f"job {self._job.id}: {text}")

    def _warn(self, text: str) -> None:
        self._write(levels.WARNING, text)

    def _write(self, level: int, text: str) -> None:
        """A message of the agent in the job's own log."""
        self._log.say(level, f"greenagent: {text}")

    def _outcome(self, run: _Run, status: ExitStatus, cause: str | None, output: JobOutput) -> Outcome:
        if cause is not None:
            state = cause
        elif status.signal in self._job.signals:
            state = states.KILLED
        else:
            state = states.SUCCESS if status.code == 0 else states.ERROR
        data, level = "", 0
        if output.result is not None:
            level, data = output.result
        elif state == states.ERROR:
            data = f"exit code {status.code}" if status.code is not None else f"ended by {status.signal}"
        elif state == states.TIMEOUT:
            data = f"ended after max_time, {self._job.command.arguments.max_time} s"
        elif self._job.end_requested is Reason.STOP and state == states.KILLED:
            data = STOPPED
        if self._job.unkillable and output.result is None and state != states.SUCCESS:
            data = f"{data and f'{data}; '}could not be ended: {self._job.unkillable}"
        return Outcome(
            state=state,
            data=data,
            level=level,
            starttime=run.starttime,
            lived=time.monotonic() - run.began,
            streams=output.streams,
            critical=output.critical,
            truncated=output.truncated,
            exit_code=status.code,
            signal=status.signal,
            ended_by_request=cause == states.KILLED,
        )


Runner = ExternalRunner | BuiltInRunner
