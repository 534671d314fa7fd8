"""Flushed statistics on their way into the outbox, where they wait for every controller (protocol 8.4)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from typing import Final, Protocol

from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.greenlets import TimeSlice
from greenagent.statistics.collector import FlushedObject
from greenagent.statistics.own import AgentMetrics

LOG_EVERY: Final = 60.0
"""Seconds between lines about dropped objects."""


class Spool(Protocol):
    """The spool as it takes statistics."""

    def put_statistics(self, controllers: Sequence[str], bodies: Sequence[str], max_bytes: int) -> int:
        """Puts bodies into the outbox of each controller; returns how many old ones were dropped for ``max_bytes``."""
        ...

    def keep_statistics_of(self, controllers: Sequence[str]) -> int:
        """Drops what waits only for other controllers; returns how many objects."""
        ...


class StatisticsOutbox:
    """Gives each flushed object to all controllers; the oldest are dropped first where too many wait."""

    def __init__(
        self,
        spool: Spool,
        controllers: Sequence[str],
        max_bytes: int,
        agent_log: AgentLog,
        metrics: AgentMetrics | None = None,
    ) -> None:
        """``controllers`` are configuration keys; ``max_bytes`` is ``stats.max_backlog``, 0 for no cap."""
        self._spool = spool
        self._max_bytes = max_bytes
        self._agent_log = agent_log
        self._metrics = metrics
        self._controllers: tuple[str, ...] = ()
        self._logged = -LOG_EVERY
        self._unlogged = 0
        self.dropped = 0
        """Objects dropped since the agent's start."""
        self.set_controllers(controllers)

    def set_controllers(self, controllers: Sequence[str]) -> None:
        """The controllers from now on; what waits only for others is dropped and logged."""
        self._controllers = tuple(controllers)
        dropped = self._spool.keep_statistics_of(self._controllers)
        if dropped:
            self._count(dropped)
            self._agent_log.warning(f"{dropped} statistics objects of controllers no longer configured were dropped")

    def add(self, objects: list[FlushedObject]) -> None:
        """Stores objects for every controller."""
        bodies = []
        pause = TimeSlice()
        for item in objects:
            bodies.append(encode(item))
            pause()
        dropped = self._spool.put_statistics(self._controllers, bodies, self._max_bytes)
        if dropped:
            self._count(dropped)
            self._unlogged += dropped
        if self._unlogged and time.monotonic() - self._logged >= LOG_EVERY:
            self._logged = time.monotonic()
            self._agent_log.warning(
                f"{self._unlogged} statistics objects were dropped, oldest first: what waits for the controllers "
                f"reached stats.max_backlog ({self._max_bytes} bytes)"
            )
            self._unlogged = 0

    def _count(self, dropped: int) -> None:
        self.dropped += dropped
        if self._metrics is not None:
            self._metrics.count("statistics_dropped", dropped)


def encode(item: FlushedObject) -> str:
    """A list of one object of POST ``stats``. A number that JSON does not know cannot be sent and becomes null."""
    series = [[item.prefix + key, value if math.isfinite(value) else None] for key, value in item.points.items()]
    return json.dumps([{"timestamp": item.stamp, "series": series}], separators=(",", ":"))
