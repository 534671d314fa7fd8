"""What the processes of jobs use, read for all jobs in one pass over /proc (protocol 8.3, design, section 7)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import gevent

from greenagent.runtime import procfs
from greenagent.runtime.greenlets import Heartbeat, TimeSlice
from greenagent.runtime.procfs import Process, Snapshot

_MIN_ELAPSED = 0.1
"""Seconds: over less than this a share of a core says nothing, since time is counted in ticks of 10 ms."""

_MAX_TICK = 120.0
"""Seconds after which a reading of all processes counts as stuck."""
_SECOND_LOOK = 0.1
"""Seconds after its start at which a process is looked at (again): at first it has hardly any memory yet."""

Spent = tuple[float, int, int]
"""Seconds of processor time, bytes read from disks, bytes written to them."""


class ProcessUsage(NamedTuple):
    """One reading of a job: its process and all that descends from it.

    ``cpu`` is percent of one core since the previous reading and may exceed 100; ``rss``, ``vms``
    and ``swap`` are bytes; ``read_bytes`` and ``write_bytes`` count what went to and came from
    the disks since the processes began. ``pids`` are those found alive.
    """

    cpu: float = 0.0
    rss: int = 0
    vms: int = 0
    swap: int = 0
    threads: int = 0
    fds: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    pids: tuple[int, ...] = ()

    def items(self) -> tuple[tuple[str, float], ...]:
        """The values with the keys under which they are sent."""
        return tuple(zip(USAGE_KEYS, self[:-1], strict=True))

    def to_wire(self) -> dict[str, Any]:
        """The values of an entry of the stats commands, ``cmd`` not included (protocol 8.5)."""
        wire: dict[str, Any] = dict(self.items())
        wire["debug"] = " ".join(map(str, self.pids))
        return wire


USAGE_KEYS: Final = ProcessUsage._fields[:-1]


def add_up(readings: Iterable[ProcessUsage]) -> ProcessUsage:
    """The sum of several jobs' readings."""
    collected = list(readings)
    if not collected:
        return ProcessUsage()
    cpu = sum(reading.cpu for reading in collected)
    whole = [sum(column) for column in zip(*(reading[1:-1] for reading in collected), strict=True)]
    pids = tuple(pid for reading in collected for pid in reading.pids)
    return ProcessUsage._make([cpu, *whole, pids])


def _go_on() -> None:
    """In place of a pause: the last reading of a run must not give way."""


def _ignore(usage: ProcessUsage) -> None:
    """Nobody follows these readings."""


class Watch:
    """One run of a job being metered. ``usage`` is the newest reading, ``peak`` the most memory of any, in bytes."""

    def __init__(
        self,
        meter: Meter,
        job_key: str,
        root: int,
        members: Callable[[Snapshot], list[Process]],
        on_reading: Callable[[ProcessUsage], None],
        start_ticks: int = 0,
    ) -> None:
        """``start_ticks``: of a process that was just started; 0 for one that may be of any age."""
        self.job_key = job_key
        self.root = root
        self.members = members
        self.usage = ProcessUsage()
        self.peak = 0
        self.seen: dict[int, int] = {}
        """Pids alive at the last reading with their start times in ticks since boot."""
        self.is_open = True
        self._meter = meter
        self._on_reading = on_reading
        self._birth = start_ticks
        self._ticks = 0
        self._read_at = time.monotonic()
        if start_ticks:
            self.seen = {root: start_ticks}
        else:
            self._begin()
        self._second_look = gevent.get_hub().loop.timer(_SECOND_LOOK)
        self._second_look.start(self._look_again)

    def _begin(self) -> None:
        """The first reading, of the process alone: its percentage is 0 (protocol 8.3)."""
        root = procfs.read_process(self.root)
        if root is not None:
            self._birth = root.start_ticks
            self._ticks = root.cpu_ticks
            self.seen = {self.root: root.start_ticks}
            self.take([root._replace(rss=root.rss or procfs.read_exact_rss(self.root))], swaps=False)

    def current(self) -> ProcessUsage:
        """The newest reading; the first one now, where there is none yet."""
        if not self.usage.pids:
            self._look()
        return self.usage

    def close(self, reap: Callable[[], Spent] | None = None) -> ProcessUsage:
        """A last reading, and no more. To be called before the process is reaped; harmless when repeated.

        Of a process that is a zombie only the processor time and the bytes are left to read: the
        other values stay those of the reading before. Where there was none, ``reap`` tells the same at no cost.
        """
        if self.is_open:
            self.is_open = False
            self._meter.forget(self)
            self._second_look.close()
            if reap is not None and not self.usage.pids and len(self.seen) == 1:
                seconds, read, written = reap()
                cpu = round(100 * seconds / max(time.monotonic() - self._read_at, _MIN_ELAPSED), 2)
                self.usage = ProcessUsage(cpu=cpu, read_bytes=read, write_bytes=written)
                self._on_reading(self.usage)
                return self.usage
            found = [p for pid in self.seen if (p := procfs.read_process(pid)) is not None and self._is_same(p)]
            if found:
                self.take(found, swaps=self.usage.swap > 0)
        return self.usage

    def _look_again(self) -> None:
        """What a process has become just after its start; its share of a core is left to the ticks.

        On the hub: it must not give way.
        """
        self._second_look.close()
        self._look()

    def _look(self) -> None:
        root = procfs.read_process(self.root)
        if len(self.seen) > 1 or root is None or root.is_dead or not self._is_same(root):
            return  # a tick has found a whole tree, and knows better
        if not self.usage.pids:
            read, written = procfs.read_io(self.root)
            self.usage = ProcessUsage(read_bytes=read, write_bytes=written, pids=(self.root,))
        self.usage = self.usage._replace(
            rss=max(root.rss or procfs.read_exact_rss(self.root), self.usage.rss),
            vms=root.vms,
            threads=root.threads,
            fds=procfs.count_descriptors(self.root),
        )
        self.peak = max(self.peak, self.usage.rss)
        self._on_reading(self.usage)

    def take(self, found: list[Process], swaps: bool, pause: Callable[[], None] = _go_on) -> None:
        """Makes a reading of the processes found; ``swaps`` says whether asking for swap is worth it."""
        was_open = self.is_open
        now = time.monotonic()
        elapsed = max(now - self._read_at, _MIN_ELAPSED)
        # One that is older than the job brings time it used before it belonged to it.
        brought = sum(p.cpu_ticks for p in found if p.pid not in self.seen and p.start_ticks < self._birth)
        ticks = sum(process.cpu_ticks for process in found)
        cpu = 100 * max(0, ticks - brought - self._ticks) / procfs.TICKS / elapsed
        self._ticks = ticks
        self._read_at = now
        alive = [process for process in found if not process.is_dead]
        self.seen = {process.pid: process.start_ticks for process in alive}
        read_bytes = write_bytes = swap = fds = 0
        for process in found:
            read, written = procfs.read_io(process.pid)
            read_bytes += read
            write_bytes += written
            if not process.is_dead:
                fds += procfs.count_descriptors(process.pid)
                swap += procfs.read_swap(process.pid) if swaps else 0
            pause()
        if was_open and not self.is_open:
            return  # the last reading was taken while this one gave way
        self.usage = self.usage._replace(
            cpu=round(cpu, 2),
            read_bytes=max(read_bytes, self.usage.read_bytes),
            write_bytes=max(write_bytes, self.usage.write_bytes),
        )
        if alive:
            self.usage = self.usage._replace(
                rss=sum(process.rss for process in alive),
                vms=sum(process.vms for process in alive),
                swap=swap,
                threads=sum(process.threads for process in alive),
                fds=fds,
                pids=tuple(process.pid for process in alive),
            )
        self.peak = max(self.peak, self.usage.rss)
        self._on_reading(self.usage)

    def _is_same(self, process: Process) -> bool:
        return self.seen.get(process.pid) == process.start_ticks


