"""The parts of the agent that jobs use, and how a job tells what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from greenagent.jobs.commands import Commands
from greenagent.jobs.job import Identity, Job, Logged, Outcome
from greenagent.jobs.routing import Routing
from greenagent.jobs.run_records import RunRecords
from greenagent.process.spawn import Spawner
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.greenlets import Supervisor
from greenagent.settings.models import Settings
from greenagent.spool.history import HistoryFile
from greenagent.spool.spool import Spool
from greenagent.statistics.collector import Statistics
from greenagent.statistics.meter import Meter
from greenagent.values.result import NEVER_BEGAN


@dataclass(frozen=True, slots=True)
class JobContext:
    """The parts of the agent that every job uses, made once by the agent; ``settings`` gives those in force."""

    settings: Callable[[], Settings]
    identity: Identity
    agent_log: AgentLog
    supervisor: Supervisor
    spool: Spool
    history: HistoryFile
    spawner: Spawner
    routing: Routing
    statistics: Statistics
    meter: Meter
    commands: Commands
    runs: RunRecords

    def report(
        self,
        job: Job,
        outcome: Outcome,
        *,
        ends: bool = True,
        due: float | None = None,
        logged: Logged | None = None,
    ) -> None:
        """Puts a result into the spool, where its controller finds it; with ``ends`` the job is over.

        ``due``: when the next run begins, in seconds since 1970, where that is to be known at the next start.
        ``logged``: what became of its lines, None where it has no log.

        The spool first, then the history (design, section 3). A job is reported over once.
        """
        if job.is_reported:
            return
        job.last_result = job.result_of(outcome, self.identity, round(self.settings().stats.interval), logged)
        # Before the spool has it: its controller may send the next command of that id before we go on.
        job.is_reported = ends
        try:
            if job.controller is not None:
                self.spool.report(job.row, job.controller, job.last_result, ends=ends, due=due)
            elif ends:
                self.spool.end(job.row)
            elif due is not None:
                self.spool.between_runs(job.row, due)
        except Exception:
            job.is_reported = False  # another result may still be given, such as that of our own error
            raise
        if ends and job.last_result.reason == NEVER_BEGAN:
            self.runs.never_began(job, outcome)
        if ends and job.is_in_history:
            self.history.remove(job.id)
