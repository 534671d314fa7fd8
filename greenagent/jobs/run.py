"""One run of one external job: start, feed, read, end (protocol 5.2, 5.6; design section 5 "Ending")."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gevent

from greenagent.jobs.extensions import Execution
from greenagent.jobs.job import Job
from greenagent.jobs.monitor import Monitor
from greenagent.jobs.output import JobOutput
from greenagent.logs.splitter import Splitter
from greenagent.process.child import Child, ExitStatus, Leftover
from greenagent.process.pipes import PipeReader, feed
from greenagent.process.spawn import SpawnError, SpawnRequest
from greenagent.runtime.greenlets import Supervisor
from greenagent.values import levels, states
from greenagent.values.message import Message


@dataclass(frozen=True, slots=True)
class Limits:
    """How long ending may take, and how long a line may be (settings ``main.*``)."""

    kill_grace: float
    pipe_drain: float
    max_line: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended. ``lived`` is seconds; ``starttime`` milliseconds since 1970."""

    state: str
    data: str = ""
    level: int = 0
    starttime: int = 0
    lived: float = 0.0
    streams: tuple[str, str] | None = None
    critical: str = ""
    truncated: bool = False
    exit_code: int | None = None
    signal: str | None = None
    can_restart: bool = True
    ended_by_request: bool = False

    @property
    def has_result(self) -> bool:
        return self.level in levels.RESULTS


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
            child = self._spawn(request)
        except SpawnError as error:
            return Outcome(states.ERROR, data=str(error), starttime=starttime, can_restart=not error.missing)
        began = time.monotonic()
        job = self._job
        job.signals.clear()
        job.child = child
        self._on_started(child)
        self._monitor.started(child)
        output = JobOutput(
            self._log, self._monitor.message, lambda text: self._announce(child, text), self._monitor.lines
        )
        readers = [
            self._reader(child.stdout, levels.STDOUT, output),
            self._reader(child.stderr, levels.STDERR, output),
        ]
        feeder = self._supervisor.spawn(f"stdin of job {job.id}", feed, child.stdin, execution.data.encode("utf-8"))
        watcher = self._supervisor.spawn(f"exit of job {job.id}", self._watch, child)
        cause = self._await_end(child, began)
        if cause is not None:
            child.end(self._limits.kill_grace)
        self._clean_up(child, execution, cause)
        for reader, _ in readers:
            reader.stop_after(self._limits.pipe_drain)
        gevent.joinall([greenlet for _, greenlet in readers])
        feeder.kill()
        watcher.kill()
        self._monitor.ended()
        if child.has_exited:
            status = child.reap()
        else:
            status = child.give_up()
        job.child = None
        return self._outcome(status, cause, output, starttime, time.monotonic() - began)

    def _reader(self, descriptor: int, level: int, output: JobOutput) -> tuple[PipeReader, Any]:
        reader = PipeReader(descriptor)

        def read() -> None:
            splitter = Splitter(level, self._limits.max_line)
            for chunk in reader.chunks():
                output.take(splitter.feed(chunk), splitter.result_truncated)
            output.take(splitter.finish(), splitter.result_truncated)

        return reader, self._supervisor.spawn(f"output of job {self._job.id}", read)

    def _watch(self, child: Child) -> None:
        child.wait(None)
        self._job.changed.set()

    def _await_end(self, child: Child, began: float) -> str | None:
        """Waits for the exit; the state to report if the agent has to end the child, else None."""
        job = self._job
        limit = job.command.arguments.time_limit
        while not child.has_exited:
            if job.must_end_now:
                return states.KILLED
            left = None if limit is None else began + limit - time.monotonic()
            if left is not None and left <= 0:
                return states.TIMEOUT
            job.changed.wait(left)
            job.changed.clear()
        return None

    def _clean_up(self, child: Child, execution: Execution, cause: str | None) -> None:
        """Ends what the child left behind: no process outlives its job (design, promise 5)."""
        if child.survivors:
            self._job.unkillable = tuple(str(process.pid) for process in child.survivors)
            self._say(levels.OPERATIONS_ERROR, f"greenagent: would not die: {_named(child.survivors)}")
        elif cause is None and execution.leave_children:
            child.leave_children()
        else:
            swept = child.sweep(self._limits.kill_grace)
            if cause is None and swept:
                self._say(levels.WARNING, f"greenagent: ended what the job left running: {_named(swept)}")

    def _announce(self, child: Child, text: str) -> None:
        if not text.strip().isdigit() or len(text) > 10:
            self._say(levels.WARNING, f"greenagent: 101::{text[:40]} names no process and is left out")
        elif not child.announce(int(text)):
            self._say(levels.WARNING, f"greenagent: process {int(text)} is not one of this job's and is left alone")

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


def _named(processes: tuple[Leftover, ...]) -> str:
    return ", ".join(f"{pid} ({command})" for pid, command in processes)
