"""Flushed statistics on disk until every controller that wants them has them (protocol 8.4, design section 5)."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any, Final

from gevent.event import Event
from gevent.lock import BoundedSemaphore

from greenagent.runtime.database import NativeDatabase
from greenagent.runtime.voice import Voice
from greenagent.statistics import metrics
from greenagent.statistics.collector import FlushedObject
from greenagent.statistics.own import Figures
from greenagent.statistics.series import FlushedPoint

SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS stats_backlog ("
    "row INTEGER PRIMARY KEY AUTOINCREMENT, stamp INTEGER NOT NULL, prefix TEXT NOT NULL, "
    "points TEXT NOT NULL, size INTEGER NOT NULL)",
    "CREATE INDEX IF NOT EXISTS stats_backlog_stamp ON stats_backlog (prefix, stamp)",
    "CREATE TABLE IF NOT EXISTS stats_waiting ("
    "controller TEXT NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (controller, row)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS stats_waiting_row ON stats_waiting (row)",
)
"""Statements for the shared database, each harmless when repeated."""

BATCH: Final = 1000
"""Objects in one POST (protocol 8.4)."""

_ROW_OVERHEAD = 120
_SAY_EVERY = 60.0
_MOST_BYTES = 4 * 1024 * 1024

Row = tuple[int, dict[str, Any]]
Measured = tuple[int, dict[str, int]]


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
    """The queue of statistics for every controller, capped on disk: the oldest are dropped first.

    Objects of equal key and stamp are merged while nobody was given them yet. Functions that get a
    connection run in the database's native thread, and the sets they use belong to that thread.
    """

    def __init__(
        self,
        database: NativeDatabase,
        controllers: Sequence[str],
        max_bytes: int,
        voice: Voice,
        figures: Figures | None = None,
    ) -> None:
        """``controllers`` are configuration keys; the database must be started with ``SCHEMA``."""
        self._database = database
        self._controllers = tuple(controllers)
        self._max_bytes = max_bytes
        self._voice = voice
        self._topic = voice.topic()
        self._figures = figures
        self._demands = {controller: _Demand() for controller in controllers}
        self._held: deque[tuple[FlushedObject, int]] = deque()
        self._held_bytes = 0
        self._stored: dict[str, int] = {}
        self._removed: defaultdict[str, set[int]] = defaultdict(set)
        """Rows that controllers have, where the file does not say so yet."""
        self._adding = BoundedSemaphore(1)
        self._given: set[int] = set()
        self._bytes = 0
        self._said = -_SAY_EVERY
        self._unsaid = 0
        self.dropped = 0
        """Objects dropped for lack of room since the agent's start."""

    def start(self) -> int:
        """Finds what an earlier run left; returns how many objects wait.

        What waited only for controllers that are no longer configured is dropped and said.
        """
        waiting, orphans = self._database.run(self._adopt)
        self._refresh(self._database.run(self._measure))
        if orphans:
            self._count_dropped(orphans)
            self._voice.warning(f"{orphans} statistics objects of controllers no longer configured were dropped")
        return waiting

    @property
    def bytes(self) -> int:
        """What waits, on disk and in memory."""
        return self._bytes + self._held_bytes

    def set_controllers(self, controllers: Sequence[str]) -> None:
        """Other controllers from now on (live reload); what only removed ones wanted is dropped."""
        self._controllers = tuple(controllers)
        self._demands = {controller: self._demands.get(controller) or _Demand() for controller in controllers}
        try:
            self.start()
        except sqlite3.Error:
            pass  # what only removed ones wanted is found again at the next start

    def add(self, objects: list[FlushedObject]) -> None:
        """Stores objects for every controller. If the disk refuses, they are held in memory up to the same cap."""
        if not self._controllers:
            return
        for item in objects:
            size = _ROW_OVERHEAD + len(item.prefix) + sum(60 + len(point.key) for point in item.points)
            self._held.append((item, size))
            self._held_bytes += size
        with self._adding:  # what is held must not be written twice
            self._write_held()

    def _write_held(self) -> None:
        batch = [item for item, _ in self._held]
        if not batch:
            return
        try:
            dropped, measured = self._database.run(lambda connection: self._store(connection, batch))
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
        rows: list[Row] = self._database.run(lambda connection: self._give(connection, controller, most, sent))
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
            measured = self._database.run(
                lambda connection: [self._delete(connection, controller, rows) for controller, rows in removed][-1]
            )
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

    # Called in the database's thread.

    def _adopt(self, connection: sqlite3.Connection) -> tuple[int, int]:
        marks = ",".join("?" * len(self._controllers))
        connection.execute(f"DELETE FROM stats_waiting WHERE controller NOT IN ({marks})", self._controllers)
        orphans = connection.execute(
            "DELETE FROM stats_backlog WHERE row NOT IN (SELECT row FROM stats_waiting)"
        ).rowcount
        waiting = connection.execute("SELECT count(*) FROM stats_backlog").fetchone()[0]
        return waiting, orphans

    def _measure(self, connection: sqlite3.Connection) -> Measured:
        size = connection.execute("SELECT coalesce(sum(size), 0) FROM stats_backlog").fetchone()[0]
        counts = connection.execute("SELECT controller, count(*) FROM stats_waiting GROUP BY controller").fetchall()
        return size, dict(counts)

    def _store(self, connection: sqlite3.Connection, objects: list[FlushedObject]) -> tuple[int, Measured]:
        for item in objects:
            self._store_one(connection, item)
        dropped = self._drop_oldest(connection)
        return dropped, self._measure(connection)

    def _store_one(self, connection: sqlite3.Connection, item: FlushedObject) -> None:
        points = item.points
        for row, text in connection.execute(
            "SELECT row, points FROM stats_backlog WHERE prefix = ? AND stamp = ? ORDER BY row DESC",
            (item.prefix, item.stamp),
        ).fetchall():
            if row in self._given or not self._is_wanted_by_all(connection, row):
                continue
            points = merge([FlushedPoint(*point) for point in json.loads(text)], points)
            merged = json.dumps(points, separators=(",", ":"))
            connection.execute(
                "UPDATE stats_backlog SET points = ?, size = ? WHERE row = ?",
                (merged, _size(item.prefix, merged), row),
            )
            return
        text = json.dumps(points, separators=(",", ":"))
        row = connection.execute(
            "INSERT INTO stats_backlog (stamp, prefix, points, size) VALUES (?, ?, ?, ?)",
            (item.stamp, item.prefix, text, _size(item.prefix, text)),
        ).lastrowid
        connection.executemany(
            "INSERT INTO stats_waiting (controller, row) VALUES (?, ?)",
            [(controller, row) for controller in self._controllers],
        )

    def _is_wanted_by_all(self, connection: sqlite3.Connection, row: int) -> bool:
        found = {name for (name,) in connection.execute("SELECT controller FROM stats_waiting WHERE row = ?", (row,))}
        return found.issuperset(self._controllers)

    def _drop_oldest(self, connection: sqlite3.Connection) -> int:
        total = connection.execute("SELECT coalesce(sum(size), 0) FROM stats_backlog").fetchone()[0]
        doomed: list[tuple[int]] = []
        if total > self._max_bytes:
            for row, size in connection.execute("SELECT row, size FROM stats_backlog ORDER BY row"):
                doomed.append((row,))
                total -= size
                if total <= self._max_bytes:
                    break
            connection.executemany("DELETE FROM stats_waiting WHERE row = ?", doomed)
            connection.executemany("DELETE FROM stats_backlog WHERE row = ?", doomed)
            self._given.difference_update(row for (row,) in doomed)
        return len(doomed)

    def _give(
        self, connection: sqlite3.Connection, controller: str, limit: int, sent: frozenset[int] = frozenset()
    ) -> list[Row]:
        found: list[Row] = []
        size = 0
        for row, stamp, prefix, text in connection.execute(
            "SELECT row, stamp, prefix, points FROM stats_waiting JOIN stats_backlog USING (row) "
            "WHERE controller = ? ORDER BY row LIMIT ?",
            (controller, limit),
        ):
            if row in sent:
                continue
            size += len(text)
            if found and size > _MOST_BYTES:
                break
            series = [[prefix + key, value] for key, value, _ in json.loads(text)]
            found.append((row, {"timestamp": stamp, "series": series}))
        # Given is as good as sent: an answer may be lost, and then a merged object would count twice.
        self._given.update(row for row, _ in found)
        return found

    def _delete(self, connection: sqlite3.Connection, controller: str, rows: list[int]) -> Measured:
        numbers = [(row,) for row in rows]
        connection.executemany(
            "DELETE FROM stats_waiting WHERE controller = ? AND row = ?", [(controller, row) for row in rows]
        )
        connection.executemany(
            "DELETE FROM stats_backlog WHERE row = ?1 AND NOT EXISTS (SELECT 1 FROM stats_waiting WHERE row = ?1)",
            numbers,
        )
        for number in numbers:
            if connection.execute("SELECT 1 FROM stats_backlog WHERE row = ?", number).fetchone() is None:
                self._given.discard(number[0])
        return self._measure(connection)

    # Called on the hub.

    def _refresh(self, measured: Measured) -> None:
        self._bytes, self._stored = measured
        self._ask()

    def _ask(self) -> None:
        """Tells the senders how many there are for each."""
        for controller, demand in self._demands.items():
            demand.set(max(0, self._stored.get(controller, 0) - len(self._removed[controller])))

    def _shrink_held(self) -> None:
        dropped = 0
        while self._held and self._held_bytes > self._max_bytes:
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
            self._voice.warning(
                f"{self._unsaid} statistics objects were dropped, oldest first: what waits for the controllers "
                f"reached stats.max_backlog ({self._max_bytes} bytes)"
            )
            self._unsaid = 0

    def _count_dropped(self, dropped: int) -> None:
        self.dropped += dropped
        if self._figures is not None:
            self._figures.count("statistics_dropped", dropped)


