"""How long a small commit takes at the worst, on a quiet disk and on a busy one.

``python benchmarks/commit_stall.py [--seconds 20] [--folder DIR]``: one commit every 2 ms, by turns on a connection as
sqlite sets it up (checkpoints inside of commits) and on the ledger's database, which makes them elsewhere. "Busy": two
``dd conv=fsync`` write beside it.
"""

from __future__ import annotations

from greenagent.runtime.patch import patch

patch()

import argparse  # noqa: E402
import sqlite3  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from pathlib import Path  # noqa: E402

from greenagent.runtime.database import NativeDatabase  # noqa: E402
from greenagent.runtime.native import native_sleep  # noqa: E402

SCHEMA = ["CREATE TABLE IF NOT EXISTS t (x INTEGER PRIMARY KEY, y TEXT)", "CREATE INDEX IF NOT EXISTS ty ON t (y)"]
TEXT = "x" * 400
SLICE = 2.0
"""Seconds of one turn."""


def insert(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO t (y) VALUES (?)", (TEXT,))


@contextmanager
def busy_disk(folder: Path, is_busy: bool) -> Iterator[None]:
    loop = f"while :; do dd if=/dev/zero of='{folder}/dd'$0 bs=1M count=100 conv=fsync 2>/dev/null; done"
    writers = [subprocess.Popen(["sh", "-c", loop, str(number)]) for number in range(2 if is_busy else 0)]
    try:
        yield
    finally:
        for writer in writers:
            writer.terminate()
            writer.wait()


def measure(commit: Callable[[], None], times: list[float]) -> None:
    ends = time.perf_counter() + SLICE
    while time.perf_counter() < ends:
        began = time.perf_counter()
        commit()
        times.append((time.perf_counter() - began) * 1000)
        native_sleep(0.002)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="for each of the four figures")
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to be measured; default the usual one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        plain = sqlite3.connect(folder / "plain.db", isolation_level=None)
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL", *SCHEMA):
            plain.execute(statement)
        database = NativeDatabase(folder / "ours.db", SCHEMA)
        database.start()

        def commit_plainly() -> None:
            plain.execute("BEGIN IMMEDIATE")
            insert(plain)
            plain.execute("COMMIT")

        for is_busy in (False, True):
            found: dict[str, list[float]] = {"sqlite alone": [], "the ledger's": []}
            with busy_disk(folder, is_busy):
                for _ in range(max(1, round(options.seconds / SLICE))):
                    measure(commit_plainly, found["sqlite alone"])
                    measure(lambda: database.run_at_once(insert), found["the ledger's"])
            for which, times in found.items():
                times.sort()
                p50, p99, p999 = (times[int(len(times) * share)] for share in (0.5, 0.99, 0.999))
                print(
                    f"{'busy' if is_busy else 'quiet'} disk, {which}: {len(times)} commits, median {p50:.2f} ms, "
                    f"p99 {p99:.2f}, p99.9 {p999:.2f}, worst {times[-1]:.1f}",
                    flush=True,
                )
        database.stop()
        plain.close()


if __name__ == "__main__":
    main()
