"""The whole suite, several pytest processes at once, since tests wait most of the time; run by scripts/test.

Each process takes a share of the test files; what it prints comes when it has ended. A test that fails fails: there
are no second tries. ``--fast`` runs the rooms that take under a minute in all, for the writing hours.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
AT_ONCE = 4
"""Processes at once: tests wait, so that two cores carry four."""
LONGEST = (
    "model/test_model.py",
    "controller/test_hostile_peers.py",
    "docs/test_blocks.py",
    "end_to_end/test_ctl.py",
    "end_to_end/test_upgrade.py",
    "faults/test_outbox.py",
    "faults/test_hostile_commands.py",
    "packaging/test_distribution.py",
    "packaging/test_init_script.py",
    "cli/ctl/test_originals.py",
    "cli/ctl/test_run.py",
    "logs/test_size_limit.py",
    "end_to_end/test_logs_and_start.py",
    "end_to_end/test_tls.py",
    "controller/test_state_file.py",
    "controller/test_large_answers.py",
    "logs/test_reading_meanwhile.py",
)
"""Files that take longest, each begun first and by itself: else one would go on alone in the end."""
SLOW_ROOMS = (
    "end_to_end",
    "faults",
    "packaging",
    "cli",
    "controller",
    "agent",
    "logs",
    "jobs",
    "uplink",
    "docs",
    "model",
)
"""Rooms that start agents, controllers or packages, in this order: the first to begin in a whole run."""
FAST_ROOMS = ("", "runtime", "settings", "spool", "statistics", "values")
"""Rooms that take under a minute in all; "" is the folder of tests itself."""
SHARE = 12
"""Files in one process; a process of its own for each file would spend its time importing."""
SLOW_SHARE = 5
"""As that, in a slow room."""
SUMMARY = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)")
NO_TESTS = 5
"""What pytest exits with when a share has no test."""


@dataclass
class Share:
    """Test files that one pytest process runs."""

    files: list[Path]
    output: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0

    def start(self) -> int:
        """Returns the number of its process."""
        self.began = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no", *map(str, self.files)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=self.output, stderr=self.output)
        return self.process.pid

    def finish(self, status: int, usage: resource.struct_rusage, counts: Counter[str]) -> int:
        """Shows what it printed and adds its counts; returns pytest's exit code."""
        assert self.process is not None
        self.process.returncode = code = os.waitstatus_to_exitcode(status)
        self.output.seek(0)
        text = self.output.read()
        names = " ".join(str(path.relative_to(ROOT)) for path in self.files)
        processor = usage.ru_utime + usage.ru_stime
        print(f"== {time.monotonic() - self.began:.0f} s, {processor:.0f} s of processor time: {names}", flush=True)
        sys.stdout.buffer.write(text)
        sys.stdout.flush()
        lines = text.decode("utf-8", "replace").splitlines()
        for number, kind in SUMMARY.findall(lines[-1] if lines else ""):
            counts[kind.removesuffix("s") if kind.startswith("error") else kind] += int(number)
        return 0 if code == NO_TESTS else code


def name_of(room: Path) -> str:
    """The first folder below the tests: a room may have folders of its own."""
    return (*room.relative_to(TESTS).parts, "")[0]


def place_of(room: Path) -> int:
    """When it begins: after the slower ones."""
    return (*SLOW_ROOMS, name_of(room)).index(name_of(room))


def shares(fast: bool) -> list[Share]:
    """The longest test files by themselves, then the others in shares of one room each, slow rooms first."""
    longest = [TESTS / name for name in LONGEST]
    found = [] if fast else [Share([path]) for path in longest]
    for room in sorted({path.parent for path in TESTS.rglob("test_*.py")}, key=lambda room: (place_of(room), room)):
        if fast and name_of(room) not in FAST_ROOMS:
            continue
        files = [path for path in sorted(room.glob("test_*.py")) if fast or path not in longest]
        size = SLOW_SHARE if name_of(room) in SLOW_ROOMS else SHARE
        found += [Share(files[first : first + size]) for first in range(0, len(files), size)]
    return found


def main() -> int:
    """Runs all shares; returns 1 if a test failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true", help="only the rooms that take under a minute in all")
    waiting = shares(parser.parse_args().fast)
    running: dict[int, Share] = {}
    counts: Counter[str] = Counter()
    worst = 0
    processor = 0.0
    began = time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                share = waiting.pop(0)
                running[share.start()] = share
            number, status, usage = os.wait4(-1, 0)
            worst = running.pop(number).finish(status, usage, counts) or worst
            processor += usage.ru_utime + usage.ru_stime
    finally:
        for share in running.values():
            if share.process is not None:
                share.process.terminate()
    failed = counts["failed"] + counts["error"]
    print(f"== {time.monotonic() - began:.0f} s, {processor:.0f} s of processor time, exit code {worst}")
    print(
        f"{counts['passed']} passed, {failed} failed" + (f", {counts['skipped']} skipped" if counts["skipped"] else "")
    )
    return worst


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    shutil.rmtree(ROOT / ".pytest_cache", ignore_errors=True)
    sys.exit(main())
