"""Flushed statistics on disk until every controller that wants them has them (protocol 8.4, design, section 5)."""

from __future__ import annotations

import sqlite3
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Final

from gevent.event import Event
from gevent.lock import BoundedSemaphore

from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.database import NativeDatabase
from greenagent.statistics.backlog_table import ROW_OVERHEAD, BacklogTable, Measured, Row
from greenagent.statistics.collector import FlushedObject
from greenagent.statistics.own import AgentMetrics

BATCH: Final = 1000
"""Objects in one POST (protocol 8.4)."""
HELD_BYTES: Final = 64 * 1024 * 1024
"""What is held in memory, at the most, where there is no cap."""

_SAY_EVERY = 60.0


class _Demand:
    """What one controller waits for, as the hub knows it."""

    def __init__(self) -> None:
        self.count = 0
        self.since: float | None = None
        self.changed = Event()

    def set(self, count: int) -> None:
        if count and not self.count:
            self.since = time.monotonic()
        elif not count:
            self.since = None
        self.count = count
        self.changed.set()


class Backlog:
    """The queue of statistics for every controller, capped on disk: the oldest are dropped first."""

    def __init__(
        self,
        database: NativeDatabase,
        controllers: Sequence[str],
        max_bytes: int,
        agent_log: AgentLog,
        metrics: AgentMetrics | None = None,
    ) -> None:
        """``controllers`` are configuration keys; ``max_bytes`` 0 is no cap on disk.

        The database must be started with the schema of ``backlog_table``.
        """
        self._database = database
        self._table = BacklogTable(controllers, max_bytes)
        self._max_bytes = max_bytes
        self._agent_log = agent_log
        self._topic = agent_log.on_change()
        self._metrics = metrics
        self._demands = {controller: _Demand() for controller in controllers}
        self._held: deque[tuple[FlushedObject, int]] = deque()
        self._held_bytes = 0
        self._stored: dict[str, int] = {}
        self._removed: defaultdict[str, set[int]] = defaultdict(set)
        """Rows that controllers have, where the file does not say so yet."""
        self._adding = BoundedSemaphore(1)
        self._bytes = 0
        self._said = -_SAY_EVERY
        self._unsaid = 0
        self.dropped = 0
        """Objects dropped for lack of room since the agent's start."""

    def start(self) -> int:
        """Finds what an earlier run left; returns how many objects wait.

        What waited only for controllers that are no longer configured is dropped and said.
        """
        try:
            waiting, orphans = self._database.run(self._table.adopt)
            self._refresh(self._database.run(self._table.measure))
        except sqlite3.Error as error:  # as while running: another program's lock must not keep the agent from starting
            self._hold(error)
            return 0
        if orphans:
            self._count_dropped(orphans)
            self._agent_log.warning(f"{orphans} statistics objects of controllers no longer configured were dropped")
        return waiting

    @property
    def bytes(self) -> int:
        """What waits, on disk and in memory."""
        return self._bytes + self._held_bytes

    def set_controllers(self, controllers: Sequence[str]) -> None:
        """Other controllers from now on (live reload); what only removed ones wanted is dropped."""
        self._table.controllers = tuple(controllers)
        self._demands = {controller: self._demands.get(controller) or _Demand() for controller in controllers}
        self.start()

    def add(self, objects: list[FlushedObject]) -> None:
        """Stores objects for every controller. If the disk refuses, they are held in memory up to the same cap."""
        if not self._table.controllers:
            return
        for item in objects:
            size = ROW_OVERHEAD + len(item.prefix) + sum(60 + len(point.key) for point in item.points)
            self._held.append((item, size))
            self._held_bytes += size
        with self._adding:  # what is held must not be written twice
            self._write_held()

    def _write_held(self) -> None:
        batch = [item for item, _ in self._held]
        if not batch:
            return
        try:
            dropped, measured = self._database.run(lambda connection: self._table.store(connection, batch))
        except (sqlite3.Error, OSError) as error:
            self._hold(error)
            self._shrink_held()
            return
        self._topic.resolved(f"statistics are written to {self._database.path} again")
        for _ in batch:
            self._held_bytes -= self._held.popleft()[1]
        self._refresh(measured)
        self._note_dropped(dropped)
        self._write_removed()

    def _hold(self, error: Exception) -> None:
        self._topic.warning(f"statistics are held in memory: {self._database.path} cannot be written: {error}")

    def peek(self, controller: str, limit: int = BATCH) -> list[Row]:
        """The oldest objects a controller waits for, as (row, object of POST ``stats``); [] if none.

        Large ones may make it fewer than ``limit``. Raises sqlite3.Error if the database cannot be read.
        """
        sent = frozenset(self._removed[controller])
        most = limit + len(sent)
        rows: list[Row] = self._database.run(lambda connection: self._table.give(connection, controller, most, sent))
        return rows[:limit]

    def remove(self, controller: str, rows: Sequence[int]) -> None:
        """A controller has these, or refused them for good: given no more, if need be from memory."""
        self._removed[controller].update(rows)
        self._write_removed()

    def _write_removed(self) -> None:
        removed = [(controller, list(rows)) for controller, rows in self._removed.items() if rows]
        if not removed:
            return
        try:
            measured = self._database.run(lambda connection: self._table.delete(connection, removed))
        except (sqlite3.Error, OSError) as error:
            self._hold(error)
            self._ask()
            return
        for controller, rows in removed:
            self._removed[controller].difference_update(rows)
        self._refresh(measured)

    def wait(self, controller: str, count: int = 1, timeout: float = 0.0) -> None:
        """Returns once ``count`` objects wait for a controller, or the oldest has waited ``timeout`` seconds."""
        demand = self._demands[controller]
        while demand.count < count:
            demand.changed.clear()
            if demand.since is None:
                demand.changed.wait()
                continue
            left = demand.since + timeout - time.monotonic()
            if left <= 0:
                return
            demand.changed.wait(left)

    def waiting(self, controller: str) -> int:
        """How many objects a controller waits for."""
        demand = self._demands.get(controller)
        return 0 if demand is None else demand.count

    def _refresh(self, measured: Measured) -> None:
        self._bytes, self._stored = measured
        self._ask()

    def _ask(self) -> None:
        """Tells the senders how many there are for each."""
        for controller, demand in self._demands.items():
            demand.set(max(0, self._stored.get(controller, 0) - len(self._removed[controller])))

    def _shrink_held(self) -> None:
        dropped = 0
        while self._held and self._held_bytes > (self._max_bytes or HELD_BYTES):
            self._held_bytes -= self._held.popleft()[1]
            dropped += 1
        self._note_dropped(dropped)

    def _note_dropped(self, dropped: int) -> None:
        if not dropped:
            return
        self._count_dropped(dropped)
        self._unsaid += dropped
        if time.monotonic() - self._said >= _SAY_EVERY:
            self._said = time.monotonic()
            limit = (
                f"stats.max_backlog ({self._max_bytes} bytes)" if self._max_bytes else f"{HELD_BYTES} bytes in memory"
            )
            self._agent_log.warning(
                f"{self._unsaid} statistics objects were dropped, oldest first: what waits for the controllers "
                f"reached {limit}"
            )
            self._unsaid = 0

    def _count_dropped(self, dropped: int) -> None:
        self.dropped += dropped
        if self._metrics is not None:
            self._metrics.count("statistics_dropped", dropped)
