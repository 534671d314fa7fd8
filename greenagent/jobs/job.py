"""A live job: what is known of it between acceptance and its last result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from gevent import Greenlet
from gevent.event import Event

from greenagent.jobs.handover import FrozenJob
from greenagent.process.child import Child
from greenagent.spool.records import FROM_HISTORY
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


class Job:
    """One live job. Its own greenlet changes it; others only ask, through ``ask_to_end``.

    ``external`` tells a process in a slot from a built-in. ``signals`` are the names of those the
    current run was sent by ``kill``. ``is_reported`` is true from the moment the last result goes
    into the ledger: the job is over, whatever is left to tidy up.
    """

    def __init__(self, command: Command, controller: str | None, kind: str, row: int, accepted: float) -> None:
        self.command = command
        self.controller = controller
        self.kind = kind
        self.row = row
        self.accepted = accepted
        self.external = True
        self.has_begun = False
        """Whether the ledger has its first run already, written with the acceptance."""
        self.stage = Stage.WAITING
        self.run = 0
        self.since = time.time()
        self.child: Child | None = None
        self.end_requested: Reason | None = None
        self.signals: set[str] = set()
        self.changed = Event()
        self.ended = Event()
        self.last_result: Result | None = None
        self.last_state = ""
        """How the run before this one, or before the pause, ended; reported or not."""
        self.is_reported = False
        self.unkillable: tuple[str, ...] = ()
        self.greenlet: Greenlet | None = None
        self.after_report: Callable[[], None] | None = None
        self.intake_port = 0
        self.is_handed_on = False
        """Set as its greenlet ends where it is: another Job goes on in the new image."""
        self.frozen: FrozenJob | None = None
        """Where the job stands when it is handed over to a new image, or came from an old one."""

    @property
    def id(self) -> str:
        return self.command.id

    @property
    def is_in_history(self) -> bool:
        """Whether the history file may name it: one that people or the original wrote holds any command."""
        return self.command.arguments.remembered or self.kind == FROM_HISTORY

    @property
    def repeats(self) -> bool:
        """Whether it goes on after ``killall``: recurring and remembered jobs do (design, section 5)."""
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
