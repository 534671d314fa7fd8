"""Which agent gets which command, and how it is handed over (protocol 12.3, design, section 5)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from gevent.event import Event

from greenagent.controller.agents import Agent, AgentTable, Poll
from greenagent.controller.jobs import AgentKey, Assignment, Job
from greenagent.controller.journal import Journal, StateError, acknowledged_row, assignment_row, moved_row
from greenagent.controller.limits import Limits
from greenagent.controller.lines import RoleLines, enter, leave
from greenagent.runtime.clock import monotonic_epoch
from greenagent.values import states


class Handover(NamedTuple):
    """A command on its way to a poll."""

    assignment: Assignment
    token: str
    number: int
    """Which delivery of the command it is."""
    again: bool = False
    """Offered before: the agent may have it already, so it stays with that agent."""


class Dispatcher:
    """Brings commands and polls together.

    Memory and journal change in this order: first the journal, then what others see, except that
    a command leaves its line before its delivery is written and goes back if that fails.
    """

    def __init__(self, agents: AgentTable, journal: Journal, limits: Limits) -> None:
        self.agents = agents
        self.journal = journal
        self._limits = limits
        self._roles = RoleLines()
        self._closing = Event()

    def close(self) -> None:
        """Answers every open poll with nothing and hands out nothing more."""
        self._closing.set()
        for agent in self.agents.all():
            for poll in agent.parked:
                poll.dismiss()

    def choose(self, job: Job, force: bool) -> list[tuple[AgentKey | None, bool]]:
        """The agents a new job is for, each with whether any other could take it; none if nobody is live."""
        target = job.target
        if not target.roles:
            wanted = force or job.wait_until or self.agents.is_live(target.key)
            return [(target.key, False)] if wanted else []
        matching = self.agents.live_matching(target)
        if not matching:
            return [(None, True)] if job.wait_until else []
        if target.fanout:
            return [(agent.key, False) for agent in matching]
        return [(None, True)]

    def enqueue(self, assignment: Assignment, first: bool = False) -> None:
        """Gives a command to a waiting poll, or puts it into its line."""
        if assignment.ended:
            return
        if assignment.floating:
            assignment.agent = None
            poll: Poll | None = None
            if not assignment.job.target.fanout:
                poll = self.agents.longest_parked(assignment.job.target)
            if poll is None:
                self._roles.add(assignment, first)
                return
            agent = self.agents.ensure(poll.key)
            assignment.agent = poll.key
        elif assignment.agent is None:
            self._roles.add(assignment, first)
            return
        else:
            agent = self.agents.ensure(assignment.agent)
            if not agent.parked:
                enter(agent.line, assignment, first)
                return
            poll = agent.parked[-1]
        agent.parked.remove(poll)
        poll.give(assignment)

    def serve(self, poll: Poll, tokens: set[str]) -> Handover | None:
        """Waits for a command for an open poll; None when there is none. Raises StateError.

        What the poll acknowledges is noted first. After a Handover the caller says whether the
        answer could be written (``hand_back`` if not).
        """
        agent = self.agents.poll_began(poll)
        try:
            self._acknowledge(agent, tokens)
            patience = self._limits.poll if poll.has_slot else self._limits.full_poll
            deadline = time.monotonic() + patience
            while not self._closing.is_set():
                assignment = self._next(agent, poll) or self._park(agent, poll, deadline)
                if assignment is None:
                    return None
                if self._closing.is_set() or poll.has_gone():
                    if not assignment.token:  # one that was offered before stays with its agent
                        self.enqueue(assignment, first=True)
                    return None
                handover = self._deliver(agent, poll, assignment)
                if handover is not None:
                    return handover
                if poll.has_gone():
                    return None
            return None
        finally:
            self.agents.poll_ended(agent)

    def hand_back(self, handover: Handover) -> None:
        """The answer could not be written: the command goes back to the head of its line."""
        assignment, token, number, again = handover
        if again:
            return
        with _moving(assignment):
            if assignment.ended or assignment.token != token or assignment.deliveries != number:
                return  # it was settled, or another poll of its agent was given it meanwhile
            # Meanwhile it must not be offered to its agent, which may poll again at once: it is anybody's then.
            agent = self.agents.ensure(assignment.agent) if token and assignment.agent is not None else None
            if agent is not None:
                agent.unacknowledged.pop(token, None)
            try:
                self._undo(assignment)
            except StateError:
                if agent is not None:
                    if not assignment.ended and assignment.token == token:
                        agent.unacknowledged[token] = assignment  # it is offered again at the next poll
                    return
                self._reset(assignment)
        self.enqueue(assignment, first=True)

    def expand_fanout(self, assignment: Assignment, matching: list[Agent]) -> None:
        """A fanout command that waited for its first agent goes to all that are live now. Raises StateError."""
        job = assignment.job
        first, *others = [agent.key for agent in matching]
        self._roles.remove(assignment)  # or an agent that polls meanwhile would be given it as well
        added = [job.add(key) for key in others]
        try:
            moved = moved_row(assignment, first, states.QUEUED, "", 0, 0.0)
            self.journal.write([moved, *(assignment_row(one) for one in added)])
        except StateError:
            del job.assignments[-len(added) or len(job.assignments) :]
            self._roles.add(assignment, first=True)
            raise
        assignment.agent = first
        assignment.floating = False
        for one in (assignment, *added):
            self.enqueue(one)

    @property
    def roles(self) -> RoleLines:
        """The role commands that wait."""
        return self._roles

    def settle(self, assignment: Assignment) -> None:
        """The job has ended at its agent, or was acknowledged: its delivery needs no more care."""
        if assignment.token and assignment.agent is not None:
            agent = self.agents.get(assignment.agent)
            if agent is not None:
                agent.unacknowledged.pop(assignment.token, None)
        assignment.token = ""

    def restore(self, assignment: Assignment) -> None:
        """Takes up an assignment from the state file."""
        if assignment.token and assignment.agent is not None:
            self.agents.ensure(assignment.agent).unacknowledged[assignment.token] = assignment
        elif assignment.state == states.QUEUED:
            self.enqueue(assignment)

    def _acknowledge(self, agent: Agent, tokens: set[str]) -> None:
        named = [agent.unacknowledged[token] for token in tokens if token in agent.unacknowledged]
        if named:
            self.journal.write([acknowledged_row(one) for one in named])
            for assignment in named:
                self.settle(assignment)

    def _next(self, agent: Agent, poll: Poll) -> Assignment | None:
        if poll.acknowledges:
            for assignment in agent.unacknowledged.values():
                if not assignment.ended:
                    return assignment
        waiting = leave(agent.line)
        if waiting is None and poll.has_slot:
            waiting = self._roles.take(agent)
        return waiting

    def _park(self, agent: Agent, poll: Poll, deadline: float) -> Assignment | None:
        poll.assignment = None
        agent.parked.append(poll)
        assignment = poll.wait(max(0.0, deadline - time.monotonic()))
        if assignment is None:
            agent.parked.remove(poll)
        return assignment

    def _deliver(self, agent: Agent, poll: Poll, assignment: Assignment) -> Handover | None:
        """Writes the delivery down; None when the command is no longer to be handed over here."""
        offered = assignment.token
        with _moving(assignment):
            if assignment.token != offered:
                return None  # taken back from another poll of the agent, or acknowledged by it
            handover = self._write_delivery(agent, poll, assignment)
        if handover is not None and poll.has_gone():
            self.hand_back(handover)
            return None
        return handover

    def _write_delivery(self, agent: Agent, poll: Poll, assignment: Assignment) -> Handover | None:
        again = bool(assignment.token)
        token = assignment.token or (uuid.uuid4().hex if poll.acknowledges else "")
        now = monotonic_epoch()
        deliveries = assignment.deliveries + 1
        try:
            self.journal.write([moved_row(assignment, agent.key, states.RUNNING, token, deliveries, now)])
        except StateError:
            if not again:
                self._reset(assignment)
                self._line_up(assignment)
            raise
        if assignment.ended:
            return None
        assignment.agent = agent.key
        assignment.state = states.RUNNING
        assignment.token = token
        assignment.delivered = now
        assignment.deliveries = deliveries
        if token:
            agent.unacknowledged[token] = assignment
        assignment.job.changed()
        return Handover(assignment, token, deliveries, again)

    def _line_up(self, assignment: Assignment) -> None:
        """Back into its line without waking anybody: the state file does not take writes now."""
        if assignment.agent is None:
            self._roles.add(assignment, first=True)
        else:
            enter(self.agents.ensure(assignment.agent).line, assignment, first=True)

    def _undo(self, assignment: Assignment) -> None:
        agent = None if assignment.floating else assignment.agent
        self.journal.write(
            [moved_row(assignment, agent, states.QUEUED, "", assignment.deliveries - 1, assignment.delivered)]
        )
        assignment.deliveries -= 1
        self._reset(assignment)

    def _reset(self, assignment: Assignment) -> None:
        if assignment.ended:
            return
        self.settle(assignment)
        assignment.state = states.QUEUED
        if assignment.floating:
            assignment.agent = None
        assignment.job.changed()


@contextmanager
def _moving(assignment: Assignment) -> Iterator[None]:
    assignment.settle()  # two polls of one agent may be offered the same command
    moved = assignment.moving = Event()
    try:
        yield
    finally:
        assignment.moving = None
        moved.set()
