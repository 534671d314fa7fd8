"""Lines per second from the pipes of real children into the log database, as a ratio to bare sqlite.

``python benchmarks/log_lines.py [--lines 2000000] [--jobs 1,20] [--kinds plain,json,levels,coloured]``.
"Bare" is a loop of ``executemany`` with 5000 ready tuples of the same columns, one index on jobid,
WAL, synchronous NORMAL, wal_autocheckpoint 1000, on the same disk, measured before and after each
case. Lines are 80 bytes, their newline included. Beside the ratio: how late the hub was (a timer of
1 ms), and the memory.
"""

from __future__ import annotations

from greenagent.runtime.patch import patch

patch()

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import sqlite3  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import gevent  # noqa: E402

from greenagent.jobs.streams import JobOutput  # noqa: E402
from greenagent.logs.schema import INSERT_ROW, SCHEMA  # noqa: E402
from greenagent.logs.splitter import Splitter  # noqa: E402
from greenagent.logs.store import LogStore  # noqa: E402
from greenagent.logs.write.job_log import Routes  # noqa: E402
from greenagent.process.pipes import PipeReader  # noqa: E402
from greenagent.runtime.agent_log import AgentLog, LineOutput  # noqa: E402

WIDTH = 79
CHILDREN: list[subprocess.Popen[bytes]] = []
PRINTER = """
import os, sys
block, count = sys.stdin.buffer.read(), int(sys.argv[1])
while count > 0:
    view = memoryview(block)
    while view:
        view = view[os.write(1, view):]
    count -= block.count(b"\\n")
"""


def line(kind: str, number: int) -> bytes:
    """One line of 80 bytes."""
    if kind == "json":
        text = json.dumps({"n": number, "event": "request", "path": "/a\\b", "ms": number % 977, "user": "x" * 14})
    elif kind == "levels":
        text = f"{(1, 2, 3, 5, 7)[number * 7919 % 5]}::{number:08} " + "x" * WIDTH
    elif kind == "level":
        text = f"5::{number:08} " + "x" * WIDTH
    elif kind == "coloured":
        text = f"\x1b[3{number % 8}m{number:08}\x1b[0m\t" + "x" * WIDTH
    else:
        text = f"{number:08} " + "x" * WIDTH
    return text[:WIDTH].ljust(WIDTH, "x").encode() + b"\n"


def bare(folder: Path, seconds: float = 1.0) -> float:
    """Rows per second of the reference loop."""
    path = folder / "bare.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint=1000")
    for statement in SCHEMA:
        connection.execute(statement)
    connection.execute("CREATE INDEX logs_jobid ON logs (jobid)")
    jobid = "2f0b0c4c-0000-4000-8000-000000000001"
    text = "x" * WIDTH
    rows, spent = 0, 0.0
    while spent < seconds:
        ready = [(n, jobid, "dom", "nam", 1.5, 1, text, 0, n) for n in range(rows + 1, rows + 5001)]
        began = time.perf_counter()
        connection.execute("BEGIN")
        connection.executemany(INSERT_ROW[True], ready)
        connection.execute("COMMIT")
        spent += time.perf_counter() - began
        rows += 5000
    connection.close()
    for name in folder.glob("bare.db*"):
        name.unlink()
    return rows / spent


class Stalls:
    """How late a timer of 1 ms comes: what a ping would wait."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        while True:
            began = time.perf_counter()
            gevent.sleep(0.001)
            self.late.append(max(0.0, time.perf_counter() - began - 0.001))

    def stop(self) -> tuple[float, float]:
        """p99 and maximum in milliseconds."""
        self._greenlet.kill()
        ordered = sorted(self.late) or [0.0]
        return ordered[int(len(ordered) * 0.99)] * 1000, ordered[-1] * 1000


def start_child(kind: str, lines: int) -> int:
    """A child that prints; the pipe it prints to, which holds it back until somebody reads."""
    block = b"".join(line(kind, n) for n in range(2000))
    child = subprocess.Popen(
        [sys.executable, "-c", PRINTER, str(lines)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(block)
    child.stdin.close()
    descriptor = os.dup(child.stdout.fileno())
    child.stdout.close()
    os.set_blocking(descriptor, False)
    CHILDREN.append(child)
    return descriptor


def run_job(store: LogStore, number: int, descriptor: int, ended: dict[int, float]) -> None:
    """The output of one child goes the way it goes in the agent."""
    log = store.open_job(f"2f0b0c4c-0000-4000-8000-{number:012}", "dom", "nam", Routes(), "bench")
    output = JobOutput(log, lambda text: None, lambda text: None)
    splitter = Splitter(1)
    for chunk in PipeReader(descriptor).chunks():
        output.take(splitter.feed(chunk))
    output.take(splitter.finish())
    log.close()
    ended[number] = time.perf_counter()


def resident() -> float:
    """Megabytes of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(folder: Path, kind: str, jobs: int, lines: int) -> dict[str, object]:
    """One case in an empty folder."""
    before = bare(folder)
    store = LogStore(folder / "logs", folder / "mid", AgentLog(LineOutput(2, "agent_log")))
    store.start()
    ended: dict[int, float] = {}
    each = lines // jobs // 2000 * 2000
    descriptors = [start_child(kind, each) for _ in range(jobs)]
    stalls = Stalls()
    began = time.perf_counter()
    gevent.joinall([gevent.spawn(run_job, store, n, d, ended) for n, d in enumerate(descriptors)], raise_error=True)
    store.flush()
    seconds = time.perf_counter() - began
    p99, worst = stalls.stop()
    memory = resident()
    figures = store.metrics
    store.stop()
    while CHILDREN:
        CHILDREN.pop().wait()
    shutil.rmtree(folder / "logs")
    reference = (before + bare(folder)) / 2
    durations = sorted(end - began for end in ended.values())
    return {
        "kind": kind,
        "jobs": jobs,
        "lines_per_second": round(figures.lines / seconds),
        "bare": round(reference),
        "ratio": round(figures.lines / seconds / reference, 2),
        "lost": each * jobs - figures.lines,
        "slowest_to_fastest": round(durations[-1] / durations[0], 2),
        "hub_p99_ms": round(p99, 1),
        "hub_max_ms": round(worst, 1),
        "resident_mb": round(memory, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=2_000_000)
    parser.add_argument("--jobs", default="1,20")
    parser.add_argument("--kinds", default="plain,json,level,levels,coloured")
    parser.add_argument("--dir", type=Path, help="where to write; default the system's folder for temporary files")
    parser.add_argument("--json", action="store_true", help="one object a line")
    options = parser.parse_args()
    cases = [(kind, 1) for kind in options.kinds.split(",")]
    cases += [("plain", int(jobs)) for jobs in options.jobs.split(",") if jobs != "1"]
    folder = Path(tempfile.mkdtemp(prefix="log-lines-", dir=options.dir))
    try:
        header = False
        for kind, jobs in cases:
            found = measure(folder, kind, jobs, options.lines)
            if options.json:
                print(json.dumps(found), flush=True)
                continue
            if not header:
                print("  ".join(f"{name:>9}" for name in found))
                header = True
            print("  ".join(f"{value!s:>{max(9, len(name))}}" for name, value in found.items()), flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
