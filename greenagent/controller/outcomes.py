"""What becomes of jobs: results of agents, kills, and what ends when time has passed."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event

from greenagent.controller.agents import AgentTable
from greenagent.controller.book import Book
from greenagent.controller.dispatch import Dispatcher
from greenagent.controller.jobs import NO_AGENT, NOT_ACKNOWLEDGED, AgentKey, Assignment, Job, Target
from greenagent.controller.journal import (
    StateError,
    Statement,
    answered_row,
    assignment_row,
    finished_row,
    job_row,
    patience_row,
    result_rows,
)
from greenagent.controller.limits import Limits
from greenagent.controller.submission import Submission, own_result
from greenagent.runtime.clock import monotonic_epoch
from greenagent.values import states
from greenagent.values.errors import GreenagentError

REMEMBERED_REPEATS = 1000


class ResultError(GreenagentError):
    """A body that is not a result."""


KILL_ORDER = "kill-"
"""So begin the ids of kill commands that the controller makes."""


class EndedError(GreenagentError):
    """The job has ended already."""


class Outcomes:
    """Ends jobs."""

    def __init__(
        self,
        book: Book,
        dispatcher: Dispatcher,
        submission: Submission,
        agents: AgentTable,
        limits: Limits,
        on_finished: Callable[[str], None],
    ) -> None:
        """``on_finished`` gets the id of a job whose agents are all done."""
        self._book = book
        self._dispatcher = dispatcher
        self._submission = submission
        self._agents = agents
        self._limits = limits
        self._on_finished = on_finished
        self._refused_ones: list[Assignment] = []

    def restore(self, assignment: Assignment) -> None:
        """Takes up an assignment from the state file."""
        if assignment.refused is not None:
            self._refused_ones.append(assignment)

    def take(self, key: AgentKey, received: Any) -> None:
        """Takes a result an agent posted; a repeat is dropped. Raises ResultError, StateError."""
        result = _checked(key, received)
        self._book.settle(result["id"])
        job = self._book.get(result["id"])
        assignment = (job.assignment_of(key) or job.unassigned()) if job is not None else None
        mark = (result["starttime"], result["state"])
        if job is None or assignment is None:
            self._adopt(job, key, result)
            return
        if _is_repeat(assignment, mark):
            return
        assignment.agent = key
        if result["state"] == states.DUPLICATE_ID:
            self._refused(assignment, result)
            return
        self._record(assignment, result)

    def kill(self, job: Job, signal: str | int | None) -> list[tuple[AgentKey, str]]:
        """Cancels what waits here and sends ``kill`` to the agents that have the job.

        Returns those agents with the id of the kill command for each. Raises EndedError, StateError.
        """
        open_ones = [one for one in job.assignments if not one.ended]
        if not open_ones:
            raise EndedError(f"job {job.id} has ended already ({job.state})")
        sent: list[tuple[AgentKey, str]] = []
        for assignment in open_ones:
            assignment.settle()
            if assignment.ended:
                continue
            if assignment.state == states.QUEUED or assignment.agent is None:
                self._record(assignment, own_result(assignment, states.KILLED, "killed before any agent had it"))
                continue
            data = {"id": job.id} if signal is None else {"id": job.id, "signal": signal}
            order = {
                "id": f"{KILL_ORDER}{uuid.uuid4()}",
                "gid": assignment.agent.gid,
                "nid": assignment.agent.nid,
                "cmd": "kill",
                "args": {},
                "data": json.dumps(data),
            }
            sent.append((assignment.agent, self._submission.submit(order, force=True).id))
        return sent

    def sweep(self) -> None:
        """Ends what has waited too long. Raises StateError."""
        self._end_waiting_for_nodes()
        self._end_waiting_for_roles()
        for agent in self._agents.all():
            if not agent.unacknowledged or agent.open_polls:
                continue
            for assignment in list(agent.unacknowledged.values()):
                since = max(agent.last_poll, self._agents.started)
                silent = min(time.monotonic() - since, monotonic_epoch() - assignment.delivered)
                if silent > self._limits.unacknowledged and not assignment.ended:
                    self._record(assignment, own_result(assignment, states.ERROR, NOT_ACKNOWLEDGED))
        for assignment in self._refused_ones:
            self._end_refused(assignment)
        self._refused_ones = [one for one in self._refused_ones if one.refused is not None and not one.ended]
        self._book.trim()

    def _end_waiting_for_nodes(self) -> None:
        now = monotonic_epoch()
        young = self._agents.are_young()
        for agent in self._agents.all():
            for assignment in list(agent.line):
                job = assignment.job
                if not job.wait_until or assignment.ended:
                    continue
                if agent.is_live(self._limits):
                    self._dispatcher.journal.write([patience_row(job, 0.0)])
                    job.wait_until = 0.0
                elif now >= job.wait_until and not young:
                    self._record(assignment, own_result(assignment, states.ERROR, NO_AGENT))

    def _end_waiting_for_roles(self) -> None:
        now = monotonic_epoch()
        young = self._agents.are_young()
        for target, waiting in self._dispatcher.roles.groups():
            gevent.sleep(0)  # many groups times many agents must not make the controller deaf
            matching = self._agents.live_matching(target)
            for assignment in waiting:
                if not assignment.in_line:
                    continue  # handed out meanwhile
                if matching and target.fanout:
                    self._dispatcher.expand_fanout(assignment, matching)
                elif not matching and not young and now >= assignment.job.wait_until:
                    self._record(assignment, own_result(assignment, states.ERROR, NO_AGENT))

    def _refused(self, assignment: Assignment, result: dict[str, Any]) -> None:
        """A DUPILICATE_ID never ends the job that owns the id (design, section 5).

        Handed out twice, the second copy was refused and the first one runs. Handed out once, it
        was refused in favour of a job this controller knows nothing of; but the true result may be
        on its way, so the refusal is held back a while.
        """
        if assignment.ended or assignment.deliveries > 1 or assignment.results:
            return
        if assignment.refused is None:
            self._dispatcher.journal.write(result_rows(assignment, result, self._limits.results_per_agent))
            assignment.refused = result
            assignment.refused_at = monotonic_epoch()
            self._refused_ones.append(assignment)

    def _end_refused(self, assignment: Assignment) -> None:
        if assignment.ended or assignment.refused is None:
            return
        if monotonic_epoch() - assignment.refused_at >= self._limits.refusal:
            self._record(assignment, assignment.refused)

    def _record(self, assignment: Assignment, result: dict[str, Any]) -> None:
        """Writes a result down, then lets it count. A placeholder never replaces it."""
        job = assignment.job
        mark = (result["starttime"], result["state"])
        if result.get("delivered", True):
            if _is_repeat(assignment, mark):
                return
        else:
            while assignment.pending:
                next(iter(assignment.pending.values())).wait()
            if assignment.ended:
                return  # what an agent says is worth more than what we conclude
        state = _state_after(job, result)
        ends = states.is_terminal(state) and all(one.ended for one in job.assignments if one is not assignment)
        statements: list[Statement] = [
            *result_rows(assignment, result, self._limits.results_per_agent),
            answered_row(assignment, state, assignment.count + 1),
        ]
        finished = job.finished or (monotonic_epoch() if ends else 0.0)
        if finished:
            statements.append(finished_row(job, finished))
        assignment.count += 1
        pending = assignment.pending[mark] = Event()
        try:
            self._dispatcher.journal.write(statements)
        except BaseException:
            assignment.count -= 1
            raise
        else:
            assignment.seen[mark] = None
        finally:
            del assignment.pending[mark]
            pending.set()
        if assignment.ended and not result.get("delivered", True):
            return  # the agent's own result came while ours was written
        self._apply(assignment, result, state, finished)

    def _apply(self, assignment: Assignment, result: dict[str, Any], state: str, finished: float) -> None:
        job = assignment.job
        self._dispatcher.settle(assignment)
        assignment.refused = None
        assignment.state = state
        assignment.results.append(result)
        dropped = assignment.results[: -self._limits.results_per_agent]
        del assignment.results[: len(dropped)]
        while len(assignment.seen) > REMEMBERED_REPEATS:
            del assignment.seen[next(iter(assignment.seen))]
        self._book.grow(job, _size(result) - sum(map(_size, dropped)))
        if all(one.ended for one in job.assignments):
            job.finished = finished or monotonic_epoch()
            self._book.finish(job)
            self._on_finished(job.id)
        job.changed()

    def _adopt(self, job: Job | None, key: AgentKey, result: dict[str, Any]) -> None:
        """A result of a job this controller does not know (it forgot, or never asked): kept like any other."""
        if job is None:
            args = result.get("args")
            command = {"id": result["id"], "gid": key.gid, "nid": key.nid, "cmd": result.get("cmd") or "", "args": args}
            job = self._book.new(result["id"], command, Target(key, (), False), 200)
            job.adopted = True
        adopted = job.adopted and not job.assignments
        assignment = job.add(key, state=states.RUNNING)
        try:
            rows = [job_row(job)] if adopted else []
            self._dispatcher.journal.write([*rows, assignment_row(assignment)])
        except StateError:
            job.assignments.remove(assignment)
            if adopted:
                self._book.abandon(job)
            raise
        if adopted:
            self._book.add(job)
        self._record(assignment, result)


def is_kill_order(job: Job) -> bool:
    """True for the job by which this controller has an agent end another one."""
    return job.command.get("cmd") == "kill" and job.id.startswith(KILL_ORDER)


def _state_after(job: Job, result: dict[str, Any]) -> str:
    """The state of the assignment after a result: a recurring job goes on after each run."""
    state: str = result["state"]
    started = result["starttime"] > 0
    if job.recurring and started and state in (states.SUCCESS, states.ERROR, states.TIMEOUT):
        return states.RUNNING if result.get("delivered", True) else state
    return state


def _is_repeat(assignment: Assignment, mark: tuple[int, str]) -> bool:
    """Whether such a result is known; one that is just being written is waited for: only then is it safe."""
    while (pending := assignment.pending.get(mark)) is not None:
        pending.wait()
    return mark in assignment.seen


def _size(result: dict[str, Any]) -> int:
    """The bytes a result takes, about."""
    return len(result["data"]) + sum(map(len, result.get("streams") or ())) + 500


def _checked(key: AgentKey, received: Any) -> dict[str, Any]:
    """The result with the types the rest relies on (protocol 4.1); identity is that of the URL."""
    if not isinstance(received, dict):
        raise ResultError("a result is a JSON object")
    result = dict(received)
    if not isinstance(result.get("id"), str) or not result["id"]:
        raise ResultError("a result needs the id of its job")
    if not isinstance(result.get("state"), str) or result["state"] not in states.TERMINAL:
        raise ResultError("a result needs a final state")
    result["gid"], result["nid"] = key
    for name in ("starttime", "time"):
        value = result.get(name)
        if value is None:
            value = 0
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 2**62:
            raise ResultError(f"'{name}' of a result must be a number of milliseconds")
        result[name] = int(value)
    if result.get("data") is None:
        result["data"] = ""
    if not isinstance(result["data"], str):
        raise ResultError("'data' of a result must be text")
    streams = result.get("streams")
    if streams is not None and not (isinstance(streams, list) and all(isinstance(text, str) for text in streams)):
        raise ResultError("'streams' of a result must be a list of texts")
    return result
