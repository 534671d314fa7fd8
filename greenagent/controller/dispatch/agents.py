"""The agents that poll: who is live, with what roles, and which polls are open."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from sys import getsizeof
from typing import Any, Final

import gevent

from greenagent.controller.limits import Limits
from greenagent.controller.model import NO_AGENT, AgentKey, Assignment, Target

MAX_NAMED: Final = 10
"""Agents that a reason names."""
ROOM_MADE: Final = 1 / 16
"""Of the roles' cap, when it is reached: looking for the largest at every poll would be a load of its own."""


@dataclass(eq=False, slots=True)
class Poll:
    """One open GET ``cmd``. ``slots`` is None where the agent does not tell (it counts as free)."""

    key: AgentKey
    roles: tuple[str, ...] = ()
    slots: int | None = None
    commands: int = 0
    """How many the answer may hold; 0 where the agent knows of no answers with several."""
    acknowledges: bool = False
    """The agent sends ``Greenagent-Acknowledge``: deliveries to it carry a token."""
    version: str = ""
    look: Callable[[], None] = lambda: None
    """Looks at once which connections have been closed: their polls are told by ``hang_up``."""
    arrived: float = field(default_factory=time.monotonic)
    deadline: float = 0.0
    """When it is answered with nothing (monotonic)."""
    agent: Agent | None = None
    """Whose it is, once it has begun."""
    is_parked: bool = False
    """It waits for a command."""
    offered: Assignment | None = None
    """What it was woken with."""
    is_nudged: bool = False
    """It was woken to look whether something waits for it."""
    hung_up: bool = False
    _wake: Callable[[], None] | None = None
    _timer: Any = None

    @property
    def has_slot(self) -> bool:
        return self.slots is None or self.slots > 0

    @property
    def takes_several(self) -> bool:
        return self.commands > 0

    def park(self, agent: Agent) -> None:
        """From now on it can be offered a command."""
        self.agent, self.offered, self.is_parked, self.is_nudged = agent, None, True, False
        agent.parked.append(self)

    def when_woken(self, wake: Callable[[], None]) -> None:
        """Calls ``wake``, which must not block, once the poll has been offered a command, its time is over or the agent
        has hung up."""
        if not self.is_parked:
            wake()
            return
        self._wake = wake
        self._timer = gevent.get_hub().loop.timer(max(0.0, self.deadline - time.monotonic()))
        self._timer.start(self.offer, None)

    def offer(self, assignment: Assignment | None) -> None:
        """Ends the wait with a command, or with none."""
        assert self.agent is not None
        self.agent.parked.remove(self)
        self.is_parked, self.offered = False, assignment
        wake, self._wake = self._wake, None
        if wake is not None:
            self._timer.stop()
            self._timer.close()
            wake()

    def nudge(self) -> None:
        """Has it look whether something waits for it, and be parked again if not."""
        self.is_nudged = True
        self.offer(None)

    def hang_up(self) -> None:
        """The other side has closed the connection."""
        self.hung_up = True
        if self.is_parked:
            self.offer(None)

    def has_gone(self) -> bool:
        """Whether the other side has closed the connection, looked at now."""
        self.look()
        return self.hung_up


@dataclass(eq=False, slots=True)
class Agent:
    """What is known of one agent. ``last_contact`` is seconds since 1970, ``last_poll`` monotonic."""

    key: AgentKey
    roles: tuple[str, ...] = ()
    slots: int | None = None
    version: str = ""
    last_contact: float = 0.0
    last_poll: float = 0.0
    has_polled: bool = False
    open_polls: int = 0
    parked: list[Poll] = field(default_factory=list)
    deliveries: dict[str, list[Assignment]] = field(default_factory=dict)
    """By token; those that were acknowledged or answered since do not count any more."""
    is_shared: bool = False
    """It has been logged that two nodes seem to have this identity."""
    role_bytes: int = 0
    """What its roles cost in memory."""
    has_stopped: bool = False
    """It said that it ends, and has not polled since."""

    def is_live(self, limits: Limits) -> bool:
        """A poll is open or ended less than 30 s ago (protocol 12.3)."""
        return self.open_polls > 0 or (self.has_polled and time.monotonic() - self.last_poll < limits.live)

    @property
    def is_stopped(self) -> bool:
        """It takes no commands until it is started again. What it is given meanwhile waits as long as for any agent."""
        return self.has_stopped and not self.open_polls

    @property
    def is_original(self) -> bool:
        """It polled, and not as a greenagent."""
        return self.has_polled and not self.version

    def unacknowledged(self) -> list[Assignment]:
        """What the agent has not acknowledged, oldest first."""
        for token, together in list(self.deliveries.items()):
            together[:] = [one for one in together if one.token == token]
            if not together:
                del self.deliveries[token]
        return [one for together in self.deliveries.values() for one in together]

    def forget_delivery(self, token: str, assignment: Assignment) -> None:
        """It is not on its way any more."""
        together = self.deliveries.get(token, [])
        if assignment in together:
            together.remove(assignment)
        if not together:
            self.deliveries.pop(token, None)


