"""Commands that wait for an agent: a queue for each agent, and one for each set of roles."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from typing import Any, Protocol

import gevent

from greenagent.controller.dispatch.agents import Agent
from greenagent.controller.model import AgentKey, Assignment, Target
from greenagent.values import states


class Queues(Protocol):
    """What waits, in the order it was posted, also where something comes back."""

    additions: int
    """Rises when something is added, for those who just look and let others run meanwhile."""

    def add(self, assignment: Assignment) -> None:
        """It waits, for its agent or for whoever has the roles."""
        ...

    def forget(self, assignment: Assignment) -> None:
        """One for roles waits there no more."""
        ...

    def take_own(self, key: AgentKey, most: int, length: int, but: Assignment | None = None) -> list[Assignment]:
        """The next for that very agent: ``most`` of them, and one or as many as have ``length`` characters.

        ``but``: taken already.
        """
        ...

    def take_for_roles(self, agent: Agent) -> Assignment | None:
        """The next that any agent with these roles may have."""
        ...

    def count_own(self, key: AgentKey) -> int:
        """How many wait for that very agent."""
        ...

    def waiting(self) -> Iterator[tuple[AgentKey | Target, list[Assignment]]]:
        """All that wait, by whom they are for. Other greenlets run meanwhile."""
        ...


class CommandQueue:
    """Commands in the order they were posted.

    One that is no longer QUEUED (killed, or answered after all) is left where it is and passed over.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[Assignment] = []

    def add(self, assignment: Assignment) -> None:
        insort(self._waiting, assignment, key=_place)

    def remove(self, assignment: Assignment) -> None:
        """Takes a command out, wherever it stands, if it is still there."""
        if assignment in self._waiting:
            self._waiting.remove(assignment)

    def first(self) -> Assignment | None:
        """The command that has waited longest."""
        while self._waiting and self._waiting[0].state != states.QUEUED:
            del self._waiting[0]
        return self._waiting[0] if self._waiting else None

    def take(self) -> Assignment | None:
        """The command that has waited longest, taken out."""
        return self._waiting.pop(0) if self.first() else None

    def __iter__(self) -> Iterator[Assignment]:
        return iter([one for one in self._waiting if one.state == states.QUEUED])


class LocalQueues:
    """Those of a controller of one process: what is taken is in no queue any more."""

    additions = 0
    """It stays so: who looks lets nobody else run."""

    def __init__(self) -> None:
        self._own: dict[AgentKey, CommandQueue] = {}
        self._roles: dict[Target, CommandQueue] = {}

    def add(self, assignment: Assignment) -> None:
        if assignment.agent is not None and not assignment.unassigned:
            queue = self._own.setdefault(assignment.agent, CommandQueue())
        else:
            assignment.agent = None
            queue = self._roles.setdefault(assignment.job.target, CommandQueue())
        queue.add(assignment)

    def forget(self, assignment: Assignment) -> None:
        self._roles[assignment.job.target].remove(assignment)

    def take_own(self, key: AgentKey, most: int, length: int, but: Assignment | None = None) -> list[Assignment]:
        found: list[Assignment] = []
        own = self._own.get(key)
        while own is not None and len(found) < most and (following := own.first()) is not None:
            length -= len(following.job.command)
            if length < 0 and found:
                break
            own.take()
            found.append(following)
        return found

    def take_for_roles(self, agent: Agent) -> Assignment | None:
        matching = [queue for target, queue in self._roles.items() if target.matches(agent.key, agent.roles)]
        waiting = [first for queue in matching if (first := queue.first())]
        oldest = min(waiting, key=lambda first: first.job.seq, default=None)
        return self._roles[oldest.job.target].take() if oldest is not None else None

    def count_own(self, key: AgentKey) -> int:
        return len(list(self._own.get(key, ())))

    def waiting(self) -> Iterator[tuple[AgentKey | Target, list[Assignment]]]:
        """Empty queues are dropped."""
        both: tuple[dict[Any, CommandQueue], ...] = (self._own, self._roles)
        for queues in both:
            for key, queue in list(queues.items()):
                gevent.sleep(0)  # thousands of queues times thousands of agents must not make the controller deaf
                if queue.first() is None:
                    queues.pop(key, None)
                else:
                    yield key, list(queue)


def _place(assignment: Assignment) -> tuple[int, int]:
    return assignment.job.seq, assignment.number
