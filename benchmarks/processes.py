"""What a process and all its children use."""

from __future__ import annotations

import time
from pathlib import Path


def tree(pid: int) -> list[int]:
    """The process and what it started, and so on."""
    found = [pid]
    for one in found:  # grows meanwhile
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found


def cpu(pid: int) -> float:
    """Seconds of processor time that those alive have used, by the clocks of their processes."""
    return sum(time.clock_gettime((~one << 3) | 2) for one in tree(pid))


def memory(pid: int) -> float:
    """Resident memory of one process in MB (1e6 bytes)."""
    return _megabytes(Path(f"/proc/{pid}/status"), "VmRSS:")


def shared_memory(pid: int) -> float:
    """MB of all, each its part of what several have in common (proportional set size)."""
    return sum(_megabytes(Path(f"/proc/{one}/smaps_rollup"), "Pss:") for one in tree(pid))


def _megabytes(file: Path, name: str) -> float:
    for line in file.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0
