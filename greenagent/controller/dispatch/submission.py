"""Taking a posted command: what is checked, and whom it goes to.

See protocol 12.3 and design, section 5 "Roles and the embedded controller".
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from types import NoneType
from typing import Any, Final, NamedTuple

from greenagent.controller.dispatch.dispatcher import Dispatcher
from greenagent.controller.dispatch.own_results import end_at_once
from greenagent.controller.limits import Limits
from greenagent.controller.model import (
    IDENTITY_DIGITS,
    MAX_ROLE,
    MAX_ROLES,
    AgentKey,
    Assignment,
    Brief,
    Job,
    Target,
)
from greenagent.controller.state.scripts import Script, parse_script
from greenagent.controller.stores import Jobs, Scripts
from greenagent.runtime.clock import monotonic_epoch
from greenagent.values import levels, states
from greenagent.values.command import parse_command, unknown_keys
from greenagent.values.errors import CommandError, GreenagentError

CONTROLLER: Final = "controller"
"""A command of this name is answered by the controller itself (protocol 12.5)."""
MAX_WAIT: Final = 10 * 365 * 86_400
"""Seconds a command may wait for its agent."""


class KnownIdError(GreenagentError):
    """A job of that id is known."""


class TooManyJobsError(GreenagentError):
    """More jobs are waiting or running than the controller remembers."""


class Posted(NamedTuple):
    """A command object that was checked, and the script that is to be kept for it."""

    id: str
    text: str
    brief: Brief
    target: Target
    patience: float
    script: Script | None = None
    wanted_script: str = ""
    """The hash of one that has to be here."""
    warnings: tuple[str, ...] = ()
    """What is odd about it but harmless, one sentence each."""


def parse_posted(posted: Any, schedule: str = "") -> Posted:
    """Checks a command object. Raises CommandError.

    ``schedule``: the id of the one that posts it, which nobody else can say. Looks at nothing else, so it may be called
    in another process.
    """
    if not isinstance(posted, dict):
        raise CommandError("a command is a JSON object")
    command = dict(posted)
    patience = _checked_seconds(command.pop("wait_for_agent", None), "wait_for_agent")
    if command.get("expires") is not None and not _checked_seconds(command["expires"], "expires"):
        raise CommandError("'expires' must be more than 0 seconds")
    command.pop("schedule", None)
    if schedule:
        command["schedule"] = schedule
    if command.get("id") is None:
        command["id"] = str(uuid.uuid4())
    parsed = parse_command(command)
    if not parsed.cmd:
        raise CommandError("'cmd' is missing: the name of the command to run")
    command = {**parsed.received, "id": parsed.id, "cmd": parsed.cmd}
    warnings = (*parsed.warnings, *unknown_keys(command))
    target = _checked_target(command)
    script, wanted = None, ""
    if parsed.cmd == "jumpscript_content":
        command["data"], script, wanted = parse_script(parsed.data)
    return Posted(parsed.id, json.dumps(command), Brief.of(command), target, patience, script, wanted, warnings)


class Submission:
    """Turns command objects into jobs."""

    def __init__(self, jobs: Jobs, dispatcher: Dispatcher, scripts: Scripts, limits: Limits) -> None:
        self._jobs = jobs
        self._dispatcher = dispatcher
        self._scripts = scripts
        self._limits = limits
        self.operations: dict[str, Callable[[str], Any]] = {"list_agents": lambda data: self._list_agents()}
        """Internal commands by name: each takes the command's data and gives the value that answers it."""

    def submit(self, posted: Posted, *, force: bool = False, again: bool = False, settled: bool = False) -> Job:
        """Takes a command and starts its dispatch. Posted, an id belongs to its poster, whatever agents said of it.

        ``force``: queue it for its node even if that is not live, and however many jobs wait (as ``kill`` needs
        it, which makes room). ``again``: the id may be that of a job that has ended, which is forgotten then.
        ``settled``: its agent is chosen now, where it is for one of several. Raises CommandError, KnownIdError,
        TooManyJobsError, StateError.
        """
        if posted.script is not None:
            self._scripts.store(posted.script)
        elif posted.wanted_script and self._scripts.get(posted.wanted_script) is None:
            raise CommandError(f"no script with the hash {posted.wanted_script!r} is stored here: post it again")
        with self._jobs.lock(posted.id):
            known = self._jobs.get(posted.id)
            if known is not None and not known.adopted and not (again and known.finished):
                raise KnownIdError(f"a job with the id {posted.id!r} is known already: give the new one another id")
            if not force:
                self._check_room()
            earlier = [] if known is None else known.assignments
            if known is not None:
                self._jobs.forget([known])
            patience = posted.patience or (0.0 if force else self._dispatcher.patience_for(posted.target))
            wait_until = monotonic_epoch() + patience if patience else 0.0
            job = self._jobs.new(posted.id, posted.text, posted.brief, posted.target, wait_until=wait_until)
            if posted.brief.cmd == CONTROLLER:
                self._answer_here(job)
            else:
                job.assignments = self._dispatcher.choose(job, force, settled)
            if not job.assignments:
                whom = job.target if job.target.roles else job.target.key
                end_at_once(job, states.ERROR, self._dispatcher.agents.none_live(whom))
            _remember_repeats(job, earlier)
            self._jobs.add(job)
        for assignment in job.assignments:
            self._dispatcher.enqueue(assignment)
        return job

    def _check_room(self) -> None:
        if self._jobs.unfinished >= self._limits.unfinished_jobs:
            raise TooManyJobsError(
                f"{self._limits.unfinished_jobs} jobs are waiting or running already: try again when some have ended"
            )
        if self._jobs.unfinished_bytes >= self._limits.unfinished_bytes:
            raise TooManyJobsError("the commands of unfinished jobs fill the memory for them: try again later")

    def _answer_here(self, job: Job) -> None:
        """Internal commands (protocol 12.5)."""
        operation = self.operations.get(job.brief.name)
        if operation is None:
            told = f"there is no command 'controller' of the name {job.brief.name[:100]!r}"
            end_at_once(job, states.UNKNOWN_CMD, f"{told} (there is {', '.join(self.operations)})")
            return
        try:
            answer = operation(json.loads(job.command).get("data") or "")
        except CommandError as error:
            end_at_once(job, states.ERROR, str(error))
        else:
            end_at_once(job, states.SUCCESS, json.dumps(answer), levels.RESULT_JSON)

    def _list_agents(self) -> dict[str, list[str] | None]:
        return {str(agent.key): list(agent.roles) or None for agent in self._dispatcher.agents.all()}


