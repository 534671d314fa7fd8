"""Startup tasks: run once per start of the agent, some after others (protocol 11)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from gevent.event import Event

from greenagent.jobs.admission import Admission
from greenagent.jobs.job import Identity, Job, Stage
from greenagent.ledger.records import FROM_STARTUP
from greenagent.runtime.greenlets import Supervisor
from greenagent.runtime.voice import Voice
from greenagent.settings.models import StartupTask
from greenagent.values import states
from greenagent.values.command import Command, parse_command, without_queue

SETTLED = 2.0
"""Seconds a task must have run for those after it to start, unless it ``must_exit``."""


class StartupTasks:
    """Starts each task once the tasks it comes after are up, or done."""

    def __init__(self, admission: Admission, identity: Identity, supervisor: Supervisor, voice: Voice) -> None:
        self._admission = admission
        self._identity = identity
        self._supervisor = supervisor
        self._voice = voice
        self._up: dict[str, Event] = {}
        self._failed: set[str] = set()
        self.started: list[str] = []

    def start(self, tasks: Iterable[StartupTask], before: Iterable[str] = ()) -> None:
        """Starts all tasks, those with conditions in greenlets of their own; returns at once for those.

        ``before``: ids of tasks that the replaced image of the agent started already.
        """
        tasks = tuple(tasks)
        self.started = list(before)
        self._up = {task.id: Event() for task in tasks}
        for task in tasks:
            if task.id in self.started:
                self._up[task.id].set()
            elif task.after:
                self._supervisor.spawn(f"startup task {task.id}", self._start_after, task)
            else:
                self._start(task)

    def _start_after(self, task: StartupTask) -> None:
        for name in task.after:
            self._up[name].wait()
            if name in self._failed:
                self._voice.error(f"startup.{task.id} is not started: startup.{name}, which it comes after, failed")
                self._fail(task)
                return
        self._start(task)

    def _start(self, task: StartupTask) -> None:
        self.started.append(task.id)
        if task.id in self._admission.live:
            self._voice.error(f"startup.{task.id} is not started: a job with this id lives already")
            self._fail(task)
            return
        job = Job(startup_command(task, self._identity), None, FROM_STARTUP, 0, time.time())
        self._admission.enter(job)
        self._supervisor.spawn(f"startup task {task.id}", self._watch, task, job)

    def _watch(self, task: StartupTask, job: Job) -> None:
        """Tells those that come after when the task is up; a failure is said, since nobody else hears of it."""
        while job.stage is Stage.WAITING and not job.ended.wait(0.2):
            pass  # the two seconds are of its running, not of its waiting for a slot
        settled: float | None = None if task.must_exit else SETTLED
        if not job.ended.wait(settled):
            self._up[task.id].set()
            job.ended.wait()
        result = job.last_result
        if result is not None and result.state != states.SUCCESS:
            reason = f" ({result.data})" if result.data else ""
            self._voice.warning(f"startup.{task.id} ended {result.state}{reason}")
            if not self._up[task.id].is_set():
                self._fail(task)
        self._up[task.id].set()

    def _fail(self, task: StartupTask) -> None:
        self._failed.add(task.id)
        self._up[task.id].set()


def startup_command(task: StartupTask, identity: Identity) -> Command:
    """The command of a task; its ``queue`` is ignored (protocol 11)."""
    command = parse_command(
        {
            "id": task.id,
            "gid": identity.gid,
            "nid": identity.nid,
            "cmd": task.name,
            "args": dict(task.args),
            "data": task.data,
        }
    )
    return without_queue(command)


def warn_of(tasks: Iterable[StartupTask], identity: Identity, warn: Callable[[str], None]) -> None:
    """Says what is odd about the tasks' arguments, without starting anything."""
    for task in tasks:
        for warning in startup_command(task, identity).warnings:
            warn(f"startup.{task.id}: {warning}")
