"""A live job: what is known of it between acceptance and its last result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from gevent import Greenlet
from gevent.event import Event

from greenagent.jobs.handover import SuspendedJob
from greenagent.process.child import Child
from greenagent.spool.schema import FROM_HISTORY
from greenagent.values import levels, states
from greenagent.values.command import Command
from greenagent.values.result import Result


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
    """The agent stops: KILLED is reported, but remembered jobs stay silent and come back."""
    DRAIN = "drain"
    """The agent waits: the current run may end by itself, and no other follows it."""
    HAND_OVER = "hand over"
    """The agent is replaced in place: the job stops being looked after here and goes on in the new image."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this agent is on the wire."""

    gid: int
    nid: int


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
    can_restart: bool = True
    ended_by_request: bool = False

    @property
    def has_result(self) -> bool:
        return self.level in levels.RESULTS


def killed_before_start(by_request: bool = False) -> Outcome:
    """A run that was ended before anything of it ran."""
    return Outcome(
        states.KILLED,
        data="killed before it was started",
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
    unkillable: tuple[str, ...] = ()
    """Pids of its processes that did not die."""
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
        """Whether it goes on after ``killall``: recurring and remembered jobs do (design, section 5 "Ending")."""
        return bool(self.command.arguments.recurring_period) or self.command.arguments.remembered

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

    def result_of(self, outcome: Outcome, identity: Identity, stats_interval: int) -> Result:
        """The result object of one outcome (protocol 4.1); ``stats_interval`` is the agent's own."""
        command = self.command
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
