"""What metering 100 and 1000 processes costs: share of a core at one reading every 2 s, and the worst stall.

Run from the repository's root: ``python -m benchmarks.metering [NUMBER ...]``. The reference is the
same reading by psutil, one process after the other with its descendants, for as many as take 10 s.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from greenagent.runtime.patch import patch

patch()

import gevent  # noqa: E402
import psutil  # noqa: E402

from greenagent.process.job_tree import JobTree, Reaper  # noqa: E402
from greenagent.statistics.meter import Meter  # noqa: E402
from greenagent.statistics.own import EventLoopLag  # noqa: E402

INTERVAL = 2.0
TICKS = 5


def by_psutil(pids: list[int]) -> float:
    """Share of a core in percent, extrapolated when there are many."""
    began, done = time.process_time(), 0
    for pid in pids:
        process = psutil.Process(pid)
        for member in [process, *process.children(recursive=True)]:
            member.cpu_times(), member.memory_full_info(), member.num_threads(), member.num_fds()
        done += 1
        if time.process_time() - began > 10:
            break
    return 100 * (time.process_time() - began) / done * len(pids) / INTERVAL


def measure(number: int) -> None:
    children = [subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(number)]
    try:
        meter, reaper = Meter(INTERVAL), Reaper()
        for child in children:
            meter.watch(str(child.pid), child.pid, JobTree(reaper, child.pid, 0).find_in)
        stall = EventLoopLag(period=0.001)
        ticker = gevent.spawn(stall.run)
        meter.tick()
        began = time.process_time()
        idle_began = time.monotonic()
        for _ in range(TICKS):
            meter.tick()
        used = time.process_time() - began
        passed = time.monotonic() - idle_began
        ticker.kill()
        assert all(meter.usage(str(child.pid)).rss > 0 for child in children)
        share = 100 * used / TICKS / INTERVAL
        reference = by_psutil([child.pid for child in children])
        print(
            f"{number} processes of {len(os.listdir('/proc'))} entries in /proc: {share:.2f} % of a core, "
            f"a reading takes {1000 * passed / TICKS:.0f} ms, worst hub stall {1000 * stall.worst_ever:.1f} ms; "
            f"psutil {reference:.0f} %"
        )
    finally:
        for child in children:
            os.kill(child.pid, signal.SIGKILL)
        for child in children:
            child.wait()


def main() -> int:
    for number in [int(text) for text in sys.argv[1:]] or [100, 1000]:
        measure(number)
    return 0


if __name__ == "__main__":
    sys.exit(main())
