"""The whole suite in two halves at once, since tests wait most of the time; run by scripts/test.

The halves slow each other down. A test that fails is tried once more when both are over, alone, and
that is said: it counts as failed if it fails again, and so does a run in which more than MOST failed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHES = ROOT / ".pytest_cache"
BESIDE = ("tests/end_to_end", "tests/model", "tests/packaging", "tests/uplink")
"""The rooms that run beside the others; what they print comes when those have ended."""
MOST = 3
"""Tests that may be tried again."""
FAILED = 1
"""What pytest exits with when tests failed; anything else is another kind of trouble."""


class Half:
    """One pytest of its own, with the folder in which it remembers what failed."""

    def __init__(self, name: str, arguments: list[str]) -> None:
        self.cache = CACHES / name
        shutil.rmtree(self.cache, ignore_errors=True)
        self.command = [sys.executable, "-m", "pytest", "-o", f"cache_dir={self.cache}", *arguments]

    @property
    def failed(self) -> list[str]:
        """The tests that failed, by name."""
        try:
            return list(json.loads((self.cache / "v/cache/lastfailed").read_text()))
        except FileNotFoundError:
            return []

    def outcome(self, code: int) -> int:
        """0 if all is well, also at the second try of a few; otherwise what pytest exited with."""
        failed = self.failed
        if code != FAILED or not 0 < len(failed) <= MOST:
            return code
        print(f"== FAILED BESIDE THE OTHER HALF, tried again alone: {' '.join(failed)}", flush=True)
        again = subprocess.run([*self.command, "--last-failed"], cwd=ROOT).returncode
        print(f"== {'FAILED AGAIN' if again else 'passed alone, but look at it'}: {' '.join(failed)}", flush=True)
        return again


def main() -> int:
    """Runs both halves; returns the exit code."""
    others = Half("others", [f"--ignore={room}" for room in BESIDE])
    beside = Half("beside", list(BESIDE))
    with tempfile.TemporaryFile() as output:
        running = subprocess.Popen(beside.command, cwd=ROOT, stdout=output, stderr=output)
        try:
            first = subprocess.run(others.command, cwd=ROOT).returncode
            second = running.wait()
        finally:
            running.terminate()
        output.seek(0)
        print(f"== tests of {' '.join(BESIDE)}", flush=True)
        shutil.copyfileobj(output, sys.stdout.buffer)
        sys.stdout.flush()
    outcomes = [others.outcome(first), beside.outcome(second)]
    return next(filter(None, outcomes), 0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