class Meter:
    """Reads the process trees of all watched jobs every ``interval`` seconds."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        """Seconds; may be changed while it runs."""
        self.heartbeat = Heartbeat()
        self.own_pid = os.getpid()
        self._watches: dict[str, Watch] = {}
        self._own = ProcessUsage()
        self._own_seconds = time.process_time()
        self._own_read_at = time.monotonic()

    def watch(
        self,
        job_key: str,
        root_pid: int,
        members: Callable[[Snapshot], list[Process]],
        on_reading: Callable[[ProcessUsage], None] = _ignore,
        start_ticks: int = 0,
    ) -> Watch:
        """Meters a job's process from now on, beginning with a reading at once.

        With ``start_ticks``, of one that was just started, the first reading comes when it is asked for, after 0.1 s,
        or with its end.
        ``members`` finds the processes of the job in a snapshot, the root and zombies among them
        (``JobTree.find_in``); ``on_reading`` gets every reading, for instance ``SeriesHandle.add_usage``.
        """
        watch = self._watches[job_key] = Watch(self, job_key, root_pid, members, on_reading, start_ticks)
        return watch

    def forget(self, watch: Watch) -> None:
        """A run is over (called by ``Watch.close``)."""
        if self._watches.get(watch.job_key) is watch:
            del self._watches[watch.job_key]

    def usage(self, job_key: str) -> ProcessUsage:
        """The newest reading of a job; zeros when no process of it runs."""
        watch = self._watches.get(job_key)
        return ProcessUsage() if watch is None else watch.current()

    def own_usage(self) -> ProcessUsage:
        """The agent's own process, without its children; ``cpu`` since the last tick."""
        own = procfs.read_process(self.own_pid)
        if own is None:
            return self._own
        read, written = procfs.read_io(self.own_pid)
        return self._own._replace(
            rss=own.rss,
            vms=own.vms,
            swap=procfs.read_swap(self.own_pid),
            threads=own.threads,
            fds=procfs.count_descriptors(self.own_pid),
            read_bytes=read,
            write_bytes=written,
            pids=(self.own_pid,),
        )

    def total(self) -> ProcessUsage:
        """All jobs and the agent itself (``get_aggregated_stats``)."""
        return add_up([self.own_usage(), *(watch.current() for watch in self._watches.values())])

    def run(self) -> None:
        """Service greenlet. Never returns."""
        while True:
            self.heartbeat.expect_within(self.interval + _MAX_TICK, "metering")
            gevent.sleep(self.interval)
            self.tick()

    def tick(self) -> None:
        """One reading of every job, in slices that do not stall the hub."""
        self._read_own_cpu()
        if not self._watches:
            return
        pause = TimeSlice()
        snapshot = Snapshot(pause)
        swaps = procfs.machine_swaps()
        for watch in list(self._watches.values()):
            found = watch.members(snapshot) if watch.is_open else []
            if found:
                watch.take(found, swaps, pause)
            pause()

    def _read_own_cpu(self) -> None:
        now, seconds = time.monotonic(), time.process_time()
        elapsed = max(now - self._own_read_at, _MIN_ELAPSED)
        self._own = self._own._replace(cpu=round(100 * (seconds - self._own_seconds) / elapsed, 2))
        self._own_read_at, self._own_seconds = now, seconds