class AgentTable:
    """All agents ever seen, up to a number."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._agents: dict[AgentKey, Agent] = {}
        self._role_bytes = 0
        self._without_roles: list[AgentKey] = []
        self.started = time.monotonic()

    def get(self, key: AgentKey) -> Agent | None:
        return self._agents.get(key)

    def ensure(self, key: AgentKey) -> Agent:
        """The agent of that identity, new if it has never been seen."""
        agent = self._agents.get(key)
        if agent is None:
            if len(self._agents) >= self._limits.agents:
                self._forget_oldest()
            agent = self._agents[key] = Agent(key, last_poll=time.monotonic())
        return agent

    def find(self, key: AgentKey) -> Agent | None:
        """The agent as all processes of the controller know it; ``get``: as this one does."""
        return self.get(key)

    def contact(self, key: AgentKey) -> Agent:
        """Notes that the agent was heard of."""
        agent = self.ensure(key)
        agent.last_contact = time.time()
        return agent

    def poll_began(self, poll: Poll) -> Agent:
        agent = self.contact(poll.key)
        agent.slots, agent.version = poll.slots, poll.version
        roles, poll.roles = poll.roles, ()  # held in one place, where they can be left out
        self._set_roles(agent, roles)
        agent.has_polled, agent.has_stopped = True, False
        agent.open_polls += 1
        return agent

    def _set_roles(self, agent: Agent, roles: tuple[str, ...]) -> None:
        if roles == agent.roles:
            return
        self._role_bytes -= agent.role_bytes
        agent.roles, agent.role_bytes = roles, (getsizeof(roles) + sum(map(getsizeof, roles)) if roles else 0)
        self._role_bytes += agent.role_bytes
        if self._role_bytes <= self._limits.roles:
            return
        for largest in sorted(self._agents.values(), key=lambda one: one.role_bytes, reverse=True):
            if self._role_bytes <= self._limits.roles * (1 - ROOM_MADE):
                break
            self._without_roles.append(largest.key)
            self._set_roles(largest, ())

    def newly_without_roles(self) -> list[AgentKey]:
        """Agents whose roles were left out since the last call, because all roles took too much memory."""
        found, self._without_roles = self._without_roles, []
        return found

    def poll_ended(self, agent: Agent) -> None:
        agent.open_polls -= 1
        agent.last_poll = time.monotonic()
        agent.last_contact = time.time()

    def stopped(self, key: AgentKey) -> None:
        """It says that it ends."""
        self.contact(key).has_stopped = True

    def are_young(self) -> bool:
        """True while agents that were here before this controller started may not have come back yet."""
        return time.monotonic() - self.started < self._limits.live

    def live(self, whom: AgentKey | Target) -> list[Agent]:
        """The agent if it is live, or all live agents that may run a role command."""
        if isinstance(whom, Target):
            found = [agent for agent in self.all() if whom.matches(agent.key, agent.roles)]
        else:
            found = [one] if (one := self.find(whom)) is not None else []
        return [agent for agent in found if agent.is_live(self._limits)]

    def away(self, target: Target) -> list[Agent]:
        """The agents that would get a fan-out's command if they were live: they had the roles when they polled last."""
        agents = (agent for agent in self.all() if agent.has_polled and not agent.is_live(self._limits))
        return sorted((one for one in agents if target.matches(one.key, one.roles)), key=lambda agent: agent.key)

    def answers(self, key: AgentKey) -> bool:
        """Whether an agent is live and has not said that it stops."""
        return any(not agent.is_stopped for agent in self.live(key))

    def none_live(self, whom: AgentKey | Target) -> str:
        """The original's words for a command that no live agent can take, and which of two reasons it is."""
        never = "has been here since the controller's start"
        if isinstance(whom, Target):
            away = [str(agent.key) for agent in self.away(whom)]
            shown = ", ".join(away[:MAX_NAMED]) + (f" and {len(away) - MAX_NAMED} more" if away[MAX_NAMED:] else "")
            roles = "" if "*" in whom.roles else f" with role{'s' * (len(whom.roles) > 1)} {', '.join(whom.roles)}"
            reason = f"{shown}{roles} {'are' if away[1:] else 'is'} away" if away else f"none{roles} {never}"
        else:
            agent = self.find(whom)
            is_known = agent is not None and agent.has_polled
            reason = f"{whom} is away" if is_known else f"no {whom} {never}"
        return f"{NO_AGENT}: {reason}"

    def longest_parked(self, target: Target) -> Poll | None:
        """The matching poll with a free slot that has waited longest.

        Of several polls of one agent the newest counts: an older one may belong to an agent that died.
        """
        polls = [
            agent.parked[-1]
            for agent in self._agents.values()
            if agent.parked and agent.parked[-1].has_slot and target.matches(agent.key, agent.roles)
        ]
        return min(polls, key=lambda poll: poll.arrived, default=None)

    def newly_shared(self) -> list[Agent]:
        """Agents of which two polls stand open, as if two nodes had one identity; each is given once."""
        since = time.monotonic() - self._limits.shared
        found = [
            agent
            for agent in self._agents.values()
            if len(agent.parked) > 1
            and not agent.is_shared
            and sum(poll.arrived < since and not poll.has_gone() for poll in list(agent.parked)) > 1
        ]
        for agent in found:
            agent.is_shared = True
        return found

    def all(self) -> list[Agent]:
        """Those of all processes of the controller."""
        return self.local()

    def local(self) -> list[Agent]:
        """Those that this process knows."""
        return list(self._agents.values())

    def with_deliveries(self) -> Iterable[Agent]:
        """Those without an open poll that have not acknowledged something."""
        return [agent for agent in self._agents.values() if agent.deliveries and not agent.open_polls]

    def _forget_oldest(self) -> None:
        idle = [agent for agent in self._agents.values() if not agent.open_polls and not agent.unacknowledged()]
        for agent in sorted(idle, key=lambda agent: agent.last_contact)[: max(1, len(idle) // 10)]:
            self._set_roles(agent, ())
            del self._agents[agent.key]