def merge(old: list[FlushedPoint], new: list[FlushedPoint]) -> list[FlushedPoint]:
    """Two lists of points of equal key and stamp as one: ``new`` came later.

    Sums add up and means are weighed by their counts. The size of a united set is at least the
    larger one's, which is what is sent; median and p95 are those that came last.
    """
    earlier = {point.key: point for point in old}
    later = {point.key: point for point in new}
    united = dict(earlier)
    for key, point in later.items():
        before = earlier.get(key)
        if before is None or before.merge != point.merge:
            united[key] = point
        else:
            united[key] = point._replace(value=_unite(before, point, earlier, later))
    return list(united.values())


def _unite(
    before: FlushedPoint, point: FlushedPoint, earlier: dict[str, FlushedPoint], later: dict[str, FlushedPoint]
) -> float:
    if point.merge == metrics.SUM:
        total = before.value + point.value
        return total if math.isfinite(total) else point.value
    if point.merge == metrics.LEAST:
        return min(before.value, point.value)
    if point.merge == metrics.GREATEST:
        return max(before.value, point.value)
    if point.merge == metrics.MEAN:
        first = earlier.get(point.key + ".count")
        second = later.get(point.key + ".count")
        if first is not None and second is not None and first.value + second.value > 0:
            share = first.value / (first.value + second.value)
            return before.value * share + point.value * (1 - share)
    return point.value


def _size(prefix: str, text: str) -> int:
    return len(prefix) + len(text) + _ROW_OVERHEAD
