"""What the processes of jobs use, read for all jobs in one pass over /proc (protocol 8.3, design, section 7)."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable

from gevent.event import Event

from greenagent.runtime.heartbeat import Heartbeat
from greenagent.statistics import proc
from greenagent.statistics.pause import Pause
from greenagent.statistics.usage import ProcessUsage, add_up

_SHORTEST = 0.1
"""Seconds: over less than this a share of a core says nothing, since time is counted in ticks of 10 ms."""

_MAX_TICK = 120.0
"""Seconds after which a reading of all processes counts as stuck."""
_SECOND_LOOK = 0.1
"""Seconds after its start at which a process is looked at again: at first it has hardly any memory yet."""


def _nobody() -> Iterable[int]:
    return ()


def _go_on() -> None:
    pass


class Watch:
    """One run of a job being metered. ``usage`` is the newest reading."""

    def __init__(
        self,
        meter: Meter,
        job_key: str,
        root: int,
        extra_pids: Callable[[], Iterable[int]],
        on_reading: Callable[[ProcessUsage], None] | None,
    ) -> None:
        self.job_key = job_key
        self.root = root
        self.usage = ProcessUsage()
        self.seen: dict[int, int] = {}
        """Pids found at the last reading with their start times in ticks since boot."""
        self.extra_pids = extra_pids
        self._meter = meter
        self._on_reading = on_reading
        self._open = True
        self._birth = 0
        self._ticks = 0
        self._read_at = time.monotonic()

    @property
    def is_open(self) -> bool:
        return self._open

    def close(self) -> ProcessUsage:
        """A last reading, and no more. To be called before the process is reaped; harmless when repeated.

        Of a process that is a zombie only the processor time and the bytes are left to read: the
        other figures stay those of the reading before.
        """
        if self._open:
            self._open = False
            self._meter.forget(self)
            found = [stat for pid in self.seen if (stat := proc.read_stat(pid)) is not None and self._is_same(stat)]
            if found:
                self.take(found, swaps=self.usage.swap > 0)
        return self.usage

    def begin(self) -> None:
        """The first reading, of the process alone: its percentage is 0 (protocol 8.3)."""
        stat = proc.read_stat(self.root)
        if stat is not None:
            self._birth = stat.start
            self._ticks = stat.ticks
            self.seen = {self.root: stat.start}
            self.take([stat._replace(rss=stat.rss or proc.read_exact_rss(self.root))], swaps=False)

    def look_again(self) -> None:
        """What a process has become just after its start; its share of a core is left to the ticks."""
        stat = proc.read_stat(self.root) if self._open else None
        if stat is None or stat.is_zombie or not self._is_same(stat):
            return
        self.usage = self.usage._replace(
            rss=max(stat.rss, self.usage.rss),
            vms=stat.vms,
            threads=stat.threads,
            fds=proc.count_descriptors(self.root),
        )
        if self._on_reading is not None:
            self._on_reading(self.usage)

    def members(self, stats: Callable[[int], proc.ProcessStat | None], children: dict[int, list[int]]) -> list[int]:
        """The pids of this job: the tree, what was announced, and what has left the tree since it was seen in it."""
        pending = [self.root, *self.extra_pids(), *self.seen]
        found: dict[int, None] = {}
        while pending:
            pid = pending.pop()
            if pid in found or pid == self._meter.own_pid:
                continue
            if pid in self.seen:
                stat = stats(pid)
                if stat is None or not self._is_same(stat):
                    continue  # it ended, and another process may have its number
            found[pid] = None
            pending.extend(children.get(pid, ()))
        return list(found)

    def take(self, found: list[proc.ProcessStat], swaps: bool, pause: Callable[[], None] = _go_on) -> None:
        """Makes a reading of the processes found; ``swaps`` says whether asking for swap is worth it."""
        was_open = self._open
        now = time.monotonic()
        elapsed = max(now - self._read_at, _SHORTEST)
        # One that is older than the job brings time it used before it belonged to it.
        brought = sum(stat.ticks for stat in found if stat.pid not in self.seen and stat.start < self._birth)
        ticks = sum(stat.ticks for stat in found)
        cpu = 100 * max(0, ticks - brought - self._ticks) / proc.TICKS / elapsed
        self._ticks = ticks
        self._read_at = now
        alive = [stat for stat in found if not stat.is_zombie]
        self.seen = {stat.pid: stat.start for stat in alive}
        read_bytes = write_bytes = swap = fds = 0
        for stat in found:
            read, written = proc.read_io(stat.pid)
            read_bytes += read
            write_bytes += written
            if not stat.is_zombie:
                fds += proc.count_descriptors(stat.pid)
                swap += proc.read_swap(stat.pid) if swaps else 0
            pause()
        if was_open and not self._open:
            return  # the last reading was taken while this one gave way
        self.usage = self.usage._replace(
            cpu=round(cpu, 2),
            read_bytes=max(read_bytes, self.usage.read_bytes),
            write_bytes=max(write_bytes, self.usage.write_bytes),
        )
        if alive:
            self.usage = self.usage._replace(
                rss=sum(stat.rss for stat in alive),
                vms=sum(stat.vms for stat in alive),
                swap=swap,
                threads=sum(stat.threads for stat in alive),
                fds=fds,
                pids=tuple(stat.pid for stat in alive),
            )
        if self._on_reading is not None:
            self._on_reading(self.usage)

    def _is_same(self, stat: proc.ProcessStat) -> bool:
        return self.seen.get(stat.pid) == stat.start


class Meter:
    """Reads the process trees of all watched jobs every ``interval`` seconds."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        """Seconds; may be changed while it runs."""
        self.heartbeat = Heartbeat()
        self.own_pid = os.getpid()
        self._watches: dict[str, Watch] = {}
        self._young: deque[tuple[float, Watch]] = deque()
        self._born = Event()
        self._own = ProcessUsage()
        self._own_seconds = time.process_time()
        self._own_read_at = time.monotonic()

    def watch(
        self,
        job_key: str,
        root_pid: int,
        extra_pids: Callable[[], Iterable[int]] = _nobody,
        on_reading: Callable[[ProcessUsage], None] | None = None,
    ) -> Watch:
        """Meters a job's process from now on, beginning with a reading at once.

        ``extra_pids`` tells the pids that belong to the job beside its tree (announced, or found by
        tag); ``on_reading`` gets every reading, for instance ``Feed.usage``.
        """
        watch = Watch(self, job_key, root_pid, extra_pids, on_reading)
        self._watches[job_key] = watch
        watch.begin()
        if not self._young:
            self._born.set()
        self._young.append((time.monotonic() + _SECOND_LOOK, watch))
        return watch

    def forget(self, watch: Watch) -> None:
        """A run is over (called by ``Watch.close``)."""
        if self._watches.get(watch.job_key) is watch:
            del self._watches[watch.job_key]

    def usage(self, job_key: str) -> ProcessUsage:
        """The newest reading of a job; zeros when no process of it runs."""
        watch = self._watches.get(job_key)
        return ProcessUsage() if watch is None else watch.usage

    def own_usage(self) -> ProcessUsage:
        """The agent's own process, without its children; ``cpu`` since the last tick."""
        stat = proc.read_stat(self.own_pid)
        if stat is None:
            return self._own
        read, written = proc.read_io(self.own_pid)
        return self._own._replace(
            rss=stat.rss,
            vms=stat.vms,
            swap=proc.read_swap(self.own_pid),
            threads=stat.threads,
            fds=proc.count_descriptors(self.own_pid),
            read_bytes=read,
            write_bytes=written,
            pids=(self.own_pid,),
        )

    def total(self) -> ProcessUsage:
        """All jobs and the agent itself (``get_aggregated_stats``)."""
        return add_up([self.own_usage(), *(watch.usage for watch in self._watches.values())])

    def run(self) -> None:
        """Service greenlet. Never returns."""
        due = time.monotonic() + self.interval
        while True:
            self.heartbeat.expect_within(self.interval + _MAX_TICK, "metering")
            wake = min(due, self._young[0][0]) if self._young else due
            self._born.wait(max(0.01, wake - time.monotonic()))
            self._born.clear()
            self._look_at_young()
            if time.monotonic() < due:
                continue
            due = max(due, time.monotonic() - self.interval) + self.interval
            self.tick()

    def tick(self) -> None:
        """One reading of every job, in slices that do not stall the hub."""
        self._read_own_cpu()
        if not self._watches:
            return
        pause = Pause()
        raw: dict[int, bytes] = {}
        children: dict[int, list[int]] = {}
        for pid in proc.pids():
            data = proc.read_raw_stat(pid)
            if data:
                raw[pid] = data
                children.setdefault(proc.parent_of(data), []).append(pid)
            pause()
        swaps = proc.machine_swaps()

        def stat_of(pid: int) -> proc.ProcessStat | None:
            data = raw.get(pid)
            return proc.parse_stat(pid, data) if data is not None else None

        for watch in list(self._watches.values()):
            members = watch.members(stat_of, children)
            found = [stat for pid in members if (stat := stat_of(pid)) is not None]
            if watch.is_open and found:
                watch.take(found, swaps, pause)
            pause()

    def _look_at_young(self) -> None:
        now = time.monotonic()
        pause = Pause()
        while self._young and self._young[0][0] <= now:
            watch = self._young.popleft()[1]
            if len(watch.seen) < 2:  # a tick that found a whole tree knows better
                watch.look_again()
            pause()

    def _read_own_cpu(self) -> None:
        now, seconds = time.monotonic(), time.process_time()
        elapsed = max(now - self._own_read_at, _SHORTEST)
        self._own = self._own._replace(cpu=round(100 * (seconds - self._own_seconds) / elapsed, 2))
        self._own_read_at, self._own_seconds = now, seconds
