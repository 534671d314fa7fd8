"""Watchdogs, metrics and the server that shows them, started and stopped together."""

from __future__ import annotations

from collections.abc import Callable

from greenagent.agent.status import AgentStatus, Parts
from greenagent.agent.status_file import StatusFile, status_file
from greenagent.agent.watchdog import HubWatchdog, ServiceWatchdog, Thresholds
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.greenlets import Supervisor
from greenagent.statistics.collector import Statistics
from greenagent.statistics.own import AgentMetrics, EventLoopLag
from greenagent.statistics.prometheus import MetricsServer
from greenagent.values.errors import GreenagentError


class Monitoring:
    """The hub's ticker, both watchdogs, the agent's metrics, and the server that shows them."""

    def __init__(
        self,
        supervisor: Supervisor,
        agent_log: AgentLog,
        on_fatal: Callable[[str], None],
        metrics: AgentMetrics,
        thresholds: Thresholds | None = None,
    ) -> None:
        self.lag = EventLoopLag()
        self.thresholds = thresholds or Thresholds()
        self.metrics_server: MetricsServer | None = None
        self.status: AgentStatus
        self._supervisor = supervisor
        self._agent_log = agent_log
        self._on_fatal = on_fatal
        self._metrics = metrics
        self._watchdog = HubWatchdog(lambda: self.lag.beats, self.thresholds)

    def start(self, parts: Parts, statistics: Statistics, began: float, *, must_serve: bool) -> None:
        """Before anything runs that would have to be ended again. Raises GreenagentError: nothing can be served.

        Without ``must_serve`` that is only logged: jobs that were handed over are worth more than their figures.
        """
        self.status = AgentStatus(parts, self._metrics, began)
        path = status_file(parts.context.spool.path)
        self._status_file = StatusFile(path, self.status.brief, self.status.pool, self._agent_log)
        wanted = parts.context.settings().metrics
        if wanted.listen:
            self.metrics_server = MetricsServer(
                wanted.listen, statistics, self._metrics, self.status.health, self.status.status, wanted.host_names
            )
            try:
                self.metrics_server.start()
            except GreenagentError as error:
                if must_serve:
                    raise
                self._agent_log.error(f"{error}: nothing is served until the next start or replacement")
                self.metrics_server = None

        def then() -> None:
            self.status.follow()
            parts.store.tick()
            parts.context.history.tick()
            parts.context.spawner.look_again()
            parts.admission.end_lost()

        watch = ServiceWatchdog(
            self._supervisor, self.status.threads, self._agent_log, self._on_fatal, self.thresholds, then=then
        )
        self._supervisor.service("hub ticker", self.lag.run)
        self._supervisor.service("watchdog", watch.run)
        self._supervisor.service("open lines", parts.store.watch_open_text)
        self._watchdog.start()

    def ready(self) -> None:
        """The agent has started everything."""
        self.status.follow()
        self.status.is_ready = True
        self._supervisor.service("status file", self._status_file.run)

    def end_within(self, seconds: float) -> None:
        """The agent gives up, which takes ``seconds`` if all goes well; if it takes much longer it is ended."""
        self._watchdog.end_within(seconds + self.thresholds.stop_limit)

    def stop(self) -> None:
        """Serves no more and watches no more."""
        if self.metrics_server is not None:
            self.metrics_server.stop()
        self._watchdog.stop()
        self._status_file.close()
        self.status.close()
