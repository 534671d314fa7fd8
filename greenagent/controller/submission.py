"""Taking a posted command: what is checked, and whom it goes to (protocol 12.3, design, section 5)."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from greenagent.controller.book import Book, target_of
from greenagent.controller.dispatch import Dispatcher
from greenagent.controller.jobs import IDENTITY_DIGITS, NO_AGENT, AgentKey, Assignment, Job, Target
from greenagent.controller.journal import Statement, answered_row, assignment_row, job_row, result_rows
from greenagent.controller.limits import Limits
from greenagent.controller.scripts import ScriptStore
from greenagent.runtime.clock import monotonic_epoch
from greenagent.values import levels, states
from greenagent.values.command import parse_command
from greenagent.values.errors import CommandError, GreenagentError

MAX_WAIT = 10 * 365 * 86_400


class KnownIdError(GreenagentError):
    """A job of that id is known."""


class TooManyJobsError(GreenagentError):
    """More jobs are waiting or running than the controller remembers."""


class Submission:
    """Turns command objects into jobs."""

    def __init__(self, book: Book, dispatcher: Dispatcher, scripts: ScriptStore, limits: Limits) -> None:
        self._book = book
        self._dispatcher = dispatcher
        self._scripts = scripts
        self._limits = limits

    def submit(self, posted: Any, *, force: bool = False) -> Job:
        """Takes a command object and starts its dispatch.

        ``force``: queue it for its node even if that is not live, and however many jobs wait (as ``kill`` needs
        it, which makes room). Raises CommandError, KnownIdError, TooManyJobsError, StateError.
        """
        if not isinstance(posted, dict):
            raise CommandError("a command is a JSON object")
        command = dict(posted)
        patience = _patience(command.pop("wait_for_agent", None))
        if command.get("id") is None:
            command["id"] = str(uuid.uuid4())
        parsed = parse_command(command)
        command = dict(parsed.received)
        command["id"] = parsed.id
        if not parsed.cmd:
            raise CommandError("'cmd' is missing: the name of the command to run")
        command["cmd"] = parsed.cmd
        target = _checked_target(command)
        if parsed.cmd == "jumpscript_content":
            command["data"] = self._scripts.replace_content(parsed.data)
        # From here to ``new`` nothing may wait: of two commands with one id the second is to be refused.
        self._book.settle(parsed.id)
        if self._book.get(parsed.id) is not None:
            raise KnownIdError(f"a job with the id {parsed.id!r} is known already: give the new one another id")
        if not force:
            self._check_room()
        job = self._book.new(parsed.id, command, target, len(json.dumps(command)))
        if patience:
            job.wait_until = monotonic_epoch() + patience
        try:
            if parsed.cmd == "controller":
                self._answer_here(job, parsed.arguments.name)
            else:
                self._send_out(job, force)
        except BaseException:
            self._book.abandon(job)
            raise
        return job

    def _check_room(self) -> None:
        if self._book.unfinished >= self._limits.unfinished_jobs:
            raise TooManyJobsError(
                f"{self._limits.unfinished_jobs} jobs are waiting or running already: try again when some have ended"
            )
        if self._book.open_bytes >= self._limits.unfinished_bytes:
            raise TooManyJobsError("the commands of unfinished jobs fill the memory for them: try again later")

    def _send_out(self, job: Job, force: bool) -> None:
        for key, floating in self._dispatcher.choose(job, force):
            job.add(key, floating)
        if job.assignments:
            self._dispatcher.journal.write([job_row(job), *(assignment_row(one) for one in job.assignments)])
            self._book.add(job)
            for assignment in job.assignments:
                self._dispatcher.enqueue(assignment)
            return
        self._end_at_once(job, states.ERROR, NO_AGENT)

    def _answer_here(self, job: Job, operation: str) -> None:
        """Internal commands (protocol 12.5): ``list_agents`` is the one this controller knows."""
        if operation == "list_agents":
            agents = {str(agent.key): list(agent.roles) or None for agent in self._dispatcher.agents.all()}
            self._end_at_once(job, states.SUCCESS, json.dumps(agents), levels.RESULT_JSON)
        else:
            self._end_at_once(job, states.UNKNOWN_CMD, "")

    def _end_at_once(self, job: Job, state: str, data: str, level: int = 0) -> None:
        assignment = job.add(job.target.key, state=states.QUEUED)
        result = own_result(assignment, state, data, level)
        job.finished = monotonic_epoch()
        statements: list[Statement] = [job_row(job), *result_rows(assignment, result, 1), assignment_row(assignment)]
        self._dispatcher.journal.write([*statements, answered_row(assignment, state, 1)])
        assignment.state = state
        assignment.count = 1
        assignment.results.append(result)
        self._book.add(job)
        self._book.finish(job)


def own_result(assignment: Assignment, state: str, data: str, level: int = 0) -> dict[str, Any]:
    """A result the controller itself gives; ``delivered`` false says that no agent answered."""
    job = assignment.job
    key = assignment.agent or job.target.key
    args = job.command.get("args")
    return {
        "id": job.id,
        "gid": key.gid,
        "nid": key.nid,
        "cmd": job.command.get("cmd") or "",
        "args": args if isinstance(args, dict) else {},
        "data": data,
        "level": level,
        "state": state,
        "starttime": int(time.time() * 1000),
        "time": 0,
        "delivered": False,
    }


def _patience(value: Any) -> float:
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_WAIT:
        raise CommandError("'wait_for_agent' must be a number of seconds")
    return float(value)


def _checked_target(command: dict[str, Any]) -> Target:
    """Protocol 2.1: gid and nid, gid and role, or role alone."""
    target = target_of(command)
    gid, nid = target.key
    if gid < 0 or nid < 0:
        raise CommandError("'gid' and 'nid' must not be negative")
    if max(gid, nid) >= 10**IDENTITY_DIGITS:
        raise CommandError(f"'gid' and 'nid' have {IDENTITY_DIGITS} digits at most")
    if target.roles:
        if nid:
            raise CommandError("give either 'nid' or 'roles', not both")
        if any(not role for role in target.roles):
            raise CommandError("'roles' holds an empty role")
        return target
    if target.fanout:
        raise CommandError("'fanout' needs 'roles' (['*'] is every agent)")
    if not gid or not nid:
        raise CommandError("say whom the command is for: 'gid' and 'nid', or 'roles' (['*'] is any agent)")
    return Target(AgentKey(gid, nid), (), False)
