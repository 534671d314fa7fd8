"""Startup tasks: run once per start of the agent, some after others (protocol 11)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from gevent.event import Event

from greenagent.jobs.admission import Admission
from greenagent.jobs.context import JobContext
from greenagent.jobs.handover import StartupState
from greenagent.jobs.job import Identity, Job, Stage
from greenagent.settings.models import StartupTask
from greenagent.spool.records import FROM_STARTUP
from greenagent.values import states
from greenagent.values.command import Command, parse_command, without_queue

SETTLED = 2.0
"""Seconds a task must have run for those after it to start, unless it ``must_exit``."""
LOOK_EVERY = 0.2
"""Seconds between looks at a task that is not up yet."""


class StartupTasks:
    """Starts each task once the tasks it comes after are up, or done."""

    def __init__(self, context: JobContext, admission: Admission) -> None:
        self._identity = context.identity
        self._supervisor = context.supervisor
        self._agent_log = context.agent_log
        self._admission = admission
        self._up: dict[str, Event] = {}
        """Set once the fate of a task is known: up or failed."""
        self._failed: set[str] = set()
        self._started: list[str] = []
        self._watched: dict[str, _Watched] = {}

    def start(self, tasks: Iterable[StartupTask], before: StartupState | None = None) -> None:
        """Starts all tasks, those with conditions in greenlets of their own; returns at once for those.

        ``before``: what became of them in the image of the agent that this one replaced.
        """
        tasks = tuple(tasks)
        before = before or StartupState()
        self._started = list(before.started)
        self._failed = set(before.failed)
        self._up = {task.id: Event() for task in tasks}
        for task in tasks:
            if task.id in before.up or task.id in before.failed:
                self._up[task.id].set()
            elif task.id in before.started:
                self._watch_on(task)
            elif task.after:
                self._supervisor.spawn(f"startup task {task.id}", self._start_after, task)
            else:
                self._start(task)

    def state(self) -> StartupState:
        """What became of the tasks so far, for a new image of the agent; all jobs have ended or are suspended."""
        for watched in tuple(self._watched.values()):
            over = self._look(watched)  # its own greenlet may not have had its turn
            if not over and not watched.job.is_detached and not self._up[watched.task.id].is_set():
                self._fail(watched.task)  # it did not stop in time and was ended
        up = [name for name, event in self._up.items() if event.is_set() and name not in self._failed]
        return StartupState(list(self._started), up, sorted(self._failed))

    def _start_after(self, task: StartupTask) -> None:
        for name in task.after:
            self._up[name].wait()
            if name in self._failed:
                self._agent_log.error(f"startup.{task.id} is not started: startup.{name}, which it comes after, failed")
                self._fail(task)
                return
        if not self._admission.stopping:  # else the next image, or the next start, does
            self._start(task)

    def _start(self, task: StartupTask) -> None:
        self._started.append(task.id)
        alive = self._admission.live.get(task.id)
        if alive is not None and alive.kind == FROM_STARTUP:
            self._watch_on(task)  # an image before this one let it wait, and it was in the ledger
            return
        if alive is not None:
            self._agent_log.error(f"startup.{task.id} is not started: a job with this id lives already")
            self._fail(task)
            return
        job = Job(startup_command(task, self._identity), None, FROM_STARTUP, 0, time.time())
        self._admission.enter(job)
        self._supervisor.spawn(f"startup task {task.id}", self._watch, task, job)

    def _watch_on(self, task: StartupTask) -> None:
        """For a task that the image before this one started, and that was not up yet."""
        job = self._admission.live.get(task.id)
        if job is None:
            self._up[task.id].set()
        else:
            self._supervisor.spawn(f"startup task {task.id}", self._watch, task, job)

    def _watch(self, task: StartupTask, job: Job) -> None:
        """Tells those that come after when the task is up; a failure is said, since nobody else hears of it."""
        watched = self._watched[task.id] = _Watched(task, job)
        while not self._look(watched) and not job.is_detached:
            job.ended.wait(None if task.must_exit or self._up[task.id].is_set() else LOOK_EVERY)

    def _look(self, watched: _Watched) -> bool:
        """Notes how far a task is; true when its job is over."""
        if watched.is_over:
            return True
        job, task = watched.job, watched.task
        if job.is_detached:
            return False
        if not job.ended.is_set():
            if watched.is_settled and not task.must_exit:
                self._up[task.id].set()
            return False
        watched.is_over = True
        del self._watched[task.id]
        result = job.last_result
        if result is not None and result.state != states.SUCCESS:
            reason = f" ({result.data})" if result.data else ""
            self._agent_log.warning(f"startup.{task.id} ended {result.state}{reason}")
            if not self._up[task.id].is_set():
                self._fail(task)
        self._up[task.id].set()
        return True

    def _fail(self, task: StartupTask) -> None:
        self._failed.add(task.id)
        self._up[task.id].set()


class _Watched:
    """A started task with its job."""

    def __init__(self, task: StartupTask, job: Job) -> None:
        self.task = task
        self.job = job
        self.is_over = False
        self._run = 0
        self._began = 0.0

    @property
    def is_settled(self) -> bool:
        """Whether a run has lasted, or the last one was fine; one that fails at once and again is not up."""
        job = self.job
        if job.stage is not Stage.RUNNING:
            self._run = 0
            return job.last_state == states.SUCCESS
        if job.run != self._run:
            self._run, self._began = job.run, time.monotonic()
        return job.last_state == states.SUCCESS or time.monotonic() - self._began >= SETTLED


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
