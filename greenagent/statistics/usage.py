"""What a job's processes use of the machine (protocol 8.3 and 8.5)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


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

    def figures(self) -> tuple[tuple[str, float], ...]:
        """The keys under which a reading is sent."""
        return tuple(zip(FIGURES, self[:-1], strict=True))

    def to_wire(self) -> dict[str, Any]:
        """The figures of an entry of the stats commands, ``cmd`` not included (protocol 8.5)."""
        wire: dict[str, Any] = dict(self.figures())
        wire["debug"] = " ".join(map(str, self.pids))
        return wire


FIGURES = ProcessUsage._fields[:-1]


def add_up(readings: Iterable[ProcessUsage]) -> ProcessUsage:
    """The sum of several jobs' readings."""
    collected = list(readings)
    if not collected:
        return ProcessUsage()
    cpu = sum(reading.cpu for reading in collected)
    whole = [sum(column) for column in zip(*(reading[1:-1] for reading in collected), strict=True)]
    pids = tuple(pid for reading in collected for pid in reading.pids)
    return ProcessUsage._make([cpu, *whole, pids])
