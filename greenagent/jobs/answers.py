"""Answers to commands that become no job, and remarks about commands (design, section 5)."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

from greenagent.jobs.job import Identity, Job
from greenagent.jobs.life import result_of
from greenagent.jobs.run_state import Outcome
from greenagent.runtime.agent_log import AgentLog, RateLimitedLog
from greenagent.settings.models import Settings
from greenagent.spool.records import FROM_CONTROLLER
from greenagent.spool.spool import Spool
from greenagent.values import levels, states
from greenagent.values.command import Command
from greenagent.values.errors import CommandError
from greenagent.values.result import Result


class Answers:
    """Writes them to the ledger, which delivers them like any result."""

    def __init__(self, settings: Callable[[], Settings], identity: Identity, spool: Spool, agent_log: AgentLog) -> None:
        self._settings = settings
        self._identity = identity
        self._spool = spool
        self._remarks: defaultdict[str, RateLimitedLog] = defaultdict(agent_log.rate_limited)

    def remark(self, kind: str, level: int, text: str) -> None:
        """Says what a controller made us say, each kind so many times in a while."""
        self._remarks[kind].log(level, text)

    def refuse(self, error: CommandError, controller: str) -> None:
        """For ``Admission.refuse``."""
        said = f"controller {controller}: a command is refused: {error.reason}"
        self.remark("refused", levels.OPERATIONS_ERROR, said)
        if error.command_id is None:
            return
        result = Result(
            id=error.command_id,
            gid=self._identity.gid,
            nid=self._identity.nid,
            cmd=error.name,
            data=error.reason,
            state=states.ERROR,
            starttime=int(time.time() * 1000),
        )
        self._spool.report(0, controller, result, ends=False)

    def give(self, command: Command, controller: str, state: str, data: str) -> None:
        """Answers a command that becomes no job, and says so."""
        self.remark(state, levels.WARNING, f"job {command.id}: {data}")
        job = Job(command, controller, FROM_CONTROLLER, 0, time.time())
        outcome = Outcome(state, data=data, starttime=int(time.time() * 1000))
        self._spool.report(0, controller, self.result_of(job, outcome), ends=False)

    def result_of(self, job: Job, outcome: Outcome) -> Result:
        """The result of a job that did not run here."""
        return result_of(job, outcome, self._identity, round(self._settings().stats.interval))
