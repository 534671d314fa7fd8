"""What becomes of jobs: results of agents, kills, and what ends when time has passed."""

from __future__ import annotations

import json
import math
import time
import uuid
from typing import Any, Final, NamedTuple

from greenagent.controller.dispatch.agents import AgentTable
from greenagent.controller.dispatch.dispatcher import Dispatcher
from greenagent.controller.dispatch.own_results import expired_result, synthetic_result
from greenagent.controller.dispatch.submission import Submission, parse_posted
from greenagent.controller.expiry import has_expired
from greenagent.controller.limits import MIB, Limits
from greenagent.controller.model import (
    MAX_SHOWN_NAME,
    NOT_ACKNOWLEDGED,
    AgentKey,
    Assignment,
    Brief,
    Job,
    Result,
    Target,
    end_of,
)
from greenagent.controller.state.state_file import ChangedError
from greenagent.controller.stores import Jobs
from greenagent.runtime.clock import monotonic_epoch
from greenagent.values import states
from greenagent.values.arguments import as_text
from greenagent.values.command import problem_of_id
from greenagent.values.errors import GreenagentError

MAX_TEXT: Final = 64 * MIB
"""Bytes of a result's JSON text: with escapes for all that is not ASCII it may be three times as long as it came."""
MAX_ARGS: Final = 16 * 1024
"""Characters of run arguments, as JSON, that are taken from a result of a job that is not known here."""
SMALL_ARGS: Final = ("domain", "name", "queue", "max_time", "max_restart", "recurring_period")
"""What is taken of larger ones, where it is short."""
TRIES: Final = 5
"""Of a change where others change the same."""
KILL_ORDER: Final = "kill-"
"""So begin the ids of kill commands that the controller makes."""


_finite_json: Final = json.JSONEncoder(allow_nan=False).encode
"""``json.dumps`` would make an encoder for each result. Raises ValueError."""


class ResultError(GreenagentError):
    """A body that is not a result."""


class TooLargeResultError(GreenagentError):
    """A result that takes more room than any may."""


class NotItsJobError(GreenagentError):
    """A result of a job that was never given to the agent."""


class SignalNotKnownError(GreenagentError):
    """An original agent takes every kill for the end of the job."""


class EndedError(GreenagentError):
    """The job has ended already."""


