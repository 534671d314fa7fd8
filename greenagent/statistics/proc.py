"""Raw readings from /proc: one short read each, no library between (design, section 7)."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from greenagent.runtime.native import close_descriptor

TICKS: Final = os.sysconf("SC_CLK_TCK")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")

_STAT_SIZE = 2048
_ZOMBIE = b"Z"


class ProcessStat(NamedTuple):
    """What /proc/PID/stat tells.

    ``ticks`` is processor time in clock ticks, that of ended and awaited children included;
    ``start`` (ticks since boot) makes a pid unique; ``rss`` and ``vms`` are bytes, 0 of a zombie.
    """

    pid: int
    parent: int
    is_zombie: bool
    ticks: int
    threads: int
    start: int
    vms: int
    rss: int


def read_raw_stat(pid: int) -> bytes | None:
    """/proc/PID/stat as it is, or None when there is no such process."""
    return _read(f"/proc/{pid}/stat", _STAT_SIZE)


def parent_of(raw: bytes) -> int:
    """The parent's pid, from a raw reading."""
    # The name in brackets may hold blanks and brackets: what follows counts from the last one.
    place = raw.rfind(b")") + 4
    return int(raw[place : raw.find(b" ", place)])


def read_stat(pid: int) -> ProcessStat | None:
    """A process's state, or None when there is no such process."""
    raw = read_raw_stat(pid)
    return None if raw is None else parse_stat(pid, raw)


def parse_stat(pid: int, raw: bytes) -> ProcessStat:
    """A raw reading, understood."""
    fields = raw[raw.rfind(b")") + 2 :].split(None, 22)
    return ProcessStat(
        pid=pid,
        parent=int(fields[1]),
        is_zombie=fields[0] == _ZOMBIE,
        ticks=int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14]),
        threads=int(fields[17]),
        start=int(fields[19]),
        vms=int(fields[20]),
        rss=int(fields[21]) * PAGE,
    )


def read_io(pid: int) -> tuple[int, int]:
    """Bytes read from and written to disks, ended and awaited children included; (0, 0) if we may not know."""
    data = _read(f"/proc/{pid}/io", 512)
    if not data:
        return 0, 0
    found = dict(line.split(b": ", 1) for line in data.splitlines() if b": " in line)
    return int(found.get(b"read_bytes", 0)), int(found.get(b"write_bytes", 0))


def read_swap(pid: int) -> int:
    """Bytes swapped out."""
    data = _read(f"/proc/{pid}/status", 8192)
    if data is None:
        return 0
    place = data.find(b"\nVmSwap:")
    if place < 0:
        return 0
    return int(data[place + 8 :].split(None, 1)[0]) * 1024


def read_exact_rss(pid: int) -> int:
    """Resident bytes by counting pages: Linux 6.2 and newer tell 0 in ``stat`` of a process that has only begun."""
    data = _read(f"/proc/{pid}/smaps_rollup", 4096)
    if not data:
        return 0
    place = data.find(b"\nRss:")
    return 0 if place < 0 else int(data[place + 5 :].split(None, 1)[0]) * 1024


def count_descriptors(pid: int) -> int:
    """Open descriptors; 0 if we may not know."""
    try:
        # Linux 6.2 and newer tell the number as the folder's size; older ones tell 0.
        return os.stat(f"/proc/{pid}/fd").st_size or len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def machine_swaps() -> bool:
    """True when anything at all is swapped out: without it nobody needs to be asked one by one."""
    data = _read("/proc/meminfo", 8192) or b""
    found = {name: rest.split()[0] for name, _, rest in (line.partition(b":") for line in data.splitlines()) if rest}
    return found.get(b"SwapTotal") != found.get(b"SwapFree")


def pids() -> list[int]:
    """Every process there is; none while no descriptor is left to look with."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []


def _read(path: str, size: int) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, size)
    except OSError:
        return None  # it ended meanwhile, or we may not know
    finally:
        close_descriptor(descriptor)
