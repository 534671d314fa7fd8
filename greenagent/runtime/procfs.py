"""Reading /proc: processes, who is whose child, and what they use. Plain reads, no state.

By hand and not by psutil, which takes many times as long: the meter reads every process every two seconds.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from functools import cache
from itertools import islice
from typing import Final, NamedTuple

from greenagent.runtime.descriptors import close_descriptor

TICKS: Final = os.sysconf("SC_CLK_TCK")
"""Clock ticks in a second: what processor time and start times are counted in."""
PAGE: Final = os.sysconf("SC_PAGE_SIZE")

SLICE: Final = 64
"""Processes to look at between two turns of the others: about 3 ms."""

_MAX_DESCRIPTORS = 64
"""Descriptors looked at in one process: pipes that were inherited have low numbers."""
_MAX_PARENTS = 4096


class Process(NamedTuple):
    """One reading of /proc/PID/stat.

    ``start_ticks`` (since boot) tells a reused pid from the old one. ``cpu_ticks`` is processor time,
    that of children that were waited for included. ``vms`` and ``rss`` are bytes, 0 of a zombie.
    """

    pid: int
    command: str
    state: str
    parent: int
    group: int
    session: int
    threads: int
    start_ticks: int
    cpu_ticks: int
    vms: int
    rss: int

    @property
    def is_dead(self) -> bool:
        """A zombie. (A leader that ended before its threads also looks like one, and is not.)"""
        return self.state in "ZX" and self.threads <= 1


def parse_stat(pid: int, data: bytes) -> Process | None:
    """Reads the content of /proc/PID/stat; None when it is empty, since the process is gone."""
    # The command in brackets may hold blanks and brackets itself: what follows counts from the last one.
    opening, closing = data.find(b"("), data.rfind(b")")
    if closing < 0:
        return None
    fields = data[closing + 2 :].split(None, 22)
    return Process(
        pid,
        data[opening + 1 : closing].decode("utf-8", "backslashreplace"),
        chr(fields[0][0]),
        int(fields[1]),
        int(fields[2]),
        int(fields[3]),
        int(fields[17]),
        int(fields[19]),
        int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14]),
        int(fields[20]),
        int(fields[21]) * PAGE,
    )


def read_process(pid: int) -> Process | None:
    """What /proc says about a pid, or None when there is none."""
    return parse_stat(pid, read(f"/proc/{pid}/stat"))


def is_same(pid: int, start_ticks: int) -> bool:
    """Whether that very process is still alive (a zombie is not)."""
    process = read_process(pid)
    return process is not None and process.start_ticks == start_ticks and not process.is_dead


def read_environment(pid: int) -> bytes | None:
    """The environment a process began with, NUL after each variable; empty where there is none or we may not know.

    None while the process is between two programs (``exec``), when it has none: ask again.
    """
    path = f"/proc/{pid}/environ"
    if data := read(path):
        return data
    stat_line = read(f"/proc/{pid}/stat")
    fields = stat_line[stat_line.rfind(b")") + 2 :].split()
    if len(fields) <= 48 or fields[20] == b"0":
        return b""  # it is gone, a zombie, or a thread of the kernel
    begin, end = fields[47:49]
    if end != b"0":
        return b"" if begin == end else None
    try:
        close_descriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return b""  # we may not know
    return None


def is_readable(pid: int) -> bool:
    """Whether we may know a process's environment: false for programs of other users."""
    try:
        close_descriptor(os.open(f"/proc/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError:
        return False
    except OSError:
        pass  # it is gone
    return True


def all_pids() -> list[int]:
    """Every pid of the system. Raises OSError while no descriptor is left."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


class Snapshot:
    """All processes of the system, read in one pass over /proc and parsed when they are asked for."""

    def __init__(self, pause: Callable[[], None]) -> None:
        """``pause`` is called after each process. Empty while no descriptor is left to look with."""
        self._raw: dict[int, bytes] = {}
        self._parsed: dict[int, Process | None] = {}
        self._children: dict[int, list[int]] = {}
        try:
            pids = all_pids()
        except OSError:
            pids = []
        for pid in pids:
            data = read(f"/proc/{pid}/stat")
            if data:
                self._raw[pid] = data
                start = data.rfind(b")") + 4
                self._children.setdefault(int(data[start : data.find(b" ", start)]), []).append(pid)
            pause()

    def process(self, pid: int) -> Process | None:
        """What the pass found under a pid, or None."""
        if pid not in self._parsed:
            self._parsed[pid] = parse_stat(pid, self._raw.get(pid, b""))
        return self._parsed[pid]

    def children(self, pid: int) -> list[int]:
        """The children of a process, zombies included."""
        return self._children.get(pid, [])


# -- parents and children


def children_of_thread(pid: int, thread: int) -> list[int] | None:
    """The children one thread started or was given; None where the kernel does not tell."""
    data = read(f"/proc/{pid}/task/{thread}/children")
    if not data and not _kernel_lists_children():
        return None
    return [int(word) for word in data.split()]


@cache
def _kernel_lists_children() -> bool:
    return os.path.exists("/proc/thread-self/children")


def children(pid: int) -> list[int]:
    """The children of a process, zombies included."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        listed = children_of_thread(pid, int(thread))
        if listed is None:
            return children_by_parent(pid)
        found += listed
    return found


def children_by_parent(pid: int) -> list[int]:
    """As ``children``, by one pass over /proc, for kernels without the lists of children."""
    processes = (read_process(each) for each in all_pids())
    return [process.pid for process in processes if process is not None and process.parent == pid]


def descendants(
    roots: Iterable[int],
    children: Callable[[int], list[int]] = children,
    pause: Callable[[], None] | None = None,
) -> list[int]:
    """Everything below ``roots``, without them; calls ``pause`` after every ``SLICE`` processes."""
    found: dict[int, None] = {}
    waiting = list(roots)
    done = 0
    while waiting:
        done += 1
        if pause is not None and done % SLICE == 0:
            pause()
        for pid in children(waiting.pop()):
            if pid not in found:
                found[pid] = None
                waiting.append(pid)
    return list(found)


def is_descendant(pid: int, ancestor: int) -> bool:
    """Whether ``ancestor`` is among the parents of ``pid``."""
    for _ in range(_MAX_PARENTS):
        process = read_process(pid)
        if process is None or process.parent <= 1:
            return False
        if process.parent == ancestor:
            return True
        pid = process.parent
    return False


# -- pipes


def pipes_of(pid: int) -> set[tuple[int, int]]:
    """The pipes a process has open, as ``pipe_of`` tells them; none where they may not be read."""
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            found = {pipe_of(entry.path) for entry in islice(entries, _MAX_DESCRIPTORS)}
    except OSError:
        return set()
    return {pipe for pipe in found if pipe is not None}


def pipe_of(descriptor: int | str) -> tuple[int, int] | None:
    """Device and inode of a pipe, the same at both its ends; None for what is no pipe or gone."""
    try:
        found = os.stat(descriptor)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISFIFO(found.st_mode) else None


# -- what a process uses


def read_io(pid: int) -> tuple[int, int]:
    """Bytes read from and written to disks, by ended and awaited children too; (0, 0) if we may not know."""
    data = b"\n" + read(f"/proc/{pid}/io")
    return _number_after(data, b"\nread_bytes:"), _number_after(data, b"\nwrite_bytes:")


def read_swap(pid: int) -> int:
    """Bytes swapped out."""
    return _number_after(read(f"/proc/{pid}/status"), b"\nVmSwap:") * 1024


def read_exact_rss(pid: int) -> int:
    """Resident bytes by counting pages: Linux 6.2 and newer tell 0 in ``stat`` of a process that has only begun."""
    return _number_after(read(f"/proc/{pid}/smaps_rollup"), b"\nRss:") * 1024


def count_descriptors(pid: int) -> int:
    """Open descriptors; 0 if we may not know."""
    try:
        # Linux 6.2 and newer tell the number as the folder's size; older ones tell 0.
        return os.stat(f"/proc/{pid}/fd").st_size or len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def machine_swaps() -> bool:
    """True when anything at all is swapped out: without it nobody needs to be asked one by one."""
    data = read("/proc/meminfo")
    return _number_after(data, b"\nSwapTotal:") != _number_after(data, b"\nSwapFree:")


def _number_after(data: bytes, label: bytes) -> int:
    place = data.find(label)
    return 0 if place < 0 else int(data[place + len(label) :].split(None, 1)[0])


def read(path: str) -> bytes:
    """A whole file of /proc; empty where it cannot be read: the process is gone, or we may not know."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        data = os.read(descriptor, 8192)
        if len(data) < 2048:
            return data  # files of /proc come in pages at most: less than half of one is all there is
        parts = [data]
        while data:
            data = os.read(descriptor, 65536)
            parts.append(data)
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        close_descriptor(descriptor)


def boot_id() -> str:
    """Which run of the machine this is, "" if unknown: within one all processes share the monotonic clock."""
    return read("/proc/sys/kernel/random/boot_id").decode("ascii", "replace").strip()