def _remember_repeats(job: Job, earlier: Sequence[Assignment]) -> None:
    """Results of an earlier job of the id may be sent once more: an agent did not see that they were taken."""
    for one in job.assignments:
        for other in earlier:
            if one.agent in (None, other.agent):
                one.seen.update(other.seen)


def _checked_seconds(value: Any, name: str) -> float:
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_WAIT:
        raise CommandError(f"{name!r} must be a number of seconds")
    return float(value)


def _checked_target(command: dict[str, Any]) -> Target:
    """Protocol 2.1: gid and nid, gid and role, or role alone."""
    target = Target.of(command)
    if not command.get("roles") and not isinstance(command.get("role"), (str, NoneType)):
        raise CommandError("'role' must be text")
    gid, nid = target.key
    if gid < 0 or nid < 0:
        raise CommandError("'gid' and 'nid' must not be negative")
    if max(gid, nid) >= 10**IDENTITY_DIGITS:
        raise CommandError(f"'gid' and 'nid' have {IDENTITY_DIGITS} digits at most")
    if command["cmd"] == CONTROLLER:
        return target  # whatever it is: it names nobody
    if target.roles:
        if nid:
            raise CommandError("give either 'nid' or 'roles', not both")
        if any(not role for role in target.roles):
            raise CommandError("'roles' holds an empty role")
        if len(target.roles) > MAX_ROLES or any(len(role) > MAX_ROLE for role in target.roles):
            raise CommandError(f"a command has {MAX_ROLES} roles at most, each of {MAX_ROLE} characters")
        return target
    if target.fanout:
        raise CommandError("'fanout' needs 'roles' (['*'] is every agent)")
    if not gid or not nid:
        raise CommandError("say whom the command is for: 'gid' and 'nid', or 'roles' (['*'] is any agent)")
    return Target(AgentKey(gid, nid), (), False)
