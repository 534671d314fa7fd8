"""A live job: what is known of it between acceptance and its last result; and the queue in which jobs wait."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from typing import Final, NamedTuple

from gevent import Greenlet
from gevent.event import Event

from greenagent.jobs.handover import SuspendedJob
from greenagent.process.child import Child
from greenagent.spool.schema import FROM_HISTORY, FROM_STARTUP
from greenagent.values import levels, states
from greenagent.values.command import Command
from greenagent.values.json_shape import SHORT
from greenagent.values.result import NEVER_BEGAN, Result

MAX_WAITING: Final = 100_000
"""Jobs that may wait at once; further ones are refused, so that no controller can exhaust the memory."""
MAX_WAITING_BYTES: Final = 384 * 1024 * 1024
"""Memory that waiting jobs may take, by estimate: small ones reach their number first."""
MAX_TOLD: Final = 10_000
"""Waiting jobs that controllers are told of."""
_JOB_BYTES: Final = 3000
"""What a waiting job costs beside its texts (measured)."""


class Stage(Enum):
    """Where a live job stands."""

    WAITING = "waiting"
    RUNNING = "running"
    SLEEPING = "sleeping"
    ENDED = "ended"


class Reason(Enum):
    """Who ends a run, which decides what happens next (design, section 5 "Ending")."""

    KILL = "kill"
    """The job ends and reports KILLED."""
    KILL_ALL = "killall"
    """The current run ends; recurring and remembered jobs go on and report nothing meanwhile."""
    STOP = "stop"
    """The agent stops: KILLED is reported, but not of remembered jobs, which come back."""
    DRAIN = "drain"
    """The agent waits: the current run may end by itself, and no other follows it."""
    HAND_OVER = "hand over"
    """The agent is replaced in place: the job stops being looked after here and goes on in the new image."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this agent is on the wire."""

    gid: int
    nid: int

    def __str__(self) -> str:
        return f"{self.gid}:{self.nid}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended. ``lived`` is seconds; ``starttime`` milliseconds since 1970, 0 where nothing was begun."""

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
    reason: str = ""
    can_restart: bool = True
    ended_by_request: bool = False

    @property
    def has_result(self) -> bool:
        return self.level in levels.RESULTS


class Logged(NamedTuple):
    """What became of a job's lines: see ``lines`` and ``lost`` of ``Result``."""

    lines: dict[int, int]
    lost: int


def killed_before_start(by_request: bool = False, data: str = "killed before it was started") -> Outcome:
    """A run that was ended before anything of it ran."""
    return Outcome(
        states.KILLED,
        data=data,
        starttime=int(time.time() * 1000),
        ended_by_request=by_request,
    )


@dataclass(eq=False)
class Job:
    """One live job: its runner, its lifecycle and the admission change it, everybody else asks ``ask_to_end``.

    ``controller`` is the key of who asked for it, None for startup tasks; ``row`` its row in the spool, 0 before it
    has one; ``accepted`` seconds since 1970.
    """

    command: Command
    controller: str | None
    kind: str
    row: int
    accepted: float
    is_external: bool = True
    """Whether it takes a slot once it runs; false for a built-in only (an unknown command ends before it gets one)."""
    has_begun: bool = False
    """The spool has its first run already, written with the acceptance."""
    stage: Stage = Stage.WAITING
    run: int = 0
    due: float | None = None
    """When the next run begins, in seconds since 1970: between the runs of a recurring job."""
    since: float = field(default_factory=time.time)
    child: Child | None = None
    end_requested: Reason | None = None
    signals: set[str] = field(default_factory=set)
    """Names of those that ``kill`` sent to the current run."""
    changed: Event = field(default_factory=Event)
    """Set when its greenlet must look: it was asked to end, or its child exited."""
    ended: Event = field(default_factory=Event)
    last_result: Result | None = None
    last_state: str = ""
    """How the run before this one, or before the pause, ended; reported or not."""
    is_reported: bool = False
    """True from the moment the last result goes into the spool: the job is over, whatever is left to tidy up."""
    unkillable: str = ""
    """Its processes that could not be ended, in words."""
    greenlet: Greenlet | None = None
    after_report: Callable[[], None] | None = None
    """What a built-in does once its answer is in the spool."""
    statsd_port: int = 0
    suspended: SuspendedJob | None = None
    """Where the job stands when it goes to a new image, or where it stood when it came from an old one."""
    is_detached: bool = False
    """It goes on in the new image: its greenlet has ended here."""

    @property
    def id(self) -> str:
        return self.command.id

    @property
    def is_in_history(self) -> bool:
        """Whether the history file may name it: one that people or the original wrote holds any command."""
        return self.command.arguments.remembered or self.kind == FROM_HISTORY

    @property
    def repeats(self) -> bool:
        """Whether it goes on after ``killall``, as remembered jobs do (design, section 5 "Ending")."""
        return self.command.arguments.remembered

    @property
    def keeps_period(self) -> bool:
        """Whether its next run begins when it is due also where the agent is started meanwhile.

        Startup tasks begin anew with each start.
        """
        return self.command.arguments.keeps_period and self.kind != FROM_STARTUP

    def ask_to_end(self, reason: Reason) -> None:
        """Asks the job's greenlet to end the run (and, as the reason says, the job); returns at once."""
        # A kill is never taken back by a weaker reason, and what ends anyway is not handed over.
        if self.end_requested is None or (self.end_requested is not Reason.KILL and reason is not Reason.HAND_OVER):
            self.end_requested = reason
        self.changed.set()

    @property
    def must_end_now(self) -> bool:
        """Whether the current run is to be ended, not only what might follow it."""
        return self.end_requested not in (None, Reason.DRAIN, Reason.HAND_OVER)

    def enter(self, stage: Stage) -> None:
        self.stage = stage
        self.since = time.time()

    def wait_for_change(self, seconds: float | None) -> None:
        """Waits until there is something to look at, for ``seconds`` at most."""
        self.changed.wait(seconds)
        self.changed.clear()

    def result_of(
        self, outcome: Outcome, identity: Identity, stats_interval: int, logged: Logged | None = None
    ) -> Result:
        """The result object of one outcome (protocol 4.1); ``stats_interval`` is the agent's own."""
        command = self.command
        texts = (outcome.data, outcome.critical, *(outcome.streams or ()))
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
            reason=outcome.reason or (NEVER_BEGAN if self.is_external and not self.run else ""),
            truncated=outcome.truncated,
            lines=logged.lines if logged is not None else None,
            lost=logged.lost if logged is not None else 0,
            is_short=bool(command.text) and sum(map(len, texts)) <= SHORT,
        )


