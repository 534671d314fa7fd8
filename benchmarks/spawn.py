"""Starts and ends of /bin/true per second, as a ratio to a ``subprocess.run`` loop in the same run.

Usage: python benchmarks/spawn.py [JOBS]. Also prints the worst stall of the hub and the memory per idle job.
"""

from greenagent.runtime.patch import patch

patch()

import gc  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import gevent  # noqa: E402
from gevent.pool import Pool  # noqa: E402

from greenagent.process.child import Child, sweep  # noqa: E402
from greenagent.process.pipes import PipeFeeder, PipeReader  # noqa: E402
from greenagent.process.spawn import Spawner, SpawnRequest  # noqa: E402
from greenagent.runtime.agent_log import AgentLog  # noqa: E402


def bare(jobs: int) -> float:
    began = time.perf_counter()
    for _ in range(jobs):
        subprocess.run(["/bin/true"], capture_output=True)
    return jobs / (time.perf_counter() - began)


def drain(descriptor: int) -> None:
    for _ in PipeReader(descriptor).chunks():
        pass


def job(spawner: Spawner) -> None:
    child = spawner.spawn(SpawnRequest("/bin/true"))
    PipeFeeder(child.stdin, b"").run()
    drain(child.stdout)
    drain(child.stderr)
    child.wait()
    sweep(child)
    child.reap()


def ours(spawner: Spawner, jobs: int, at_once: int) -> float:
    pool = Pool(at_once)
    began = time.perf_counter()
    for _ in range(jobs):
        pool.spawn(job, spawner)
    pool.join()
    return jobs / (time.perf_counter() - began)


def resident() -> int:
    gc.collect()
    line = next(line for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if line.startswith("Rss"))
    return int(line.split()[1]) * 1024


def memory_per_idle_job(spawner: Spawner, jobs: int = 200) -> float:
    before = resident()
    children: list[Child] = []
    greenlets = []
    for _ in range(jobs):
        child = spawner.spawn(SpawnRequest("/bin/cat"))
        children.append(child)
        greenlets += [gevent.spawn(drain, child.stdout), gevent.spawn(drain, child.stderr), gevent.spawn(child.wait)]
    gevent.sleep(0.1)
    used = (resident() - before) / jobs
    for child in children:
        PipeFeeder(child.stdin, b"").run()
    gevent.joinall(greenlets)
    for child in children:
        child.reap()
    return used


def stalls(worst: list[float]) -> None:
    while True:
        began = time.perf_counter()
        gevent.sleep(0.002)
        worst[0] = max(worst[0], time.perf_counter() - began - 0.002)


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    spawner = Spawner(AgentLog(None))
    spawner.start()
    ours(spawner, 20, 4)
    reference = bare(jobs)
    print(f"subprocess.run loop: {reference:.0f}/s (the reference)")
    for at_once in (1, 4, 100):
        worst = [0.0]
        ticker = gevent.spawn(stalls, worst)
        rate = ours(spawner, jobs, at_once)
        ticker.kill()
        print(f"{at_once} at once: {rate:.0f}/s = {rate / reference:.2f} x, worst hub stall {worst[0] * 1000:.1f} ms")
    print(f"memory per idle job: {memory_per_idle_job(spawner) / 1024:.1f} KiB")
    spawner.stop()


if __name__ == "__main__":
    main()
