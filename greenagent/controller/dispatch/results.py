"""What becomes of jobs: results of agents, kills, and what ends when time has passed."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any, Final

from greenagent.controller.dispatch.agents import AgentTable
from greenagent.controller.dispatch.dispatcher import Dispatcher
from greenagent.controller.dispatch.submission import Submission
from greenagent.controller.limits import Limits
from greenagent.controller.model import NO_AGENT, NOT_ACKNOWLEDGED, AgentKey, Assignment, Job, Target, synthetic_result
from greenagent.controller.state.job_store import JobStore
from greenagent.runtime.clock import monotonic_epoch
from greenagent.values import states
from greenagent.values.errors import GreenagentError

KILL_ORDER: Final = "kill-"
"""So begin the ids of kill commands that the controller makes."""


class ResultError(GreenagentError):
    """A body that is not a result."""


class EndedError(GreenagentError):
    """The job has ended already."""


class ResultService:
    """Ends jobs."""

    def __init__(
        self,
        jobs: JobStore,
        dispatcher: Dispatcher,
        submission: Submission,
        agents: AgentTable,
        limits: Limits,
    ) -> None:
        self._jobs = jobs
        self._dispatcher = dispatcher
        self._submission = submission
        self._agents = agents
        self._limits = limits
        self._refused: list[Assignment] = []

    def restore(self, assignment: Assignment) -> None:
        """Takes up an assignment from the state file."""
        if assignment.refused is not None:
            self._refused.append(assignment)

    def take(self, key: AgentKey, received: Any) -> None:
        """Takes a result an agent posted; a repeat is dropped. Raises ResultError, StateError."""
        result = _checked(key, received)
        with self._jobs.lock(result["id"]):  # the job may just be made
            job = self._jobs.get(result["id"])
            known = job.assignment_of(key) if job is not None else None
            assignment = known or self._adopt(job, key, result)
        with self._jobs.lock(assignment):
            if self._jobs.is_repeat(assignment, result):
                return
            if result["state"] == states.DUPLICATE_ID and known is not None:
                self._hold_refusal(assignment, result)
            else:
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
            with self._jobs.lock(assignment):  # it may just be on its way to an agent, or back
                if assignment.state == states.QUEUED:
                    self._conclude(assignment, states.KILLED, "killed before any agent had it")
                elif not assignment.ended and assignment.agent is not None:
                    sent.append((assignment.agent, self._order_kill(assignment.agent, job.id, signal)))
        return sent

    def sweep(self) -> None:
        """Ends what has waited too long. Raises StateError."""
        self._end_waiting()
        self._end_unacknowledged()
        for assignment in self._refused:
            with self._jobs.lock(assignment):
                is_over = monotonic_epoch() - assignment.refused_at >= self._limits.refusal
                if is_over and assignment.refused is not None and not assignment.ended:
                    self._record(assignment, assignment.refused)
        self._refused = [one for one in self._refused if one.refused is not None and not one.ended]
        self._jobs.trim()

    def _end_waiting(self) -> None:
        young = self._agents.are_young()
        for whom, queue in self._dispatcher.waiting():
            live = self._agents.live(whom)
            for assignment in queue:
                job = assignment.job
                if live and assignment.unassigned and job.target.fanout:
                    self._dispatcher.expand_fanout(assignment, live)
                elif live and job.wait_until and not assignment.unassigned:
                    self._jobs.stop_waiting(job)
                elif not live and not young and _has_waited_enough(assignment):
                    with self._jobs.lock(assignment):
                        if assignment.state == states.QUEUED:
                            self._conclude(assignment, states.ERROR, NO_AGENT)

    def _end_unacknowledged(self) -> None:
        for agent in self._agents.all():
            if agent.open_polls or not agent.deliveries:
                continue
            for assignment in agent.unacknowledged():
                since = max(agent.last_poll, self._agents.started)
                silent = min(time.monotonic() - since, monotonic_epoch() - assignment.delivered)
                if silent > self._limits.unacknowledged:
                    with self._jobs.lock(assignment):
                        if assignment.token and not assignment.ended:
                            self._conclude(assignment, states.ERROR, NOT_ACKNOWLEDGED)

    def _order_kill(self, agent: AgentKey, job_id: str, signal: str | int | None) -> str:
        data = {"id": job_id} if signal is None else {"id": job_id, "signal": signal}
        order_id = f"{KILL_ORDER}{uuid.uuid4()}"
        order = {"id": order_id, **agent.to_wire(), "cmd": "kill", "args": {}, "data": json.dumps(data)}
        self._submission.submit(order, force=True)
        return order_id

    def _hold_refusal(self, assignment: Assignment, result: dict[str, Any]) -> None:
        """A DUPILICATE_ID never ends the job that owns the id (design, section 5 "Roles and the embedded controller").

        Handed out twice, the second copy was refused and the first one runs. Handed out once, it
        was refused in favour of a job this controller knows nothing of; but the true result may be
        on its way, so the refusal is held back a while.
        """
        if assignment.ended or assignment.deliveries > 1 or assignment.results or assignment.refused is not None:
            return
        self._jobs.hold_refusal(assignment, result)
        self._refused.append(assignment)

    def _conclude(self, assignment: Assignment, state: str, text: str) -> None:
        """Ends an assignment for want of an agent's result. The caller holds its lock."""
        self._record(assignment, synthetic_result(assignment, state, text))

    def _record(self, assignment: Assignment, result: dict[str, Any]) -> None:
        self._jobs.record(assignment, result, _state_after(assignment.job, result))

    def _adopt(self, job: Job | None, key: AgentKey, result: dict[str, Any]) -> Assignment:
        """An assignment for a result nobody here waits for: the controller forgot the job, or never asked for it."""
        if job is not None:
            added = job.assign([key], state=states.RUNNING)
            self._jobs.extend(job, added)
            return added[0]
        command = {"id": result["id"], **key.to_wire(), "cmd": result.get("cmd") or "", "args": result.get("args")}
        job = self._jobs.new(command, Target(key, (), False))
        job.assignments = job.assign([key], state=states.RUNNING)
        self._jobs.add(job)
        return job.assignments[0]


def _has_waited_enough(assignment: Assignment) -> bool:
    """A command for a node waits on where it named no time for its agent to come, or the agent came within it."""
    deadline = assignment.job.wait_until
    return (bool(deadline) or assignment.unassigned) and deadline <= monotonic_epoch()


def is_kill_order(job: Job) -> bool:
    """True for the job by which this controller has an agent end another one."""
    return job.command.get("cmd") == "kill" and job.id.startswith(KILL_ORDER)


def _state_after(job: Job, result: dict[str, Any]) -> str:
    """The state of the assignment after a result: a recurring job goes on after each run of an agent."""
    state: str = result["state"]
    is_run = result["starttime"] > 0 and result.get("delivered", True)
    if job.recurring and is_run and state in (states.SUCCESS, states.ERROR, states.TIMEOUT):
        return states.RUNNING
    return state


def _checked(key: AgentKey, received: Any) -> dict[str, Any]:
    """The result with the types the rest relies on (protocol 4.1); identity is that of the URL."""
    if not isinstance(received, dict):
        raise ResultError("a result is a JSON object")
    result = {**received, **key.to_wire()}
    if not isinstance(result.get("id"), str) or not result["id"]:
        raise ResultError("a result needs the id of its job")
    if not isinstance(result.get("state"), str) or result["state"] not in states.TERMINAL:
        raise ResultError("a result needs a final state")
    for name in ("starttime", "time"):
        value = 0 if result.get(name) is None else result[name]
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
