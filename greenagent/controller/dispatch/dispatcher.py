"""Which agent gets which command, and how it is handed over.

See protocol 12.3 and design, section 5 "Roles and the embedded controller".
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any, Final, NamedTuple

from greenagent.controller.assignments import Assignments
from greenagent.controller.dispatch.agents import Agent, AgentTable, Poll
from greenagent.controller.dispatch.own_results import expired_result
from greenagent.controller.dispatch.queue import Queues
from greenagent.controller.expiry import has_expired
from greenagent.controller.json_parts import json_list, json_object
from greenagent.controller.limits import Limits
from greenagent.controller.model import AgentKey, Assignment, Job, Target
from greenagent.controller.state.state_file import ChangedError, StateError
from greenagent.controller.stores import Jobs
from greenagent.runtime.clock import monotonic_epoch
from greenagent.values import states

SHORTEST_HOLD: Final = 0.7
"""As a part of the longest: polls that began together, as all do when the controller starts, do not end together."""
MAX_LENGTH: Final = 4 * 1024 * 1024
"""Characters of the commands in one answer, where there are several."""
MAX_LEFT_OUT: Final = 1000
"""Agents of a fan-out that are remembered as away."""


class Handed(NamedTuple):
    """A command on its way to a poll."""

    assignment: Assignment
    number: int
    """1 for the first delivery of the command."""
    again: bool = False
    """Offered before: the agent may have it already, so it stays with that agent."""


class Delivery(NamedTuple):
    """The commands on their way to a poll, at least one; ``token`` names them all, and is empty for an original."""

    handed: tuple[Handed, ...]
    token: str


class Dispatcher:
    """Brings commands and polls together.

    A command that is not ended is in exactly one place: in its queue, offered to one poll, or delivered.
    """

    def __init__(self, jobs: Jobs, agents: AgentTable, queues: Queues, limits: Limits) -> None:
        self.agents = agents
        self.queues = queues
        self._jobs = jobs
        self._limits = limits
        self._is_closing = False

    def close(self) -> None:
        """Answers every open poll with nothing and hands out nothing more."""
        self._is_closing = True
        for agent in self.agents.local():
            for poll in list(agent.parked):
                poll.offer(None)

    def choose(self, job: Job, force: bool, settled: bool = False) -> Assignments[Assignment]:
        """Assignments for the agents that a new job is for; none if nobody is live.

        ``settled``: one for any of several agents is for one of them now, as the later originals do it.
        """
        target = job.target
        if not target.roles:
            wanted = force or job.wait_until or self.agents.live(target.key)
            return job.assign([target.key] if wanted else [])
        matching = self.agents.live(target)
        if target.fanout and matching:
            job.away = self._left_out(target)
            return job.assign(agent.key for agent in matching)
        if settled and matching:
            poll = self.agents.longest_parked(target)
            return job.assign([poll.key if poll is not None else random.choice(matching).key])
        return job.assign([None] if matching or job.wait_until else [], unassigned=True)

    def patience_for(self, target: Target) -> float:
        """Seconds for which a command waits for its node where it names none; 0: as long as it takes.

        A node that has just said that it stops may be started again at once, or never.
        """
        agent = None if target.roles else self.agents.find(target.key)
        is_leaving = agent is not None and agent.is_stopped and agent.is_live(self._limits)
        return self._limits.live if is_leaving else 0.0

    def _left_out(self, target: Target) -> list[AgentKey]:
        return [agent.key for agent in self.agents.away(target)[:MAX_LEFT_OUT]]

    def enqueue(self, assignment: Assignment) -> None:
        """Offers a command to a waiting poll, or puts it into its queue."""
        target = assignment.job.target
        if assignment.state != states.QUEUED:
            return
        poll: Poll | None = None
        if assignment.agent is not None and not assignment.unassigned:
            agent = self.agents.get(assignment.agent)  # not made: there may never be one
            poll = agent.parked[-1] if agent is not None and agent.parked else None
        elif not target.fanout:
            poll = self.agents.longest_parked(target)
        if poll is None:
            self.queues.add(assignment)
            return
        assignment.agent = poll.key
        poll.offer(assignment)

    def restore(self, assignment: Assignment) -> None:
        """Takes up an assignment from the state file."""
        if assignment.token and assignment.agent is not None:
            self.agents.ensure(assignment.agent).deliveries.setdefault(assignment.token, []).append(assignment)
        else:
            self.enqueue(assignment)

    def begin(self, poll: Poll, tokens: set[str]) -> Delivery | None:
        """What a poll that has come is answered with, or None: with nothing, or not yet where it is parked then.

        What the poll acknowledges is noted first. If the answer with the command cannot be written, the
        caller says so by ``take_back``. Raises StateError.
        """
        agent = self.agents.poll_began(poll)
        try:
            self._acknowledge(agent, tokens)
            poll.deadline = time.monotonic() + self.hold(poll)
            return self._find(agent, poll, self._look(agent, poll))
        finally:
            if not poll.is_parked:
                self.agents.poll_ended(agent)

    def go_on(self, poll: Poll) -> Delivery | None:
        """As ``begin``, for a poll that was parked and has been woken."""
        agent = poll.agent
        assert agent is not None
        try:
            if poll.offered is not None:
                return self._find(agent, poll, self._with_more(agent, poll, poll.offered))
            is_over = not poll.is_nudged or poll.deadline <= time.monotonic()
            return None if is_over else self._find(agent, poll, self._look(agent, poll))
        finally:
            if not poll.is_parked:
                self.agents.poll_ended(agent)

    def _find(self, agent: Agent, poll: Poll, assignments: list[Assignment]) -> Delivery | None:
        """Delivers the assignments, or the next that are still to be delivered; parks the poll where none are."""
        while assignments:
            if self._is_closing or poll.has_gone():
                for assignment in assignments:
                    if not assignment.token:  # one that was delivered before stays with its agent
                        self.enqueue(assignment)
                return None
            if (delivery := self._deliver(agent, poll, assignments)) is not None:
                return delivery
            assignments = self._look(agent, poll)
        if not self._is_closing and not poll.hung_up:
            poll.park(agent)
        return None

    def _with_more(self, agent: Agent, poll: Poll, first: Assignment) -> list[Assignment]:
        """What goes out with it, itself first: other commands for that very agent.

        Those by role stay for other agents, which may be about to poll.
        """
        if poll.commands < 2:
            return [first]
        left = MAX_LENGTH - len(first.job.command)
        return [first, *self.queues.take_own(agent.key, poll.commands - 1, left, first)] if left > 0 else [first]

    def hold(self, poll: Poll) -> float:
        """Seconds for which a poll waits for a command; another each time, see ``SHORTEST_HOLD``."""
        return self._limits.poll * random.uniform(SHORTEST_HOLD, 1) if poll.has_slot else self._limits.full_poll

    def take_back(self, delivery: Delivery) -> None:
        """The answer could not be written: the commands go back to their queues."""
        for handed in delivery.handed:
            self._take_back(handed, delivery.token)

    def _take_back(self, handed: Handed, token: str) -> None:
        assignment, number, again = handed
        if again or assignment.agent is None:
            return
        agent = self.agents.ensure(assignment.agent)
        with self._jobs.lock(assignment):
            if assignment.ended or assignment.token != token or assignment.deliveries != number:
                return  # it was answered or acknowledged, or another poll of its agent was given it meanwhile
            # The agent may poll again at once and must not be offered it while the file is written: afterwards
            # it is anybody's. Before this was so, two agents got one command.
            agent.forget_delivery(token, assignment)
            owner = None if assignment.unassigned else assignment.agent
            changes: dict[str, Any] = {"agent": owner, "state": states.QUEUED, "token": "", "deliveries": number - 1}
            try:
                self._jobs.update(assignment, **changes)
            except StateError:
                if token:
                    agent.deliveries.setdefault(token, []).append(assignment)  # it is offered again at the next poll
                    return
                assignment.change(**changes)  # against the rule: nobody would ever offer it again
        self.enqueue(assignment)

    def expand_fanout(self, assignment: Assignment, matching: list[Agent]) -> None:
        """A fan-out command that waited for its first agent goes to all that are live now. Raises StateError."""
        job = assignment.job
        first, *others = [agent.key for agent in matching]
        with self._jobs.lock(job.id), self._jobs.lock(assignment):
            if assignment.state != states.QUEUED or not assignment.unassigned:
                return  # a poll was given it meanwhile
            added = job.assign(others)
            job.away = self._left_out(job.target)
            self._jobs.expand(assignment, first, added)
            self.queues.forget(assignment)  # or it would be expanded again
        for one in (assignment, *added):
            self.enqueue(one)

    def describe_agents(self, key: AgentKey | None = None) -> Iterator[str]:
        """What ``GET /api/agents`` shows, by identity: of all, or of the one ``key`` if it is known.

        Parts of the JSON text of a list; other greenlets may run between them.
        """
        agents = self.agents.all() if key is None else filter(None, [self.agents.find(key)])
        return json_list(map(self._describe, sorted(agents, key=lambda agent: agent.key)))

    def _describe(self, agent: Agent) -> Iterator[str]:
        shown = {
            **agent.key.to_wire(),
            "live": agent.is_live(self._limits) and not agent.is_stopped,
            "stopped": agent.is_stopped,
            "polling": agent.open_polls > 0,
            "last_contact": agent.last_contact or None,
            "free_slots": agent.slots,
            "version": agent.version,
            "original": agent.is_original,
            "queued": self.queues.count_own(agent.key),
            "unacknowledged": len(agent.unacknowledged()),
        }
        return json_object(shown, roles=[json.dumps(agent.roles)])

    def _acknowledge(self, agent: Agent, tokens: set[str]) -> None:
        for token in tokens & agent.deliveries.keys():
            for assignment in agent.deliveries[token][:]:
                with self._jobs.lock(assignment), suppress(ChangedError):  # it has ended, or was acknowledged elsewhere
                    if assignment.token == token:
                        self._jobs.update(assignment, token="")
                agent.forget_delivery(token, assignment)

    def _look(self, agent: Agent, poll: Poll) -> list[Assignment]:
        """As ``_next``, once more where something was added meanwhile: nobody tells a poll that is not parked yet."""
        while True:
            additions = self.queues.additions
            found = self._next(agent, poll)
            if found or additions == self.queues.additions:
                return found

    def _next(self, agent: Agent, poll: Poll) -> list[Assignment]:
        """What the agent gets now; nothing where nothing waits for it."""
        if poll.acknowledges and (unacknowledged := agent.unacknowledged()):
            first = unacknowledged[0]
            # One token acknowledges all that came with it, so all of it comes again.
            return agent.deliveries[first.token][:] if poll.takes_several else [first]
        if own := self.queues.take_own(agent.key, max(1, poll.commands), MAX_LENGTH):
            return own
        waiting = self.queues.take_for_roles(agent) if poll.has_slot else None
        return [] if waiting is None else self._with_more(agent, poll, waiting)

    def _deliver(self, agent: Agent, poll: Poll, assignments: list[Assignment]) -> Delivery | None:
        """Stores that the agent has the commands; None when none of them is to be handed over to this poll any more.

        They are new, or all came before with one token.
        """
        offered = assignments[0].token
        is_whole = bool(offered) and len(assignments) == len(agent.deliveries.get(offered, ()))
        token = offered if is_whole else uuid.uuid4().hex if poll.acknowledges else ""
        with ExitStack() as locks:
            changes: dict[Assignment, dict[str, Any]] = {}
            for assignment in assignments:
                locks.enter_context(self._jobs.lock(assignment))
                if assignment.ended or assignment.token != offered:
                    continue  # taken back from another poll of the agent, or acknowledged by it
                if not offered and (assignment.state != states.QUEUED or assignment.agent not in (None, agent.key)):
                    continue  # handed over already
                if not offered and has_expired(assignment.job):
                    self._jobs.record(assignment, expired_result(assignment), states.ERROR)
                    continue
                assignment.handed_to.add(agent.key)
                changes[assignment] = {
                    "agent": agent.key,
                    "state": states.RUNNING,
                    "token": token,
                    "deliveries": assignment.deliveries + 1,
                    "delivered": monotonic_epoch(),
                }
            if not changes:
                return None
            try:
                self._jobs.update_all(changes)
            except ChangedError:
                return None  # another process handed out one of them; what is left is found by the next look
            except StateError:
                for assignment in () if offered else changes:
                    self.queues.add(assignment)  # no other poll is woken: the file would not take that delivery either
                raise
            if token and token != offered:
                agent.deliveries[token] = list(changes)
        again = bool(offered)
        delivery = Delivery(tuple(Handed(one, one.deliveries, again) for one in changes), token)
        if poll.has_gone():
            self.take_back(delivery)
            return None
        return delivery
