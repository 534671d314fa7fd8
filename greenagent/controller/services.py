"""The parts of a controller, put together in one place."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import gevent

from greenagent.controller.dispatch.agents import AgentTable
from greenagent.controller.dispatch.dispatcher import Dispatcher
from greenagent.controller.dispatch.queue import LocalQueues
from greenagent.controller.dispatch.results import ResultService
from greenagent.controller.dispatch.submission import Submission
from greenagent.controller.limits import Limits
from greenagent.controller.schedules.operations import schedule_operations
from greenagent.controller.schedules.scheduler import Scheduler
from greenagent.controller.schedules.store import LocalSchedules
from greenagent.controller.state.job_store import JobStore
from greenagent.controller.state.log_lines import LineStore
from greenagent.controller.state.metrics import LatestMetrics
from greenagent.controller.state.open_texts import OpenTextStore
from greenagent.controller.state.scripts import ScriptStore
from greenagent.controller.state.state_file import StateError, StateFile
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.state_files import StateFiles
from greenagent.values import levels


class Services:
    """Everything the endpoints need."""

    def __init__(self, log: AgentLog, limits: Limits, state: Path | None = None) -> None:
        """Reads the state file. Raises StateError when it cannot be used."""
        self.log = log
        self.limits = limits
        self.file = StateFile(state)
        self.state_files = StateFiles(log)
        self.file.watch_lock(self.state_files)
        if self.file.was_empty:
            log.warning(f"the state file {state} was empty: begun anew; if it held jobs before, they are not known now")
        self.agents = AgentTable(limits)
        self.jobs = JobStore(self.file, limits)
        self.scripts = ScriptStore(self.file, limits)
        self.lines = LineStore(limits)
        self.open_texts = OpenTextStore(limits)
        self.metrics = LatestMetrics(limits)
        self.dispatcher = Dispatcher(self.jobs, self.agents, LocalQueues(), limits)
        self.submission = Submission(self.jobs, self.dispatcher, self.scripts, limits)
        self.results = ResultService(self.jobs, self.dispatcher, self.submission, self.agents, limits)
        kept = LocalSchedules(self.file)
        self.schedules = Scheduler(kept, self.jobs, self.submission.submit, log, limits)
        self.submission.operations.update(schedule_operations(self.schedules, limits))
        self._rows = (self.jobs.rows, self.scripts.rows, kept.rows)
        try:
            self.scripts.load()
            kept.load()
            for assignment in self.jobs.load():
                self.dispatcher.restore(assignment)
                self.results.restore(assignment)
        except Exception as error:
            self.file.close()
            raise error if isinstance(error, StateError) else self.file.damaged(error) from error

    def sweep_for_ever(self) -> None:
        """Once a second: ends what has waited too long and drops what is too old."""
        trouble = self.log.on_change()
        watched = self.log.on_change()
        shared = self.log.rate_limited()
        dropped = self.log.rate_limited()
        rounds = 0
        while True:
            gevent.sleep(1)
            rounds += 1
            for agent in self.agents.newly_shared():
                shared.log(
                    levels.WARNING,
                    f"two polls of agent {agent.key} stand open: if two nodes have that gid and nid, give one another"
                    " nid, since a job for it may run on both",
                )
            for key, count in self.metrics.newly_dropped().items():
                text = f"agent {key} sends more statistics than are kept: {count} keys are left out, the oldest ones"
                dropped.log(levels.WARNING, text)
            if without := self.agents.newly_without_roles():
                others = f" and {len(without) - 1} others" if without[1:] else ""
                self.log.warning(
                    f"agents name more roles than {self.limits.roles} bytes hold: those of {without[0]}{others} are"
                    " left out until the next poll"
                )
            try:
                if remark := self.file.look(lambda: chain.from_iterable(rows() for rows in self._rows)):
                    watched.warning(remark)
                self.results.sweep()
                self.scripts.trim()
                if rounds % 60 == 0:
                    self.lines.forget({job.id for job in self.jobs.all()})
                    self.open_texts.forget_old()
            except StateError as error:
                trouble.warning(str(error))
            else:
                trouble.resolved("the state file can be written again")
