"""Jobs as the controller knows them: a command, the agents it is for, and what they answered.

Nothing here waits, reads or writes; ``state.job_store`` says how a job may be changed.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from gevent.event import Event

from greenagent.controller.assignments import Assignments
from greenagent.controller.json_parts import json_list, json_object
from greenagent.runtime.clock import monotonic_epoch
from greenagent.values import states
from greenagent.values.arguments import ALWAYS, as_text
from greenagent.values.command_line import command_line_of
from greenagent.values.result import AGENT_STOPPED, NOTHING_RAN, STOPPED

TOLD_FOR: Final = 150.0
"""Seconds for which an agent's word counts: it says all once a minute."""
NO_AGENT: Final = "No matching connected agents found"
"""The original's text for a command nobody can take (protocol 12.3)."""
NOT_ACKNOWLEDGED: Final = "not acknowledged"
IDENTITY_DIGITS: Final = 18
"""A gid or nid has 18 digits at most: the state file could not hold more."""
RESULT_OVERHEAD: Final = 500
"""Bytes a kept result costs beside its text."""
MAX_ROLES: Final = 1000
"""Roles of one agent, or of one command."""
MAX_ROLE: Final = 8192
"""Characters of a role; the address of a poll could not hold more."""
MAX_SHOWN_NAME: Final = 200
"""Characters of a command's name in a list of jobs."""
MAX_SHOWN_LINE: Final = 300
"""Characters of a command line there."""


class AgentKey(NamedTuple):
    """The identity of an agent (protocol 1.1)."""

    gid: int
    nid: int

    def __str__(self) -> str:
        return f"{self.gid}:{self.nid}"

    def to_wire(self) -> dict[str, int]:
        return {"gid": self.gid, "nid": self.nid}


def parse_key(text: str) -> AgentKey:
    """The identity that ``str`` made a text of. Raises ValueError."""
    gid, _, nid = text.partition(":")
    return AgentKey(int(gid), int(nid))


class Target(NamedTuple):
    """Whom a command is for: one node, or whoever has all the roles."""

    key: AgentKey
    roles: tuple[str, ...]
    fanout: bool

    @classmethod
    def of(cls, command: dict[str, Any]) -> Target:
        """The target of a command object that was checked before."""
        role = command.get("role")
        roles = command.get("roles") or ([role] if role and isinstance(role, str) else [])
        key = AgentKey(int(command.get("gid") or 0), int(command.get("nid") or 0))
        return cls(key, tuple(roles), bool(command.get("fanout")))

    def matches(self, key: AgentKey, roles: Iterable[str]) -> bool:
        """True when the agent may run it by role and grid (protocol 12.3); ``*`` is any agent."""
        if self.key.gid not in (0, key.gid):
            return False
        return "*" in self.roles or set(self.roles) <= set(roles)


class Changes:
    """Wakes all greenlets that wait for a change."""

    __slots__ = ("__weakref__", "_event", "number")

    def __init__(self) -> None:
        self._event = Event()
        self.number = 0
        """How many there were."""

    def announce(self) -> None:
        self.number += 1
        self._event.set()
        self._event = Event()

    def wait(self, timeout: float, seen: int | None = None) -> None:
        """Waits for the next change, at most ``timeout`` seconds; not at all where there were others than ``seen``."""
        if seen in (None, self.number):
            self._event.wait(timeout)


Listener = Callable[[str | None, int | None], None]
"""Gets the id of a job that has changed, and the number of the assignment: None where any of them may have, both None
where any job may have. It must not block. Of several changes each is told, to be seen by then or not."""


class Result(NamedTuple):
    """One result as it is kept: text, since what agents send may be many times as large as a value."""

    id: str
    key: AgentKey
    state: str
    starttime: int
    text: str
    """The JSON object."""
    delivered: bool = True
    """False for one that the controller itself gives."""
    cmd: str = ""
    args: str = "{}"
    """The run arguments it names, as JSON, as far as they are small; not kept with it."""
    is_of_first: bool = False
    """It lacks the keys that later originals add, and those of ours: if its agent is an original, it is a first one."""
    time: int = 0
    """How long the run took, in milliseconds; ``starttime`` is when it began, since 1970, by the agent's clock."""
    exit: int | str | None = None
    """The exit code, or the name of the signal."""
    has_run: bool = True
    """False where nothing of it was ever started, so that its times are those of its end."""
    why: str = ""
    """Why it did not succeed, as far as it is told."""

    @property
    def size(self) -> int:
        return RESULT_OVERHEAD + len(self.text)

    def without_output(self, why: str) -> Result:
        """The same with ``why`` in place of all that may be large. Its text is not parsed: that would take long."""
        wire = {"id": self.id, **self.key.to_wire(), "cmd": self.cmd, "state": self.state, "starttime": self.starttime}
        return self._replace(text=json.dumps({**wire, "data": why, "level": 0, "time": 0, "truncated": True}))


