"""The figures this room itself contributes to the agent's own."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from greenagent.statistics.backlog import Backlog
from greenagent.statistics.meter import Meter
from greenagent.statistics.own import EventLoopLag, Figures


def add_own_gauges(figures: Figures, meter: Meter, stall: EventLoopLag, backlog: Backlog) -> None:
    """The agent's process, the longest time its hub was deaf, and the bytes of statistics that wait."""
    figures.gauge("agent_cpu_percent", lambda: meter.own_usage().cpu)
    figures.gauge("agent_resident_bytes", lambda: meter.own_usage().rss)
    figures.gauge("agent_threads", lambda: meter.own_usage().threads)
    figures.gauge("agent_descriptors", lambda: meter.own_usage().fds)
    figures.gauge("hub_stall_seconds", lambda: stall.recent)
    figures.gauge("hub_stall_worst_seconds", lambda: stall.worst_ever)
    figures.gauge("statistics_backlog_bytes", lambda: backlog.bytes)


def add_controller_gauges(figures: Figures, backlog: Backlog, controllers: Iterable[str]) -> None:
    """How many statistics objects each controller waits for."""
    for controller in controllers:
        figures.gauge("statistics_waiting", partial(backlog.waiting, controller), controller=controller)
