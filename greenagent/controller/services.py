"""The parts of a controller, put together in one place."""

from __future__ import annotations

import gevent

from greenagent.controller.backend import Backend
from greenagent.controller.dispatch.dispatcher import Dispatcher
from greenagent.controller.dispatch.results import ResultService
from greenagent.controller.dispatch.submission import Submission
from greenagent.controller.limits import Limits
from greenagent.controller.schedules.operations import schedule_operations
from greenagent.controller.schedules.scheduler import Scheduler
from greenagent.controller.state.state_file import StateError
from greenagent.runtime.agent_log import AgentLog
from greenagent.values import levels


class Services:
    """Everything the endpoints need."""

    def __init__(self, log: AgentLog, limits: Limits, backend: Backend) -> None:
        """Takes up what was under way. Raises StateError when that cannot be read."""
        self.log = log
        self.limits = limits
        self.backend = backend
        self.agents = backend.agents
        self.jobs = backend.jobs
        self.scripts = backend.scripts
        self.lines = backend.lines
        self.open_texts = backend.open_texts
        self.metrics = backend.metrics
        self.dispatcher = Dispatcher(self.jobs, self.agents, backend.queues, limits)
        self.submission = Submission(self.jobs, self.dispatcher, self.scripts, limits)
        self.results = ResultService(self.jobs, self.dispatcher, self.submission, self.agents, limits)
        submit = self.submission.submit
        self.schedules = Scheduler(backend.schedules, self.jobs, submit, log, limits, makes_runs=backend.sweeps)
        self.submission.operations.update(schedule_operations(self.schedules, limits))
        backend.restore(self.dispatcher.restore)

    def sweep_for_ever(self) -> None:
        """Once a second: ends what has waited too long and drops what is too old."""
        trouble = self.log.on_change()
        shared = self.log.rate_limited()
        dropped = self.log.rate_limited()
        while True:
            gevent.sleep(1)
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
                if self.backend.sweeps():
                    self.results.sweep()
                    self.backend.tidy()
            except StateError as error:
                trouble.warning(str(error))
            else:
                trouble.resolved("the state can be written again")