def end_of(result: dict[str, Any]) -> dict[str, Any]:
    """What a result object tells of the end, as the fields of ``Result`` that are for lists of jobs."""
    code = result.get("exit_code")
    state, reason = result["state"], result.get("reason")
    # Agents before 0.2 do not tell it of jobs that were killed in their queue.
    has_run = reason not in NOTHING_RAN and state not in (states.DUPLICATE_ID, states.UNKNOWN_CMD)
    data = "" if result.get("level") else str(result.get("data") or "")
    why = STOPPED if reason == AGENT_STOPPED else data[:MAX_SHOWN_NAME].partition("\n")[0]
    return {
        "exit": code if code is not None else result.get("signal"),
        "has_run": has_run,
        "why": "" if state == states.SUCCESS else why,
    }


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
    results: list[Result] = field(default_factory=list)
    seen: dict[tuple[int, str], None] = field(default_factory=dict)
    """Start time and state of the results received: a repeat has the same."""
    handed_to: set[AgentKey] = field(default_factory=set)
    """Who was given it, also where it was taken back: it may have come through all the same."""
    waits_until: float = 0.0
    """Monotonic time until which its agent's word counts that it waits for its turn there; 0: it does not say so."""
    turn: float = 0.0
    """When its agent said that it waits no more, by ``monotonic_epoch``."""
    refused: Result | None = None
    """A DUPILICATE_ID result that is held back."""
    refused_at: float = 0.0
    stored: str = ""
    """The text it was read from, where it is a copy of what is stored elsewhere."""

    @property
    def ended(self) -> bool:
        return states.is_terminal(self.state)

    @property
    def waits(self) -> bool:
        """Whether its agent says that it waits for its turn there."""
        return self.state == states.RUNNING and time.monotonic() < self.waits_until

    def change(self, **changes: Any) -> None:
        """Sets attributes. Only ``JobStore`` calls this, after the state file has them."""
        for name, value in changes.items():
            setattr(self, name, value)

    def steps(self) -> dict[str, Any]:
        """For a list of jobs, None where it did not happen yet: when the agent was given it, and how it ran last.

        Moments are seconds since 1970, ``took`` is seconds. ``started`` and ``took`` are by the agent's clock.
        ``why`` it did not succeed, or "". ``waits``: the agent has it, and it waits for its turn there.
        ``running_since`` is by our clock, a little late for one that did wait; an agent that does not tell that may not
        have begun it yet.
        """
        ran = next((one for one in self.results[-1:] if one.delivered and one.has_run and one.starttime > 0), None)
        runs = self.state == states.RUNNING and not self.waits and not self.job.brief.recurring
        return {
            "handed_over": self.job.stamp(self.delivered) or None,
            "started": None if ran is None else ran.starttime / 1000,
            "took": None if ran is None else ran.time / 1000,
            "exit": None if ran is None else ran.exit,
            "why": self.results[-1].why if self.results else "",
            "waits": self.waits,
            "running_since": self.job.stamp(max(self.delivered, self.turn)) or None if runs else None,
        }

    def newest_result(self) -> str:
        """The JSON text of the newest result, or of the placeholder that stands for it (protocol 4.2)."""
        if self.results:
            return self.results[-1].text
        key = self.agent or self.job.target.key
        placeholder: dict[str, Any] = {"id": self.job.id, **key.to_wire(), "state": self.state}
        if self.state == states.RUNNING:
            placeholder["starttime"] = int(self.job.stamp(self.delivered) * 1000)
        return json.dumps(placeholder)


class Brief(NamedTuple):
    """What a list of jobs shows of a command."""

    cmd: str
    name: str = ""
    domain: str = ""
    recurring: bool = False
    """The agent, which takes whole seconds, runs it again and again (protocol 2.2)."""
    command_line: str = ""
    service: bool = False
    """It must always run: its agent starts it again however it ends."""
    restarts: bool = False
    """Its agent may start it again, so that its last start is not its first."""
    expires: float = 0.0
    """Seconds after its posting by which it must have been started; 0: any."""
    schedule: str = ""
    """The id of the schedule that posted it."""

    @classmethod
    def of(cls, command: dict[str, Any]) -> Brief:
        args = command.get("args")
        args = args if isinstance(args, dict) else {}
        period = args.get("recurring_period")
        recurring = isinstance(period, (int, float)) and not isinstance(period, bool) and 1 <= period < math.inf
        texts = (command.get("cmd"), args.get("name"), args.get("domain"))
        cmd, name, domain = map(as_text, texts)
        words = args.get("args")
        line = command_line_of(
            cmd, name, domain, map(as_text, words if isinstance(words, list) else ()), MAX_SHOWN_LINE
        )
        shown = (cmd[:MAX_SHOWN_NAME], name[:MAX_SHOWN_NAME], domain[:MAX_SHOWN_NAME])
        service = args.get("restart") == ALWAYS
        restarts = service or bool(args.get("max_restart"))
        expires, schedule = command.get("expires"), command.get("schedule")
        return cls(*shown, recurring, line, service, restarts, float(expires or 0), as_text(schedule))