class ResultService:
    """Ends jobs."""

    def __init__(
        self,
        jobs: Jobs,
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

    def take(self, result: Result) -> None:
        """Takes a result an agent posted; a repeat is dropped.

        Raises NotItsJobError for one of a job that the agent was never given, and StateError.
        """
        for _ in range(TRIES):
            try:
                self._take(result)
            except ChangedError:
                continue  # it was acknowledged at another process meanwhile, say: a look at what it is now
            return
        self._take(result)

    def _take(self, result: Result) -> None:
        key = result.key
        with self._jobs.lock(result.id):  # the job may just be made
            job = self._jobs.get(result.id, key)
            known = job.assignment_of(key) if job is not None else None
            if known is None and job is not None and not job.adopted:
                raise NotItsJobError(f"agent {key} posted a result of job {job.id}, which it was never given")
            assignment = known or self._adopt(job, result)
        with self._jobs.lock(assignment):
            if self._jobs.is_repeat(assignment, result):
                return
            if result.state == states.DUPLICATE_ID and known is not None:
                self._hold_refusal(assignment, result)
            else:
                self._record(assignment, result)
        if assignment.job.adopted:
            self._jobs.trim_adopted(key)

    def kill(self, job: Job, signal: str | int | None) -> list[tuple[AgentKey, str]]:
        """Cancels what waits here and sends ``kill`` to the agents that have the job.

        Returns those agents with the id of the kill command for each. Raises EndedError,
        SignalNotKnownError, StateError.
        """
        open_ones = [one for one in job.assignments if not one.ended]
        if not open_ones:
            raise EndedError(f"job {job.id} has ended already ({job.state})")
        for one in open_ones:
            if signal is not None and one.state == states.RUNNING and one.agent and self._is_original(one.agent):
                raise SignalNotKnownError(
                    f"agent {one.agent} is an original one: it would end the job instead of sending it a signal"
                )
        sent: list[tuple[AgentKey, str]] = []
        for assignment in open_ones:
            with self._jobs.lock(assignment):  # it may just be on its way to an agent, or back
                if assignment.state == states.QUEUED:
                    self._conclude(assignment, states.KILLED, "killed before any agent had it")
                elif not assignment.ended and assignment.agent is not None:
                    sent.append((assignment.agent, self._order_kill(assignment.agent, job.id, signal)))
        return sent

    def end_expired(self, job_id: str, key: AgentKey) -> None:
        """An agent says that a job waits for its turn there, which may be over. Raises StateError."""
        job = self._jobs.get(job_id, key)
        if job is not None and has_expired(job):
            self._expire(job)

    def _expire(self, job: Job) -> None:
        """Ends what no agent has begun of a job that was to be started by now."""
        for one in job.assignments[:]:
            with self._jobs.lock(one):
                if one.state == states.QUEUED:
                    self._record(one, expired_result(one))
                elif one.waits and one.agent is not None:
                    self._order_kill(one.agent, job.id, None)

    def has_started(self, key: AgentKey) -> None:
        """An agent says that it has just been started: that answers ``restart``, which originals never do otherwise."""
        if not self._is_original(key):
            return
        for assignment in self._jobs.running_on(key):
            if assignment.job.brief.cmd == "restart":
                with self._jobs.lock(assignment):
                    if not assignment.ended:
                        self._conclude(assignment, states.SUCCESS, "the agent has been started again")

    def _is_original(self, key: AgentKey) -> bool:
        agent = self._agents.find(key)
        return agent is not None and agent.is_original

    def sweep(self) -> None:
        """Ends what has waited too long. Raises StateError."""
        for job in self._jobs.take_expired():
            self._expire(job)
        self._end_waiting()
        self._end_unacknowledged()
        for assignment in self._jobs.refused():
            with self._jobs.lock(assignment):
                is_over = monotonic_epoch() - assignment.refused_at >= self._limits.refusal
                if is_over and assignment.refused is not None and not assignment.ended:
                    self._record(assignment, assignment.refused)

    def _end_waiting(self) -> None:
        young = self._agents.are_young()
        for whom, waiting in self._dispatcher.queues.waiting():
            live = self._agents.live(whom)
            for assignment in waiting:
                job = assignment.job
                if live and assignment.unassigned and job.target.fanout:
                    self._dispatcher.expand_fanout(assignment, live)
                elif live and job.wait_until and not assignment.unassigned and not job.target.fanout:
                    if not live[0].is_stopped:
                        self._jobs.stop_waiting(job)
                elif not live and not young and _has_waited_enough(assignment):
                    with self._jobs.lock(assignment):
                        if assignment.state == states.QUEUED:
                            self._conclude(assignment, states.ERROR, self._agents.none_live(whom))

    def _end_unacknowledged(self) -> None:
        for agent in self._agents.with_deliveries():
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
        self._submission.submit(parse_posted(order), force=True)
        return order_id

    def _hold_refusal(self, assignment: Assignment, result: Result) -> None:
        """A DUPILICATE_ID never ends the job that owns the id (design, section 5 "Roles and the embedded controller").

        Handed out twice, the second copy was refused and the first one runs. Handed out once, it
        was refused in favour of a job this controller knows nothing of; but the true result may be
        on its way, so the refusal is held back a while.
        """
        if assignment.ended or assignment.deliveries > 1 or assignment.results or assignment.refused is not None:
            return
        self._jobs.hold_refusal(assignment, result)

    def _conclude(self, assignment: Assignment, state: str, text: str) -> None:
        """Ends an assignment for want of an agent's result. The caller holds its lock."""
        self._record(assignment, synthetic_result(assignment, state, text))

    def _record(self, assignment: Assignment, result: Result) -> None:
        goes_on = result.is_of_first and self._is_original(result.key)
        self._jobs.record(assignment, result._replace(args=""), _state_after(assignment.job, result, goes_on))

    def _adopt(self, job: Job | None, result: Result) -> Assignment:
        """An assignment for a result nobody here waits for: the controller forgot the job, or never asked for it."""
        key = result.key
        if job is not None:
            added = job.assign([key], state=states.RUNNING)
            self._jobs.extend(job, added)
            return added[0]
        command = {"id": result.id, **key.to_wire(), "cmd": result.cmd, "args": json.loads(result.args)}
        text, brief = json.dumps(command), Brief.of(command)  # a recurring one goes on, and can be killed
        job = self._jobs.new(result.id, text, brief, Target(key, (), False), adopted=True)
        job.assignments = job.assign([key], state=states.RUNNING)
        self._jobs.add(job)
        return job.assignments[0]


def _has_waited_enough(assignment: Assignment) -> bool:
    """A command for a node waits on where it named no time for its agent to come, or the agent came within it.

    That of a fan-out does not: who asks many waits for the answer of each.
    """
    job = assignment.job
    ends = bool(job.wait_until) or assignment.unassigned or job.target.fanout
    return ends and job.wait_until <= monotonic_epoch()


def is_kill_order(job: Job) -> bool:
    """True for the job by which this controller has an agent end another one."""
    return job.brief.cmd == "kill" and job.id.startswith(KILL_ORDER)


def _state_after(job: Job, result: Result, is_of_first_original: bool) -> str:
    """The state of the assignment after a result: a recurring job goes on after each run of an agent.

    A first original kills one run of it alone (protocol 5.6).
    """
    state = result.state
    is_run = result.starttime > 0 and result.delivered
    of_run = {states.SUCCESS, states.ERROR, states.TIMEOUT} | ({states.KILLED} if is_of_first_original else set())
    return states.RUNNING if job.brief.recurring and is_run and state in of_run else state


def _finite(value: Any) -> Any:
    """A JSON value with null for NaN and infinite numbers: shown again, they would be no JSON."""
    try:
        _finite_json(value)  # ten times faster than any look at the value
    except ValueError:
        return _without_infinite(value)
    return value


def _without_infinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_infinite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _small(args: Any) -> str:
    """Run arguments as JSON, or as much of them as is small."""
    args = args if isinstance(args, dict) else {}
    if len(text := json.dumps(args)) <= MAX_ARGS:
        return text
    return json.dumps(
        {name: args[name] for name in SMALL_ARGS if name in args and len(json.dumps(args[name])) <= MAX_SHOWN_NAME}
    )


class Refused(NamedTuple):
    """One of several results that is not taken, and the status that it would have been answered with by itself."""

    status: int
    reason: str


def parse_results(key: AgentKey, received: Any) -> list[Result | Refused] | None:
    """Several results an agent posted together, as ``parse_result`` reads each; None where it is no list."""
    return [_parse_one(key, one) for one in received] if isinstance(received, list) else None


def _parse_one(key: AgentKey, received: Any) -> Result | Refused:
    try:
        return parse_result(key, received)
    except TooLargeResultError as error:
        return Refused(413, str(error))
    except ResultError as error:
        return Refused(400, str(error))


def parse_result(key: AgentKey, received: Any) -> Result:
    """A result an agent posted, with the types that readers rely on (protocol 4.1); identity is that of the URL.

    Looks at nothing else, so it may be called in another process. Raises ResultError.
    """
    if not isinstance(received, dict):
        raise ResultError("a result is a JSON object")
    result = {**_finite(received), **key.to_wire()}
    result.pop("delivered", None)  # this controller's word for what no agent answered
    if not isinstance(result.get("id"), str) or not result["id"]:
        raise ResultError("a result needs the id of its job")
    if problem := problem_of_id(result["id"]):
        raise ResultError(problem)
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
    for name in ("cmd", "critical", "signal", "reason", "tags"):
        if result.get(name) is not None:
            result[name] = as_text(result[name])
    for name, instead in (("level", 0), ("exit_code", None)):
        if name in result and (isinstance(result[name], bool) or not isinstance(result[name], int)):
            result[name] = instead
    cmd = (result.get("cmd") or "")[:MAX_SHOWN_NAME]
    is_of_first = "tags" not in result and "exit_code" not in result
    text = json.dumps(result)
    if len(text) > MAX_TEXT:
        raise TooLargeResultError(f"a result is kept as ASCII JSON, of {MAX_TEXT} bytes at most")
    return Result(
        result["id"],
        key,
        result["state"],
        result["starttime"],
        text,
        cmd=cmd,
        args=_small(result.get("args")),
        is_of_first=is_of_first,
        time=result["time"],
        **end_of(result),
    )
