"""The whole agent, measured from outside: memory, jobs per second, latency, and its hearing under load.

``python benchmarks/agent.py [--only idle,memory,jobs,latency,load] [--json FILE]``. A small controller
in this process hands out commands; the agent is a process of its own. Jobs per second are a ratio to a
bare ``subprocess.run(["/bin/true"])`` loop in the same run; everything else is in units of its own.
"""

from __future__ import annotations

from greenagent.runtime.patch import patch

patch()

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import socket  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
import urllib.request  # noqa: E402
from collections import deque  # noqa: E402
from collections.abc import Callable, Iterable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from gevent.event import Event  # noqa: E402
from gevent.pywsgi import WSGIServer  # noqa: E402
from log_lines import bare  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")

CONFIGURATION = """
[main]
gid = 1
nid = 1
max_jobs = {max_jobs}
message_id_file = "{folder}/mid"
history_file = "{folder}/history"
[controllers.main]
url = "{url}"
[logging.db]
type = "DB"
log_dir = "{folder}/logs"
levels = []
[logging.ac]
type = "AC"
levels = [2]
[stats]
interval = 60
[metrics]
listen = "127.0.0.1:{port}"
"""


class Controller:
    """As small as a controller can be: one queue, results by id with the time they came."""

    def __init__(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.results: dict[str, tuple[float, dict[str, Any]]] = {}
        self._queue: deque[bytes] = deque()
        self._pushed = Event()
        self._arrived = Event()
        WSGIServer(listener, self._application, log=None, error_log=None).start()

    def push(self, job_id: str, cmd: str = "execute", data: str = "", **arguments: Any) -> float:
        command = {"id": job_id, "gid": 1, "nid": 1, "cmd": cmd, "args": arguments, "data": data}
        self._queue.append(json.dumps(command).encode())
        self._pushed.set()
        return time.perf_counter()

    def wait(self, job_id: str, timeout: float = 120) -> float:
        """When the result of a job came."""
        with gevent.Timeout(timeout):
            while job_id not in self.results:
                self._arrived.wait()
                self._arrived.clear()
        return self.results[job_id][0]

    def _application(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        body = b'"ok"'
        if path.endswith("/cmd"):
            body = b""
            deadline = time.monotonic() + 30
            while not self._queue and (left := deadline - time.monotonic()) > 0:
                self._pushed.clear()
                self._pushed.wait(left)
            if self._queue:
                body = self._queue.popleft()
        else:
            content = environ["wsgi.input"].read()
            if path.endswith("/result"):
                result = json.loads(content)
                self.results[result["id"]] = (time.perf_counter(), result)
                self._arrived.set()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]


class Agent:
    """A real agent in a folder of its own."""

    def __init__(self, url: str, max_jobs: int = 100) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="greenagent-benchmark-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = self.folder / "greenagent.toml"
        config.write_text(CONFIGURATION.format(folder=self.folder, url=url, port=self.port, max_jobs=max_jobs))
        pid_file = self.folder / "pid"
        words = ["-m", "greenagent.cli.agent", "-c", str(config), "--pid-file", str(pid_file)]
        with (self.folder / "stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *words], stderr=stderr, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )
        while not pid_file.exists():
            if self.process.poll() is not None:
                sys.exit((self.folder / "stderr").read_text())
            gevent.sleep(0.02)

    @property
    def cpu(self) -> float:
        """Seconds of processor time the agent itself has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self) -> tuple[float, float]:
        """(resident, private) in MiB."""
        found = {}
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, value = line.split(":")
            found[name] = int(value.split()[0]) / 1024
        return found["Rss"], found["Private_Clean"] + found["Private_Dirty"]

    def stall(self) -> float:
        """The worst delay of the agent's 100 ms ticker so far, in ms."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith("greenagent_hub_stall_worst_seconds "):
                    return float(line.split()[1]) * 1000
        return -1.0

    def stop(self) -> None:
        self.process.terminate()
        while self.process.poll() is None:
            gevent.sleep(0.02)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def measure_idle(seconds: float = 20) -> dict[str, float]:
    """Memory and processor time of an agent that only polls."""
    agent = Agent(Controller().url)
    gevent.sleep(2)
    before = agent.cpu
    gevent.sleep(seconds)
    resident, private = agent.memory()
    share = (agent.cpu - before) / seconds * 100
    agent.stop()
    return {"resident MiB": resident, "private MiB": private, "percent of a core": share}


def measure_memory(jobs: int = 500) -> dict[str, float]:
    """Private memory of the agent per job that runs and says nothing."""
    controller = Controller()
    agent = Agent(controller.url, max_jobs=jobs)
    controller.push("first", name="true")
    controller.wait("first")
    before = agent.memory()[1]
    for number in range(jobs):
        controller.push(f"s{number}", name="sleep", args=["1000"])
    controller.push("last", cmd="ping")
    controller.wait("last")
    children = Path(f"/proc/{agent.process.pid}/task")
    while sum(len((task / "children").read_text().split()) for task in children.iterdir()) < jobs:
        gevent.sleep(0.1)
    gevent.sleep(3)
    after = agent.memory()[1]
    agent.stop()
    return {"KiB per idle job": (after - before) * 1024 / jobs}


def measure_jobs(jobs: int = 1500) -> dict[str, float]:
    """Jobs per second of /bin/true, one command per poll, against a bare loop."""
    began = time.perf_counter()
    for _ in range(500):
        subprocess.run(["/bin/true"], capture_output=True)
    bare = 500 / (time.perf_counter() - began)
    controller = Controller()
    agent = Agent(controller.url)
    controller.push("warm", name="/bin/true")
    controller.wait("warm")
    before, began = agent.cpu, time.perf_counter()
    for number in range(jobs):
        controller.push(f"j{number}", name="/bin/true")
    last = max(controller.wait(f"j{number}") for number in range(jobs))
    rate = jobs / (last - began)
    used = (agent.cpu - before) / jobs * 1000
    agent.stop()
    return {"bare jobs/s": bare, "jobs/s": rate, "ratio": rate / bare, "agent's cpu ms per job": used}


def measure_latency(jobs: int = 300) -> dict[str, float]:
    """From the push of a command to its result, one job at a time."""
    controller = Controller()
    agent = Agent(controller.url)
    times = []
    for number in range(jobs):
        gevent.sleep(0.01)
        pushed = controller.push(f"l{number}", name="/bin/true")
        times.append((controller.wait(f"l{number}") - pushed) * 1000)
    agent.stop()
    return {"median ms": statistics.median(times), "p95 ms": percentile(times, 0.95), "max ms": max(times)}


def measure_load(chatty: int, seconds: float = 10) -> dict[str, float]:
    """Ping latency, hub stall and memory while jobs print as fast as they can."""
    controller = Controller()
    agent = Agent(controller.url)
    controller.push("warm", cmd="ping")
    controller.wait("warm")
    line = "x" * 79
    for number in range(chatty):
        controller.push(f"c{number}", name="timeout", args=[str(seconds), "yes", line], loglevels_ac="9")
    times, resident = [], 0.0
    deadline = time.perf_counter() + seconds - 1
    number = 0
    while time.perf_counter() < deadline:
        pushed = controller.push(f"p{number}", cmd="ping")
        times.append((controller.wait(f"p{number}") - pushed) * 1000)
        resident = max(resident, agent.memory()[0])
        number += 1
        gevent.sleep(0.05)
    for number in range(chatty):
        controller.wait(f"c{number}")
    stall = agent.stall()
    agent.stop()
    return {
        "ping median ms": statistics.median(times),
        "ping p99 ms": percentile(times, 0.99),
        "ping max ms": max(times),
        "worst hub stall ms": stall,
        "resident MiB": resident,
    }


def measure_lines(jobs: int, lines: int) -> dict[str, float]:
    """Lines of 80 bytes that real children print, until every result is there; bare sqlite before and after."""
    with tempfile.TemporaryDirectory() as folder:
        before = bare(Path(folder))
    controller = Controller()
    agent = Agent(controller.url)
    controller.push("warm", cmd="ping")
    controller.wait("warm")
    began = time.perf_counter()
    for number in range(jobs):
        controller.push(f"j{number}", name="sh", args=["-c", f"yes {'x' * 79} | head -n {lines}"])
    last = max(controller.wait(f"j{number}") for number in range(jobs))
    agent.stop()
    with tempfile.TemporaryDirectory() as folder:
        reference = (before + bare(Path(folder))) / 2
    rate = jobs * lines / (last - began)
    return {"lines/s": rate, "bare lines/s": reference, "ratio": rate / reference}


MEASUREMENTS: dict[str, Callable[[], dict[str, float]]] = {
    "idle": measure_idle,
    "memory": measure_memory,
    "jobs": measure_jobs,
    "latency": measure_latency,
    "lines 1": lambda: measure_lines(1, 3_000_000),
    "lines 20": lambda: measure_lines(20, 150_000),
    "load 1": lambda: measure_load(1),
    "load 20": lambda: measure_load(20),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help="which measurements, comma-separated")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    found = {}
    for name in options.only.split(","):
        found[name] = MEASUREMENTS[name]()
        print(f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in found[name].items()), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
