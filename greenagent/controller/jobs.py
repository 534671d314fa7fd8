"""A job as the controller knows it: its command, the agents it is for, and what they answered."""

from __future__ import annotations

import math
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
"""A gid or nid of more digits is none; the state file could not hold it."""


class AgentKey(NamedTuple):
    """The identity of an agent (protocol 1.1)."""

    gid: int
    nid: int

    def __str__(self) -> str:
        return f"{self.gid}:{self.nid}"


class Target(NamedTuple):
    """Whom a command is for: one node, or whoever has all the roles."""

    key: AgentKey
    roles: tuple[str, ...]
    fanout: bool

    def matches(self, key: AgentKey, roles: Iterable[str]) -> bool:
        """True when the agent may run it by role and grid (protocol 12.3); ``*`` is any agent."""
        if self.key.gid not in (0, key.gid):
            return False
        return "*" in self.roles or set(self.roles) <= set(roles)


@dataclass(eq=False, slots=True)
class Assignment:
    """One job for one agent. ``agent`` is None while a role command has not found its agent."""

    job: Job
    number: int
    agent: AgentKey | None
    floating: bool = False
    """A role command that any matching agent may take: put back, it is free again."""
    state: str = states.QUEUED
    token: str = ""
    """Names the delivery that is not acknowledged yet, or is empty."""
    deliveries: int = 0
    delivered: float = 0.0
    """Seconds since 1970, of the steady clock."""
    results: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0
    """Results received, also those no longer kept."""
    seen: dict[tuple[int, str], None] = field(default_factory=dict)
    pending: dict[tuple[int, str], Event] = field(default_factory=dict)
    """Results that are just being written."""
    moving: Event | None = None
    """Set once it is known whether a delivery that is just being written, or taken back, came about."""
    refused: dict[str, Any] | None = None
    """A DUPILICATE_ID result that is held back."""
    refused_at: float = 0.0
    in_line: bool = False

    def settle(self) -> None:
        """Waits while the command is on its way out or back: only then is it known whether an agent has it."""
        while self.moving is not None:
            self.moving.wait()

    @property
    def ended(self) -> bool:
        return states.is_terminal(self.state)

    def shown(self) -> dict[str, Any]:
        """The newest result, or the placeholder that stands for it (protocol 4.2)."""
        if self.results:
            return self.results[-1]
        key = self.agent or self.job.target.key
        placeholder: dict[str, Any] = {"id": self.job.id, "gid": key.gid, "nid": key.nid, "state": self.state}
        if self.state == states.RUNNING:
            placeholder["starttime"] = int(self.job.stamp(self.delivered) * 1000)
        return placeholder

    def summary(self) -> dict[str, Any]:
        key = self.agent or self.job.target.key
        return {"gid": key.gid, "nid": key.nid, "state": self.state, "results": self.count}


@dataclass(eq=False, slots=True)
class Job:
    """One posted command; ``finished`` is 0 until all agents are done.

    Times are seconds since 1970: ``created`` as the wall clock told it then, the others as ``monotonic_epoch``
    does; people and the state file get them through ``stamp``.
    """

    seq: int
    id: str
    command: dict[str, Any]
    target: Target
    created: float
    wait_until: float = 0.0
    finished: float = 0.0
    adopted: bool = False
    """Known by a result alone: this controller did not ask for it, or has forgotten it."""
    assignments: list[Assignment] = field(default_factory=list)
    size: int = 0
    skew: float = 0.0
    """Seconds from the steady clock to the wall clock when it was posted."""
    _changed: Event = field(default_factory=Event)

    @property
    def recurring(self) -> bool:
        """True where the agent, which takes whole seconds, runs the job again and again (protocol 2.2)."""
        args = self.command.get("args")
        period = args.get("recurring_period") if isinstance(args, dict) else None
        return isinstance(period, (int, float)) and not isinstance(period, bool) and 1 <= period < math.inf

    @property
    def answered(self) -> bool:
        """True when every result shown is terminal; a recurring job is answered by its first."""
        return bool(self.assignments) and all(states.is_terminal(one.shown()["state"]) for one in self.assignments)

    @property
    def state(self) -> str:
        """RUNNING, QUEUED, or the outcome: SUCCESS only if every agent says so."""
        found = [one.state for one in self.assignments]
        for placeholder in (states.RUNNING, states.QUEUED):
            if placeholder in found or not found:
                return placeholder
        return next((state for state in found if state != states.SUCCESS), states.SUCCESS)

    def stamp(self, moment: float) -> float:
        """What the wall clock showed at a moment of the steady clock; 0 stays 0."""
        return moment + self.skew if moment else 0.0

    def assignment_of(self, key: AgentKey) -> Assignment | None:
        return next((one for one in self.assignments if one.agent == key), None)

    def unassigned(self) -> Assignment | None:
        """The assignment of a role command that has not found its agent."""
        return next((one for one in self.assignments if one.agent is None), None)

    def add(self, agent: AgentKey | None, floating: bool = False, state: str = states.QUEUED) -> Assignment:
        number = self.assignments[-1].number + 1 if self.assignments else 0
        assignment = Assignment(self, number, agent, floating, state)
        self.assignments.append(assignment)
        return assignment

    def changed(self) -> None:
        """Wakes whoever waits for this job."""
        self._changed.set()
        self._changed = Event()

    def wait_change(self, timeout: float) -> None:
        """Waits until something about the job changes or ``timeout`` seconds are over."""
        self._changed.wait(timeout)

    def summary(self) -> dict[str, Any]:
        """The job in a list of jobs."""
        args = self.command.get("args")
        args = args if isinstance(args, dict) else {}
        return {
            "id": self.id,
            "cmd": as_text(self.command.get("cmd")),
            "name": as_text(args.get("name")),
            "domain": as_text(args.get("domain")),
            "gid": self.target.key.gid,
            "nid": self.target.key.nid,
            "roles": list(self.target.roles),
            "fanout": self.target.fanout,
            "state": self.state,
            "created": self.created,
            "finished": self.stamp(self.finished) or None,
            "recurring": self.recurring,
            "agents": [one.summary() for one in self.assignments],
        }

    def full(self) -> dict[str, Any]:
        """The job with its command and results."""
        return {
            **self.summary(),
            "command": self.command,
            "results": [one.shown() for one in self.assignments],
            "earlier": [result for one in self.assignments for result in one.results[:-1]],
        }
