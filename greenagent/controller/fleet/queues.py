"""The queues of a fleet, in Redis: what is taken stays there until it is delivered, which takes it out.

So a process that dies in between leaves it to the others, and of several that take it at once one delivers it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from greenagent.controller.dispatch.agents import Agent, AgentTable
from greenagent.controller.fleet.connection import FleetRedis, key_of
from greenagent.controller.fleet.job_reader import (
    QUEUE_NEWS,
    QUEUES,
    ROLE_QUEUES,
    JobReader,
    member_of,
    queue_key,
    target_of,
)
from greenagent.controller.model import AgentKey, Assignment, Target, parse_key
from greenagent.runtime.greenlets import give_way
from greenagent.values import states

_OWN = key_of("queue", "")


class FleetQueues:
    """See ``dispatch.queue.Queues``. What another process adds wakes the polls that are parked here."""

    def __init__(self, redis: FleetRedis, jobs: JobReader, agents: AgentTable) -> None:
        self._redis = redis
        self._jobs = jobs
        self._agents = agents
        self.additions = 0
        redis.listen(QUEUE_NEWS, self._heard)
        redis.after_silence(self._nudge_all)

    def _heard(self, queue: str, is_own: bool) -> None:
        if is_own:
            return  # it was offered to a poll here, or ``add`` was called
        name = queue.removeprefix(_OWN)
        if name[:1] == "[":
            poll = self._agents.longest_parked(target_of(queue))
        else:
            agent = self._agents.get(parse_key(name))
            poll = agent.parked[-1] if agent is not None and agent.parked else None
        if poll is not None:
            poll.nudge()
        else:
            self.additions += 1

    def _nudge_all(self) -> None:
        for agent in self._agents.local():
            for poll in list(agent.parked):
                poll.nudge()

    def add(self, assignment: Assignment) -> None:
        """It is in Redis already: whoever made it wait put it there with that."""
        if assignment.unassigned:
            assignment.agent = None
        self.additions += 1

    def forget(self, assignment: Assignment) -> None:
        """As ``add``."""

    def take_own(self, key: AgentKey, most: int, length: int, but: Assignment | None = None) -> list[Assignment]:
        taken = None if but is None else member_of(but)  # it is in its queue yet
        found: list[Assignment] = []
        for one in self._waiting(queue_key(key), most if taken is None else most + 1):
            if member_of(one) == taken or len(found) == most:
                continue
            length -= len(one.job.command)
            if length < 0 and found:
                break
            found.append(one)
        return found

    def take_for_roles(self, agent: Agent) -> Assignment | None:
        queues = self._redis.run("SMEMBERS", ROLE_QUEUES)
        matching = [queue for queue in queues if target_of(queue).matches(agent.key, agent.roles)]
        waiting = [first for queue in matching for first in self._waiting(queue, 1)]
        return min(waiting, key=lambda first: first.job.seq, default=None)

    def count_own(self, key: AgentKey) -> int:
        found: int = self._redis.run("ZCARD", queue_key(key))
        return found

    def waiting(self) -> Iterator[tuple[AgentKey | Target, list[Assignment]]]:
        kinds: tuple[tuple[str, Callable[[str], AgentKey | Target]], ...] = (
            (QUEUES, lambda queue: parse_key(queue.removeprefix(_OWN))),
            (ROLE_QUEUES, target_of),
        )
        for names, whose in kinds:
            for queue in self._redis.run("SMEMBERS", names):
                give_way()
                if found := self._waiting(queue, -1):
                    yield whose(queue), found
                elif not self._redis.pipeline([("SREM", names, queue), ("ZCARD", queue)])[1]:
                    continue
                else:
                    self._redis.pipeline([("SADD", names, queue)])  # something came just then

    def _waiting(self, queue: str, most: int) -> list[Assignment]:
        """The first of a queue, all for -1; what does not wait any more is taken out."""
        members = self._redis.run("ZRANGE", queue, 0, most - 1 if most > 0 else -1)
        if not members:
            return []
        found = [one for one in self._jobs.assignments(members) if one.state == states.QUEUED]
        if over := set(members) - set(map(member_of, found)):
            self._redis.pipeline([("ZREM", queue, *over)])
        return found
