"""Posts statistics objects to one controller (protocol 8.4)."""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Protocol

from greenagent.uplink.backoff import Backoff
from greenagent.uplink.delivery import PROBE_PAUSE, ListDelivery, SetAside, Trouble
from greenagent.uplink.figures import UplinkFigures
from greenagent.uplink.health import ControllerHealth
from greenagent.uplink.http import HttpClient
from greenagent.uplink.sender import Sender

BATCH_SIZE = 1000
FLUSH_EVERY = 120.0
"""Seconds an object waits at most before its first post (protocol 8.4)."""
BATCH_PAUSE = 0.02


class StatisticsBacklog(Protocol):
    """The statistics that were not accepted yet, as an uploader sees them."""

    def peek(self, controller: str, limit: int) -> list[tuple[int, Any]]:
        """The oldest objects ``{"timestamp", "series"}`` with their rows; may return fewer to bound memory."""
        ...

    def remove(self, controller: str, rows: list[int]) -> None:
        """The controller has accepted these."""
        ...

    def wait(self, controller: str, count: int, timeout: float) -> None:
        """Returns once ``count`` objects wait or the oldest has waited ``timeout`` seconds."""
        ...


class StatisticsUploader(Sender):
    """Sends the backlog of one controller, oldest first."""

    def __init__(
        self,
        key: str,
        client: HttpClient,
        backlog: StatisticsBacklog,
        health: ControllerHealth,
        set_aside: SetAside,
        figures: UplinkFigures | None = None,
        *,
        backoff: Backoff | None = None,
        batch_size: int = BATCH_SIZE,
        flush_every: float = FLUSH_EVERY,
        batch_pause: float = BATCH_PAUSE,
        probe_pause: float = PROBE_PAUSE,
    ) -> None:
        """``batch_size`` in objects; ``flush_every`` and the pauses in seconds."""
        super().__init__("statistics", client, health, backoff)
        self.key = key
        self.figures = figures or UplinkFigures()
        self._backlog = backlog
        self._batch_size = batch_size
        self._flush_every = flush_every
        self._batch_pause = batch_pause
        self._delivery = ListDelivery(client, "stats", health, set_aside, self._pause, probe_pause)

    def _wait_for_work(self) -> None:
        self._backlog.wait(self.key, self._batch_size, self._flush_every)

    def _send_some(self) -> bool:
        try:
            waiting = self._backlog.peek(self.key, self._batch_size)
        except sqlite3.Error as error:
            # Whatever the database is like: the agent lives, and everything stays where it is.
            self.figures.statistics_errors += 1
            raise Trouble(f"nothing can be sent: {error}") from error
        if not waiting:
            return False
        rows = [row for row, _ in waiting]
        removed = 0

        def done(count: int) -> None:
            nonlocal removed
            self._backlog.remove(self.key, rows[removed:count])
            removed = count

        try:
            complete = self._delivery.deliver([_encode(statistics) for _, statistics in waiting], done)
        except Trouble:
            self.figures.statistics_errors += 1
            raise
        finally:
            counts = self._delivery.take_counts()
            self.figures.statistics_sent += counts.records
            self.figures.set_aside += counts.set_aside
        self._success()
        self._pause(self._batch_pause)
        return self._stopping.is_set() or not complete or len(waiting) >= self._batch_size


def _encode(statistics: Any) -> bytes:
    """JSON as every controller can read it: what is no finite number cannot be sent and becomes null."""
    try:
        return json.dumps(statistics, separators=(",", ":"), allow_nan=False).encode()
    except ValueError:
        return json.dumps(json.loads(json.dumps(statistics), parse_constant=lambda name: None)).encode()
