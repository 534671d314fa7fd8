"""Jobs as the controller knows them: a command, the agents it is for, and what they answered.

Nothing here waits, reads or writes; ``state.job_store`` says how a job may be changed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from gevent.event import Event

from greenagent.values import states
from greenagent.values.arguments import as_text

NO_AGENT: Final = "No matching connected agents found"
"""The original's text for a command nobody can take (protocol 12.3)."""
NOT_ACKNOWLEDGED: Final = "not acknowledged"
IDENTITY_DIGITS: Final = 18
"""A gid or nid has 18 digits at most: the state file could not hold more."""


class AgentKey(NamedTuple):
    """The identity of an agent (protocol 1.1)."""

    gid: int
    nid: int

    def __str__(self) -> str:
        return f"{self.gid}:{self.nid}"

    def to_wire(self) -> dict[str, int]:
        return {"gid": self.gid, "nid": self.nid}


class Target(NamedTuple):
    """Whom a command is for: one node, or whoever has all the roles."""

    key: AgentKey
    roles: tuple[str, ...]
    fanout: bool

    @classmethod
    def of(cls, command: dict[str, Any]) -> Target:
        """The target of a command object that was checked before."""
        roles = command.get("roles") or ([command["role"]] if command.get("role") else [])
        key = AgentKey(int(command.get("gid") or 0), int(command.get("nid") or 0))
        return cls(key, tuple(roles), bool(command.get("fanout")))

    def matches(self, key: AgentKey, roles: Iterable[str]) -> bool:
        """True when the agent may run it by role and grid (protocol 12.3); ``*`` is any agent."""
        if self.key.gid not in (0, key.gid):
            return False
        return "*" in self.roles or set(self.roles) <= set(roles)


