"""The metrics this room itself contributes to the agent's own."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from greenagent.statistics.backlog import Backlog
from greenagent.statistics.meter import Meter
from greenagent.statistics.own import AgentMetrics, EventLoopLag


def add_own_gauges(metrics: AgentMetrics, meter: Meter, stall: EventLoopLag, backlog: Backlog) -> None:
    """The agent's process, the longest time its hub was deaf, and the bytes of statistics that wait."""
    metrics.gauge("agent_cpu_percent", lambda: meter.own_usage().cpu)
    metrics.gauge("agent_resident_bytes", lambda: meter.own_usage().rss)
    metrics.gauge("agent_threads", lambda: meter.own_usage().threads)
    metrics.gauge("agent_descriptors", lambda: meter.own_usage().fds)
    metrics.gauge("hub_stall_seconds", lambda: stall.recent)
    metrics.gauge("hub_stall_worst_seconds", lambda: stall.worst_ever)
    metrics.gauge("statistics_backlog_bytes", lambda: backlog.bytes)


def add_controller_gauges(metrics: AgentMetrics, backlog: Backlog, controllers: Iterable[str]) -> None:
    """How many statistics objects each controller waits for."""
    for controller in controllers:
        metrics.gauge("statistics_waiting", partial(backlog.waiting, controller), controller=controller)