class JobQueue:
    """Jobs that were accepted and not started: who may start next (protocol 5.1, 5.5).

    Not started means: nothing of them runs, no slot is held. They wait in order of acceptance. Of the jobs of one
    queue only the oldest is ever ready or running, so a full ``max_jobs`` and queues cannot block each other.
    """

    def __init__(self, slots: int) -> None:
        """``slots``: how many jobs may run at once (``max_jobs``)."""
        self.slots = slots
        self._running: set[Job] = set()
        self._ready: list[tuple[int, int, Job]] = []
        self._queues: dict[str, deque[Job]] = {}
        self._arrivals = 0
        self.version = 0
        """Rises whenever a job begins or ends to wait."""
        self._changed = Event()
        self._waiting: dict[Job, None] = {}
        self._waiting_bytes = 0

    @property
    def running(self) -> int:
        """Slots in use; a job that sleeps between runs keeps its own (protocol 5.1)."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def free(self) -> int:
        """Slots that a new job would find: negative when jobs wait already."""
        return self.slots - len(self._running) - len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether so much waits that no more is to be taken."""
        return len(self._waiting) >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_BYTES

    def add(self, job: Job) -> None:
        """Puts a job at the end, or at the end of its serial queue."""
        self._arrivals += 1
        self._waiting[job] = None
        self._waiting_bytes += _weight(job)
        self._has_changed()
        name = job.command.arguments.queue
        if name:
            queue = self._queues.setdefault(name, deque())
            queue.append(job)
            if len(queue) > 1:
                return
        self._push(job)

    def add_running(self, job: Job) -> None:
        """A job that runs already (an earlier image of the agent started it): it has its slot and its queue."""
        self._running.add(job)
        name = job.command.arguments.queue
        if name:
            self._queues.setdefault(name, deque()).appendleft(job)

    def take(self) -> Job | None:
        """The next job that may start now, its slot taken; None when there is none or no slot."""
        while self._ready and len(self._running) < self.slots:
            job = heapq.heappop(self._ready)[2]
            if job in self._waiting:
                self._leave_waiting(job)
                self._running.add(job)
                return job
        return None

    def remove(self, job: Job) -> bool:
        """Takes a job out that never started; False when it is not waiting."""
        if job not in self._waiting:
            return False
        self._leave_waiting(job)
        self._leave_queue(job)
        return True

    def finish(self, job: Job) -> None:
        """A started job is over: frees its slot and the next of its queue. Harmless when repeated."""
        if job in self._running:
            self._running.discard(job)
            self._leave_queue(job)

    def _leave_waiting(self, job: Job) -> None:
        self._waiting.pop(job, None)
        self._waiting_bytes -= _weight(job)
        self._has_changed()

    def waiting_of(self, controller: str) -> dict[str, bool]:
        """The ids of a controller's jobs that wait, the first ones that came, so many that it takes no time."""
        return {job.id: True for job in islice(self._waiting, MAX_TOLD) if job.controller == controller}

    def wait_for_change(self, seen: int, timeout: float) -> None:
        """Returns once ``version`` is another than ``seen``, or after ``timeout`` seconds."""
        if self.version == seen:
            self._changed.clear()
            self._changed.wait(timeout)

    def _has_changed(self) -> None:
        self.version += 1
        self._changed.set()

    def _push(self, job: Job) -> None:
        heapq.heappush(self._ready, (job.row, self._arrivals, job))

    def _leave_queue(self, job: Job) -> None:
        name = job.command.arguments.queue
        queue = self._queues.get(name)
        if not queue:
            return
        was_first = queue[0] is job
        try:
            queue.remove(job)
        except ValueError:
            return
        if not queue:
            del self._queues[name]
        elif was_first:
            self._push(queue[0])


def _weight(job: Job) -> int:
    command = job.command
    args, env = command.arguments.args, command.arguments.env
    return _JOB_BYTES + len(command.text) + len(command.data) + sum(map(len, args)) + sum(len(v) for _, v in env)