class Changes:
    """Wakes all greenlets that wait for a change."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = Event()

    def announce(self) -> None:
        self._event.set()
        self._event = Event()

    def wait(self, timeout: float) -> None:
        """Waits for the next change, at most ``timeout`` seconds."""
        self._event.wait(timeout)


@dataclass(eq=False, slots=True)
class Assignment:
    """One job for one agent. Who looks at it in order to change it holds ``JobStore.lock(assignment)``."""

    job: Job
    number: int
    agent: AgentKey | None
    """For an unassigned one: the agent it is just offered to or has been delivered to, or None."""
    unassigned: bool = False
    """Any matching agent may take it; once it is taken back, any other may."""
    state: str = states.QUEUED
    token: str = ""
    """Names the delivery that the agent has not acknowledged yet."""
    deliveries: int = 0
    delivered: float = 0.0
    """When the last delivery was, by ``monotonic_epoch``."""
    received: int = 0
    """Results received, also those no longer kept."""
    results: list[dict[str, Any]] = field(default_factory=list)
    seen: dict[tuple[int, str], None] = field(default_factory=dict)
    """Start time and state of the results received: a repeat has the same."""
    refused: dict[str, Any] | None = None
    """A DUPILICATE_ID result that is held back."""
    refused_at: float = 0.0

    @property
    def ended(self) -> bool:
        return states.is_terminal(self.state)

    def change(self, **changes: Any) -> None:
        """Sets attributes. Only ``JobStore`` calls this, after the state file has them."""
        for name, value in changes.items():
            setattr(self, name, value)

    def newest_result(self) -> dict[str, Any]:
        """The newest result, or the placeholder that stands for it (protocol 4.2)."""
        if self.results:
            return self.results[-1]
        key = self.agent or self.job.target.key
        placeholder: dict[str, Any] = {"id": self.job.id, **key.to_wire(), "state": self.state}
        if self.state == states.RUNNING:
            placeholder["starttime"] = int(self.job.stamp(self.delivered) * 1000)
        return placeholder


@dataclass(eq=False, slots=True)
class Job:
    """One posted command.

    Times are seconds since 1970: ``created`` as the wall clock showed it, the others by ``monotonic_epoch``,
    which nobody can set; people and the state file get those through ``stamp``.
    """

    seq: int
    id: str
    command: dict[str, Any]
    target: Target
    created: float
    wall_offset: float = 0.0
    """Seconds from ``monotonic_epoch`` to the wall clock when the job was posted."""
    wait_until: float = 0.0
    """It ends if no agent is live by then; 0: it does not wait for one."""
    finished: float = 0.0
    """When the last of its agents ended; 0 before."""
    size: int = 0
    """Bytes of the command and of the results kept."""
    assignments: list[Assignment] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)
    """Announced when an assignment changes, a result comes or lines come."""

    @property
    def recurring(self) -> bool:
        """True where the agent, which takes whole seconds, runs the job again and again (protocol 2.2)."""
        args = self.command.get("args")
        period = args.get("recurring_period") if isinstance(args, dict) else None
        return isinstance(period, (int, float)) and not isinstance(period, bool) and 1 <= period < math.inf

    @property
    def answered(self) -> bool:
        """True when every result shown is terminal; a recurring job is answered by its first."""
        shown = [one.newest_result() for one in self.assignments]
        return bool(shown) and all(states.is_terminal(result["state"]) for result in shown)

    @property
    def state(self) -> str:
        """RUNNING, QUEUED, or the outcome: SUCCESS only if every agent says so."""
        found = [one.state for one in self.assignments]
        for placeholder in (states.RUNNING, states.QUEUED):
            if placeholder in found or not found:
                return placeholder
        return next((state for state in found if state != states.SUCCESS), states.SUCCESS)

    def stamp(self, moment: float) -> float:
        """What the wall clock showed at a moment of ``monotonic_epoch``; 0 stays 0."""
        return moment + self.wall_offset if moment else 0.0

    def assignment_of(self, key: AgentKey) -> Assignment | None:
        """The agent's own, or the one that no agent has been offered yet."""
        own = (one for one in self.assignments if one.agent == key)
        free = (one for one in self.assignments if one.agent is None)
        return next(own, None) or next(free, None)

    def assign(self, agents: Iterable[AgentKey | None], **values: Any) -> list[Assignment]:
        """New assignments with the next free numbers; they belong to the job once they are stored."""
        first = self.assignments[-1].number + 1 if self.assignments else 0
        return [Assignment(self, number, agent, **values) for number, agent in enumerate(agents, first)]

    def summary(self) -> dict[str, Any]:
        """The job in a list of jobs."""
        args = self.command.get("args")
        args = args if isinstance(args, dict) else {}
        return {
            "id": self.id,
            "cmd": as_text(self.command.get("cmd")),
            "name": as_text(args.get("name")),
            "domain": as_text(args.get("domain")),
            **self.target.key.to_wire(),
            "roles": list(self.target.roles),
            "fanout": self.target.fanout,
            "state": self.state,
            "created": self.created,
            "finished": self.stamp(self.finished) or None,
            "recurring": self.recurring,
            "agents": [
                {**(one.agent or self.target.key).to_wire(), "state": one.state, "results": one.received}
                for one in self.assignments
            ],
        }

    def full(self) -> dict[str, Any]:
        """The job with its command and results."""
        return {
            **self.summary(),
            "command": self.command,
            "results": [one.newest_result() for one in self.assignments],
            "earlier": [result for one in self.assignments for result in one.results[:-1]],
        }


def synthetic_result(assignment: Assignment, state: str, data: str, level: int = 0) -> dict[str, Any]:
    """A result the controller itself gives; ``delivered`` false says that no agent answered."""
    job = assignment.job
    args = job.command.get("args")
    return {
        "id": job.id,
        **(assignment.agent or job.target.key).to_wire(),
        "cmd": job.command.get("cmd") or "",
        "args": args if isinstance(args, dict) else {},
        "data": data,
        "level": level,
        "state": state,
        "starttime": int(time.time() * 1000),
        "time": 0,
        "delivered": False,
    }