@dataclass(eq=False, slots=True)
class Job:
    """One posted command.

    Times are seconds since 1970: ``created`` as the wall clock showed it, the others by ``monotonic_epoch``,
    which nobody can set; people and the state file get those through ``stamp``.
    """

    seq: int
    id: str
    command: str
    """The JSON object that its agents get."""
    brief: Brief
    target: Target
    created: float
    wall_offset: float = 0.0
    """Seconds from ``monotonic_epoch`` to the wall clock when the job was posted."""
    wait_until: float = 0.0
    """It ends if no agent is live by then; 0: it does not wait for one."""
    finished: float = 0.0
    """When the last of its agents ended; 0 before."""
    adopted: bool = False
    """Nobody posted it here, or it was forgotten: a result came of it."""
    away: list[AgentKey] = field(default_factory=list)
    """Agents of a fan-out that were not live when it was handed out, and so left out."""
    size: int = 0
    """Bytes of the command and of the results kept."""
    assignments: Assignments[Assignment] = field(default_factory=Assignments)
    changes: Changes = field(default_factory=Changes)
    """Announced when an assignment changes, a result comes or lines come."""
    seen: int | None = None
    """Which of the changes it shows, where it is a copy of what is stored elsewhere."""

    @property
    def answered(self) -> bool:
        """True when every result shown is terminal; a recurring job is answered by its first."""
        return self.assignments.are_answered()

    @property
    def state(self) -> str:
        """RUNNING, QUEUED, or the outcome: SUCCESS only if every agent says so."""
        found = [one.state for one in self.assignments]
        for placeholder in (states.RUNNING, states.QUEUED):
            if placeholder in found or not found:
                return placeholder
        return next((state for state in found if state != states.SUCCESS), states.SUCCESS)

    @property
    def waits(self) -> bool:
        """True of a RUNNING one that no agent has begun: each that has it says that it waits for its turn there."""
        running = [one for one in self.assignments if one.state == states.RUNNING]
        return bool(running) and all(one.waits for one in running)

    def stamp(self, moment: float) -> float:
        """What the wall clock showed at a moment of ``monotonic_epoch``; 0 stays 0."""
        return moment + self.wall_offset if moment else 0.0

    def assignment_of(self, key: AgentKey) -> Assignment | None:
        """The agent's own, or one that was taken back from it."""
        taken_back = (one for one in self.assignments if one.agent is None and key in one.handed_to)
        return self.assignments.of(key) or next(taken_back, None)

    def note_waiting(self, key: AgentKey, waits: bool) -> None:
        """The agent says that the job waits for its turn there, or that it does not (any more)."""
        assignment = self.assignment_of(key)
        if assignment is not None:
            if not waits and assignment.waits_until:
                assignment.turn = monotonic_epoch()
            assignment.waits_until = time.monotonic() + TOLD_FOR if waits else 0.0

    @property
    def has_failed_last(self) -> bool:
        """Whether the newest run on one of its agents did not succeed."""
        return any(one.results and one.results[-1].state != states.SUCCESS for one in self.assignments)

    def assign(self, agents: Iterable[AgentKey | None], **values: Any) -> Assignments[Assignment]:
        """New assignments with the next free numbers; they belong to the job once they are stored."""
        first = self.assignments[-1].number + 1 if self.assignments else 0
        return Assignments(Assignment(self, number, agent, **values) for number, agent in enumerate(agents, first))

    def summary(self, **more: Iterable[str]) -> Iterator[str]:
        """The job in a list of jobs, as parts of a JSON text; ``more``: further keys, their values' JSON texts."""
        return self._shown(**more)

    def full(self) -> Iterator[str]:
        """The job with its command and results, as parts of a JSON text."""
        results = json_list(one.newest_result() for one in self.assignments)
        earlier = json_list(result.text for one in self.assignments for result in one.results[:-1])
        return self._shown(command=[self.command], results=results, earlier=earlier)

    def _shown(self, **more: Iterable[str]) -> Iterator[str]:
        small = {
            "id": self.id,
            **self.brief._asdict(),
            **self.target.key.to_wire(),
            "fanout": self.target.fanout,
            "adopted": self.adopted,
            "state": self.state,
            "created": self.created,
            "finished": self.stamp(self.finished) or None,
        }
        return json_object(
            small,
            away=json_list(json.dumps(key.to_wire()) for key in self.away),
            roles=json_list(map(json.dumps, self.target.roles)),
            agents=json_list(self._agents()),
            **more,
        )

    def _agents(self) -> Iterator[str]:
        for one in self.assignments:
            key = one.agent or self.target.key
            yield json.dumps({**key.to_wire(), "state": one.state, "results": one.received, **one.steps()})
