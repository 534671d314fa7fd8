"""What runs at the agent's start: startup tasks (protocol 11), and what an earlier life left (design, section 3)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gevent.event import Event

from greenagent.jobs.admission import Admission
from greenagent.jobs.context import JobContext
from greenagent.jobs.handover import StartupState
from greenagent.jobs.job import Identity, Job, Outcome, Stage
from greenagent.jobs.lifecycle import RestartPolicy, write_down
from greenagent.jobs.run_records import CUT_OFF, HELD_UP
from greenagent.process.child import Survivor, named
from greenagent.settings.models import StartupTask
from greenagent.spool.schema import FROM_CONTROLLER, FROM_HISTORY, FROM_STARTUP, RUNNING, WAITING, JobRecord
from greenagent.values import levels, states
from greenagent.values.command import Command, parse_command, without_queue
from greenagent.values.errors import CommandError

SETTLED = 2.0
"""Seconds a task must have run for those after it to start, unless it ``must_exit``."""
LOOK_EVERY = 0.2
"""Seconds between looks at a task that is not up yet."""
MOVED = "given up: it was given to node {}, which is node {} now"


@dataclass(eq=False)
class _Task:
    """A startup task and what became of it."""

    settings: StartupTask
    is_started: bool = False
    has_failed: bool = False
    decided: Event = field(default_factory=Event)
    """Set once it is up or has failed."""
    job: Job | None = None
    """While it is watched."""
    run: int = 0
    """The run that was seen last, and since when."""
    began: float = 0.0

    @property
    def id(self) -> str:
        return self.settings.id

    def fail(self) -> None:
        self.has_failed = True
        self.decided.set()

    def is_settled(self, job: Job) -> bool:
        """Whether a run has lasted, or the last one was fine; one that fails at once and again is not up."""
        if job.stage is not Stage.RUNNING:
            self.run = 0
            return job.last_state == states.SUCCESS
        if job.run != self.run:
            self.run, self.began = job.run, time.monotonic()
        return job.last_state == states.SUCCESS or time.monotonic() - self.began >= SETTLED


class StartupTasks:
    """Starts each task once the tasks it comes after are up, or done."""

    def __init__(self, context: JobContext, admission: Admission) -> None:
        self._context = context
        self._admission = admission
        self._before = StartupState()
        self._tasks: dict[str, _Task] = {}

    def start(self, tasks: Iterable[StartupTask], before: StartupState | None = None) -> None:
        """Starts all tasks, those with conditions in greenlets of their own; returns at once for those.

        ``before``: what became of them in the image of the agent that this one replaced.
        """
        self._before = before = before or StartupState()
        self._tasks = {settings.id: _Task(settings) for settings in tasks}
        for task in self._tasks.values():
            task.is_started = task.id in before.started
            task.has_failed = task.id in before.failed
            if task.has_failed or task.id in before.up:
                task.decided.set()
            elif task.is_started:
                self._go_on(task)
            elif task.settings.after:
                self._context.supervisor.spawn(f"startup task {task.id}", self._start_after, task)
            else:
                self._start(task)

    def state(self) -> StartupState:
        """What became of the tasks so far, for a new image of the agent; all jobs have ended or are suspended."""
        tasks = self._tasks.values()
        for task in tasks:
            job = task.job
            # Its own greenlet may not have had its turn.
            if job is not None and not self._look(task, job) and not (job.is_detached or task.decided.is_set()):
                task.fail()  # the job did not stop in time and was ended
        return StartupState(
            started=list(dict.fromkeys([*self._before.started, *(task.id for task in tasks if task.is_started)])),
            up=[task.id for task in tasks if task.decided.is_set() and not task.has_failed],
            failed=sorted({*self._before.failed, *(task.id for task in tasks if task.has_failed)}),
        )

    def _start_after(self, task: _Task) -> None:
        for other in (self._tasks[name] for name in task.settings.after):
            other.decided.wait()
            if other.has_failed:
                text = f"startup.{task.id} is not started: startup.{other.id}, which it comes after, failed"
                self._context.agent_log.error(text)
                task.fail()
                return
        if not self._admission.stopping:  # else the next image, or the next start, does
            self._start(task)

    def _start(self, task: _Task) -> None:
        task.is_started = True
        alive = self._admission.live.get(task.id)
        if alive is not None and alive.kind != FROM_STARTUP:
            self._context.agent_log.error(f"startup.{task.id} is not started: a job with this id lives already")
            task.fail()
            return
        if alive is None:  # else an image before this one let it wait, and it was in the spool
            command = startup_command(task.settings, self._context.identity)
            self._admission.enter(alive := Job(command, None, FROM_STARTUP, 0, time.time()))
        self._watch(task, alive)

    def _go_on(self, task: _Task) -> None:
        """For a task that the image before this one started, and that was not up yet."""
        job = self._admission.live.get(task.id)
        if job is None:
            task.decided.set()
        else:
            self._watch(task, job)

    def _watch(self, task: _Task, job: Job) -> None:
        task.job = job
        self._context.supervisor.spawn(f"startup task {task.id}", self._watch_on, task, job)

    def _watch_on(self, task: _Task, job: Job) -> None:
        """Tells those that come after when the task is up; a failure is logged, since nobody else hears of it."""
        while task.job is not None and not self._look(task, job) and not job.is_detached:
            job.ended.wait(None if task.settings.must_exit or task.decided.is_set() else LOOK_EVERY)

    def _look(self, task: _Task, job: Job) -> bool:
        """Notes how far a task is; true when its job is over."""
        if job.is_detached:
            return False
        if not job.ended.is_set():
            if not task.settings.must_exit and task.is_settled(job):
                task.decided.set()
            return False
        task.job = None
        result = job.last_result
        if result is not None and result.state != states.SUCCESS:
            reason = f" ({result.data})" if result.data else ""
            self._context.agent_log.warning(f"startup.{task.id} ended {result.state}{reason}")
            task.has_failed = task.has_failed or not task.decided.is_set()
        task.decided.set()
        return True


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


def recover(
    context: JobContext,
    admission: Admission,
    taken_over: Collection[int] | None = None,
    former: Identity | None = None,
    survivors: Mapping[str, Sequence[Survivor]] | None = None,
) -> None:
    """Reports cut-off jobs and starts the others again: once, before the pollers start, orphans having been ended.

    ``taken_over``: the rows of jobs that the replaced image of the agent handed over, which go
    on already; None when this start is no replacement in place. ``former``: the address that the ledger was used under,
    where that is another: its controllers' jobs are over, since they could neither be told of nor ended any more.
    ``survivors``: by job, what could not be ended.
    """
    was, moved_to = context, None
    if former is not None:
        was, moved_to = replace(context, identity=former), context.identity
    records = context.spool.unfinished()
    remembered = {entry.command.id: entry for entry in context.history.load()}
    for job_id, old in list(remembered.items()):
        if old.accepted and context.spool.has_ended(job_id, old.accepted):
            # Killed between its end in the spool and its leaving the history.
            context.history.remove(job_id)
            del remembered[job_id]
    jobs = []
    for record in records:
        entry = remembered.pop(record.id, None) if record.kind != FROM_STARTUP else None
        if taken_over is None or record.row not in taken_over:
            alive = named(survivors[record.id]) if survivors and record.id in survivors else ""
            jobs.append(_job_of(was, record, entry is not None, taken_over is not None, moved_to, alive))
    for left in remembered.values():
        controller = left.controller or _only_controller(context)
        jobs.append(Job(left.command, controller, FROM_HISTORY, 0, left.accepted or time.time()))
    for job in jobs:
        if job is not None and job.id in admission.live:
            context.agent_log.error(f"job {job.id} is not run again: a job with this id lives already")
        elif job is not None:
            if job.is_in_history and job.controller not in (None, *context.settings().controllers):
                context.agent_log.warning(
                    f"job {job.id} goes on, though its controller '{job.controller}' is not configured any more: "
                    "the command kill of another controller ends it"
                )
            admission.enter(job)


def _job_of(
    context: JobContext,
    record: JobRecord,
    in_history: bool,
    is_replacement: bool,
    moved_to: Identity | None,
    alive: str,
) -> Job | None:
    """The job to be run again; None for one whose end is written down here.

    ``moved_to``: the agent's address where that is not the one of ``context``, which the job was given to.
    ``alive``: the processes of it that could not be ended, "" for none.
    """
    try:
        command = parse_command(json.loads(record.command))
    except (CommandError, ValueError) as error:
        context.agent_log.error(f"job {record.id}: its entry in the ledger cannot be read ({error}): given up")
        context.spool.end(record.row)
        return None
    job = Job(command, record.controller, record.kind, record.row, record.accepted)
    left = alive and f"could not be ended: {alive}"
    if left:
        log = context.routing.open(job)
        log.say(levels.OPERATIONS_ERROR, f"greenagent: {left}")
        context.routing.close(job)
    if record.kind == FROM_STARTUP:
        job.command = without_queue(command)
        if is_replacement and record.state == WAITING:
            return job
        context.spool.end(record.row)  # startup tasks run anew at every start
        return None
    again = in_history or command.arguments.remembered
    job.kind = FROM_HISTORY if again else FROM_CONTROLLER
    job.run, job.due = record.run, record.due  # further runs count on
    is_cut_off = record.state == RUNNING and record.due is None
    goes_on = again
    if moved_to is not None and record.controller is not None and (again or record.state == WAITING):
        reason, goes_on = MOVED.format(context.identity, moved_to), False
    elif is_cut_off and (job.keeps_period or not again):
        reason = HELD_UP if is_replacement else CUT_OFF
    else:
        return job
    reason += left and f"; {left}"
    context.agent_log.warning(f"job {record.id}: {reason}")
    starttime = record.starttime or int(record.accepted * 1000)
    lived = max(0, time.time() - starttime / 1000) if is_cut_off else 0
    # A controller takes any other end of a recurring job for that of one run: to it the job would go on for ever.
    ends_recurring = not goes_on and command.arguments.recurring_period > 0
    outcome = Outcome(states.KILLED if ends_recurring else states.ERROR, reason, starttime=starttime, lived=lived)
    if goes_on:  # a recurring job: a run that was cut off has failed
        arguments = command.arguments
        policy = RestartPolicy(arguments.max_restart, arguments.recurring_period)
        write_down(context, job, outcome, policy.after(outcome.state, outcome.lived, has_result=False))
        return job
    context.report(job, outcome)
    return None


def _only_controller(context: JobContext) -> str | None:
    """An entry without a controller reports only if exactly one is configured (design, section 3)."""
    controllers = list(context.settings().controllers)
    return controllers[0] if len(controllers) == 1 else None
