"""The metrics this room itself contributes to the agent's own."""

from __future__ import annotations

from greenagent.statistics.meter import Meter
from greenagent.statistics.own import AgentMetrics, EventLoopLag


def add_own_gauges(metrics: AgentMetrics, meter: Meter, stall: EventLoopLag) -> None:
    """The agent's process, and the longest time its hub was deaf."""
    metrics.gauge("agent_cpu_percent", lambda: meter.own_usage().cpu)
    metrics.gauge("agent_resident_bytes", lambda: meter.own_usage().rss)
    metrics.gauge("agent_threads", lambda: meter.own_usage().threads)
    metrics.gauge("agent_descriptors", lambda: meter.own_usage().fds)
    metrics.gauge("hub_stall_seconds", lambda: stall.recent)
    metrics.gauge("hub_stall_worst_seconds", lambda: stall.worst_ever)
