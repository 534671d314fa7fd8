"""The parts of the agent that every job uses, made once by the agent and handed to whoever runs a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from greenagent.jobs.commands import Commands
from greenagent.jobs.job import Identity, Job, Outcome
from greenagent.jobs.routing import Routing
from greenagent.process.spawn import Spawner
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.greenlets import Supervisor
from greenagent.settings.models import Settings
from greenagent.spool.history import HistoryFile
from greenagent.spool.spool import Spool
from greenagent.statistics.collector import Statistics
from greenagent.statistics.meter import Meter


@dataclass(frozen=True, slots=True)
class JobContext:
    """``settings`` gives those in force."""

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

    def report(self, job: Job, outcome: Outcome, *, ends: bool = True) -> None:
        """Puts a result into the spool, where its controller finds it; with ``ends`` the job is over.

        The spool first, then the history (design, section 3). A job is reported over once.
        """
        if job.is_reported:
            return
        job.last_result = job.result_of(outcome, self.identity, round(self.settings().stats.interval))
        # Before the spool has it: its controller may send the next command of that id before we go on.
        job.is_reported = ends
        try:
            if job.controller is not None:
                self.spool.report(job.row, job.controller, job.last_result, ends=ends)
            elif ends:
                self.spool.end(job.row)
        except Exception:
            job.is_reported = False  # another result may still be given, such as that of our own error
            raise
        if ends and job.is_in_history:
            self.history.remove(job.id)
