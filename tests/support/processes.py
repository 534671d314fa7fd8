"""Real processes for tests: what they are, and scripts that run as an agent of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def state_of(pid: int) -> str:
    """The letter of /proc/PID/stat, "" when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_running(pid: int) -> bool:
    """Alive, and not only a zombie."""
    return state_of(pid) not in ("", "Z", "X")


def zombies_of(pid: int) -> list[int]:
    """The children of a process that nobody has reaped."""
    listed = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        listed += Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
    return [int(child) for child in listed if state_of(int(child)) == "Z"]


def memory_of(pid: int, key: str) -> int:
    """Bytes from /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(key)


def run_script(path: Path, *arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Runs a Python script with the package importable; its output is captured."""
    return subprocess.run(
        [sys.executable, str(path), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
