"""One run of one external job: start, feed, read, end (protocol 5.2, 5.6; design, section 5 "Ending")."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from greenagent.jobs.announcements import Announcements
from greenagent.jobs.extensions import Execution
from greenagent.jobs.handover import Frozen, FrozenRun
from greenagent.jobs.job import Job, Reason
from greenagent.jobs.monitor import Monitor
from greenagent.jobs.output import JobOutput
from greenagent.jobs.pumps import Pumps
from greenagent.jobs.run_state import Limits, Outcome
from greenagent.process.child import Child, Children, ExitStatus
from greenagent.process.spawn import SpawnError, SpawnRequest
from greenagent.process.termination import Survivor, end, sweep
from greenagent.runtime.greenlets import Supervisor
from greenagent.values import levels, states
from greenagent.values.message import Message

START_PAUSES: Final = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Seconds between the tries of a start for which the system has no room just now."""
FREEZE = "freeze"
"""Not a state: the run goes on in the agent's new image."""


class ExternalRun:
    """Runs one child of a job to its end."""

    def __init__(
        self,
        job: Job,
        log: Any,
        monitor: Monitor,
        limits: Limits,
        spawn: Callable[[SpawnRequest], Child],
        supervisor: Supervisor,
        on_started: Callable[[Child], None],
    ) -> None:
        self._job = job
        self._log = log
        self._monitor = monitor
        self._limits = limits
        self._spawn = spawn
        self._supervisor = supervisor
        self._on_started = on_started

    def execute(self, execution: Execution, environment: dict[str, str]) -> Outcome:
        """Starts the child and returns when it, its pipes and its descendants are done with."""
        starttime = int(time.time() * 1000)
        request = SpawnRequest(
            executable=execution.executable,
            arguments=execution.arguments,
            environment=environment,
            directory=execution.directory or None,
        )
        try:
            child = self._start(request)
        except SpawnError as error:
            tried = f" (tried for {sum(START_PAUSES):.0f} s)" if error.temporary else ""
            return Outcome(states.ERROR, data=f"{error}{tried}", starttime=starttime, can_restart=not error.missing)
        if child is None:
            return Outcome(
                states.KILLED, data="killed before it was started", starttime=starttime, ended_by_request=True
            )
        self._job.signals.clear()
        self._on_started(child)
        return self._supervise(child, execution.leave_children, execution.data.encode("utf-8"), starttime)

    def _start(self, request: SpawnRequest) -> Child | None:
        """Starts the child, again for some seconds while the system has no room.

        None when the job is asked to end meanwhile. Raises SpawnError, and Frozen: the agent is replaced
        and the new image starts it.
        """
        for pause in START_PAUSES:
            try:
                return self._spawn(request)
            except SpawnError as error:
                if not error.temporary:
                    raise
            if not self._pause(pause):
                return None
        return self._spawn(request)

    def _pause(self, seconds: float) -> bool:
        """Waits; False when the job is asked to end."""
        job = self._job
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if job.end_requested is Reason.HAND_OVER:
                job.run -= 1  # this run has not begun
                raise Frozen
            if job.must_end_now:
                return False
            job.changed.wait(left)
            job.changed.clear()
        return not job.must_end_now

    def resume(self, frozen: FrozenRun, children: Children) -> Outcome:
        """Goes on with a run that an earlier image of the agent started; returns as ``execute`` does."""
        child = children.attach(
            frozen.pid,
            frozen.pidfd,
            frozen.start_ticks,
            frozen.tag,
            (frozen.pipes.stdin, frozen.pipes.streams[0], frozen.pipes.streams[1]),
        )
        child.tree.known.update(frozen.known)
        self._job.signals.update(frozen.signals)
        return self._supervise(child, frozen.leave_children, frozen.pipes.data_left, frozen.starttime, frozen)

    def _supervise(
        self, child: Child, leave_children: bool, data: bytes, starttime: int, frozen: FrozenRun | None = None
    ) -> Outcome:
        began = time.monotonic() if frozen is None else frozen.began
        job = self._job
        job.child = child
        self._monitor.started(child)
        monitor = self._monitor
        announcements = Announcements(child, lambda text: self._say(levels.WARNING, f"greenagent: {text}"))
        output = JobOutput(self._log, monitor.message, announcements.take, monitor.output)
        pumps = Pumps(job.id, child, data, self._limits.max_line, output, self._supervisor)
        if frozen is not None:
            pumps.restore(frozen.pipes)
        pumps.start()
        child.when_exited(job.changed.set)
        cause = self._await_end(child, began)
        if cause == FREEZE:
            child.members()  # so that it is known by its pid whatever is known now by other signs
            pipes = pumps.freeze()
            announcements.end()
            self._monitor.ended()
            raise Frozen(
                FrozenRun(
                    child.pid,
                    child.pidfd,
                    child.start_ticks,
                    child.tag or "",
                    child.tree.known,
                    starttime,
                    began,
                    leave_children,
                    sorted(job.signals),
                    pipes,
                )
            )
        survivors = () if cause is None else end(child, self._limits.kill_grace)
        self._clean_up(child, leave_children, cause, survivors)
        pumps.finish(self._limits.pipe_drain)
        announcements.end()
        self._monitor.ended()
        if child.has_exited:
            status = child.reap()
        else:
            status = ExitStatus(None, None)
            self._supervisor.spawn(f"late end of job {job.id}", child.reap)
        job.child = None
        return self._outcome(status, cause, output, starttime, time.monotonic() - began)

    def _await_end(self, child: Child, began: float) -> str | None:
        """Waits for the exit; the state to report if the agent has to end the child, else None (or FREEZE)."""
        job = self._job
        limit = job.command.arguments.time_limit
        while not child.has_exited:
            if job.end_requested is Reason.HAND_OVER:
                return FREEZE
            if job.must_end_now:
                return states.KILLED
            left = None if limit is None else began + limit - time.monotonic()
            if left is not None and left <= 0:
                return states.TIMEOUT
            job.changed.wait(left)
            job.changed.clear()
        return None

    def _clean_up(self, child: Child, leave_children: bool, cause: str | None, survivors: tuple[Survivor, ...]) -> None:
        """Ends what the child left behind: no process outlives its job (design, promise 5)."""
        if survivors:
            self._job.unkillable = tuple(str(process.pid) for process in survivors)
            self._say(levels.OPERATIONS_ERROR, f"greenagent: would not die: {_named(survivors)}")
        elif cause is None and leave_children:
            child.leave_children()
        else:
            swept = sweep(child, self._limits.kill_grace)
            if cause is None and swept:
                self._say(levels.WARNING, f"greenagent: ended what the job left running: {_named(swept)}")

    def _say(self, level: int, text: str) -> None:
        self._log.append([Message(level, text)])

    def _outcome(
        self, status: ExitStatus, cause: str | None, output: JobOutput, starttime: int, lived: float
    ) -> Outcome:
        job = self._job
        if cause is not None:
            state = cause
        elif status.signal in job.signals:
            state = states.KILLED
        else:
            state = states.SUCCESS if status.code == 0 else states.ERROR
        data, level = "", 0
        if output.result is not None:
            level, data = output.result
        elif state == states.ERROR:
            data = f"exit code {status.code}" if status.code is not None else f"ended by {status.signal}"
        elif state == states.TIMEOUT:
            data = f"ended after max_time, {job.command.arguments.max_time} s"
        return Outcome(
            state=state,
            data=data,
            level=level,
            starttime=starttime,
            lived=lived,
            streams=output.streams,
            critical=output.critical,
            truncated=output.truncated,
            exit_code=status.code,
            signal=status.signal,
            ended_by_request=cause == states.KILLED,
        )


def _named(processes: tuple[Survivor, ...]) -> str:
    return ", ".join(f"{pid} ({command})" for pid, command in processes)
