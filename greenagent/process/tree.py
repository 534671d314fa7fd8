"""Reading /proc: who is whose child, since when, and with which tag. Plain reads, no state."""

from __future__ import annotations

import errno
import os
import signal
import stat
from collections.abc import Callable, Iterable
from functools import cache
from itertools import islice
from typing import NamedTuple

from greenagent.process.tags import VARIABLE
from greenagent.runtime.native import close_descriptor

_VARIABLE = VARIABLE.encode() + b"="

SLICE = 64
"""Processes to look at between two turns of the others: about 3 ms."""

_MAX_DESCRIPTORS = 64
"""Of a process, to look at: pipes that were inherited have low numbers."""


class Process(NamedTuple):
    """One reading of /proc/PID/stat. ``start_ticks`` (since boot) tells a reused pid from the old one."""

    pid: int
    command: str
    state: str
    parent: int
    group: int
    session: int
    threads: int
    start_ticks: int

    @property
    def is_dead(self) -> bool:
        """A zombie. (A leader that ended before its threads also looks like one, and is not.)"""
        return self.state in "ZX" and self.threads <= 1


def read_process(pid: int) -> Process | None:
    """What /proc says about a pid, or None when there is none."""
    data = _read(f"/proc/{pid}/stat")
    opening, closing = data.find(b"("), data.rfind(b")")
    if closing < 0:
        return None
    fields = data[closing + 2 :].split()
    return Process(
        pid,
        data[opening + 1 : closing].decode("utf-8", "backslashreplace"),
        chr(fields[0][0]),
        int(fields[1]),
        int(fields[2]),
        int(fields[3]),
        int(fields[17]),
        int(fields[19]),
    )


def is_same(pid: int, start_ticks: int) -> bool:
    """Whether that very process is still alive (a zombie is not)."""
    process = read_process(pid)
    return process is not None and process.start_ticks == start_ticks and not process.is_dead


def read_tag(pid: int) -> str | None:
    """The job's tag in a process's environment; None where there is none or it may not be read."""
    data = _read(f"/proc/{pid}/environ")
    start = 0 if data.startswith(_VARIABLE) else data.find(b"\0" + _VARIABLE) + 1
    if start == 0 and not data.startswith(_VARIABLE):
        return None
    end = data.find(b"\0", start)
    return data[start + len(_VARIABLE) : end if end >= 0 else None].decode("utf-8", "backslashreplace")


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


def all_pids() -> list[int]:
    """Every pid of the system."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def children_of_thread(pid: int, thread: int) -> list[int] | None:
    """The children one thread started or was given; None where the kernel does not tell."""
    data = _read(f"/proc/{pid}/task/{thread}/children")
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


def descendants(roots: Iterable[int], pause: Callable[[], None] | None = None) -> list[int]:
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
    for _ in range(4096):
        process = read_process(pid)
        if process is None or process.parent <= 1:
            return False
        if process.parent == ancestor:
            return True
        pid = process.parent
    return False


def send_signal(pid: int, start_ticks: int, number: int) -> bool:
    """Signals that very process and no later owner of its pid; False when it is gone or refuses."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE) or not is_same(pid, start_ticks):
            return False
        return _attempt(lambda: os.kill(pid, number))
    try:
        if not is_same(pid, start_ticks):
            return False
        return _attempt(lambda: signal.pidfd_send_signal(descriptor, number))
    finally:
        close_descriptor(descriptor)


def _attempt(send: Callable[[], None]) -> bool:
    try:
        send()
    except OSError:
        return False
    return True


def _read(path: str) -> bytes:
    """A whole file of /proc; empty where it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        data = os.read(descriptor, 65536)
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
