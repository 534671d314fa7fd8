"""What a job of ``/bin/true`` costs, for several versions of the agent by turns on one machine.

``python benchmarks/jobs.py [CHECKOUT ...] [--rounds N] [--running N] [--batches]``. All agents live at the same time
and get bursts of jobs by turns, with a burst of ``subprocess.run`` before each round, so that a busy machine is busy
for all of them. A fixed piece of work is timed meanwhile: processor time is also told as it would be at the machine's
full speed. Medians. With ``--batches`` each agent is there twice: with one command a poll, as originals give them, and
with as many as it takes, and results in lists, as between our own.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

CONFIGURATION = """
[main]
gid = 1
nid = 1
max_jobs = 1000
message_id_file = "{folder}/mid"
history_file = "{folder}/history"
{controllers}
[logging.db]
type = "DB"
log_dir = "{folder}/logs"
levels = []
[logging.ac]
type = "AC"
levels = [2]
[stats]
interval = 60
"""
CALIBRATE_EVERY = 0.012
SINGLES = 10


class Machine:
    """How fast the machine is, from moment to moment."""

    def __init__(self) -> None:
        self.fastest = min(self.time_work() for _ in range(200))
        self._due = 0.0
        self._times: list[float] = []

    @staticmethod
    def time_work() -> float:
        began = time.thread_time()
        sum(number * number for number in range(3000))
        return time.thread_time() - began

    def look(self) -> None:
        """To be called as often as there is an occasion to."""
        if time.monotonic() >= self._due:
            self._times.append(self.time_work())
            self._due = time.monotonic() + CALIBRATE_EVERY

    def slowness(self) -> float:
        """How many times as long as ever everything has taken since the last call, on the average."""
        times, self._times = self._times or [self.fastest], []
        self.fastest = min(self.fastest, *times)
        return statistics.fmean(times) / self.fastest


class Agent:
    """An agent of one checkout with a controller of its own, of raw sockets."""

    def __init__(
        self,
        checkout: Path,
        machine: Machine,
        folder: Path | None = None,
        controllers: int = 1,
        batches: bool = False,
    ) -> None:
        """``controllers``: as so many the one controller is known to the agent. ``batches``: several commands a poll,
        and results in lists."""
        self.name = checkout.name + " in batches" * batches
        self._head = b"Greenagent-Results: 1\r\n" if batches else b""
        self._machine = machine
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._received: dict[socket.socket, bytes] = {}
        self._commands: deque[bytes] = deque()
        self._parked: list[tuple[socket.socket, int]] = []
        """With how many commands each may be answered."""
        self._results = self._pushed = 0
        folder = folder or Path(tempfile.mkdtemp(prefix="greenagent-benchmark-"))
        url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        entries = "".join(f'[controllers.c{number}]\nurl = "{url}"\n' for number in range(controllers))
        config = Path(folder, "greenagent.toml")
        config.write_text(CONFIGURATION.format(folder=folder, controllers=entries))
        with Path(folder, "stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "greenagent.cli.agent", "-c", str(config)],
                stderr=stderr,
                cwd=checkout,  # the first place where Python looks
            )

    @property
    def cpu(self) -> float:
        """Seconds of processor time the agent itself has used, by the clock of its process."""
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def push(self, name: str, *args: str, **more: object) -> None:
        """``more``: further run arguments."""
        self._pushed += 1
        arguments = {"name": name, "args": list(args), **more}
        command = {"id": f"j{self._pushed}", "gid": 1, "nid": 1, "cmd": "execute", "args": arguments, "data": ""}
        self._commands.append(json.dumps(command).encode())
        self._hand_out()

    def serve(self, results: int) -> None:
        """Until so many results have come."""
        wanted = self._results + results
        while self._results < wanted:
            self.look()
            self._machine.look()

    def settle(self) -> None:
        """Until the last command has been taken."""
        while self._commands or not self._parked:
            self.look()

    def look(self, timeout: float = 1.0) -> None:
        """Takes what comes within so many seconds."""
        for key, _ in self._selector.select(timeout):
            self._read(key.fileobj)  # type: ignore[arg-type]

    def _read(self, connection: socket.socket) -> None:
        if connection is self._listener:
            connection, _ = connection.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(connection, selectors.EVENT_READ)
            self._received[connection] = b""
            return
        data = connection.recv(1 << 20)
        if not data:
            self._parked = [parked for parked in self._parked if parked[0] is not connection]  # given up
            self._selector.unregister(connection)
            connection.close()
            return
        received = self._received[connection] + data
        head, blank, body = received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
        if not blank or len(body) < length:
            self._received[connection] = received
            return
        self._received[connection] = b""
        if b"/cmd" in head.split(b"\r\n", 1)[0]:
            most = head.partition(b"Greenagent-Commands: ")[2].split(b"\r\n", 1)[0] if self._head else b""
            self._parked.append((connection, int(most or 1)))
            self._hand_out()
            return
        if head.startswith(b"POST /1/1/results "):
            self._results += len(json.loads(body))
            _answer(connection, b'{"refused": []}')
            return
        self._results += head.startswith(b"POST /1/1/result ")
        _answer(connection, b"ok")

    def _hand_out(self) -> None:
        while self._parked and self._commands:
            connection, most = self._parked.pop()
            together = [self._commands.popleft() for _ in range(min(most, len(self._commands)))]
            several = b"Greenagent-Commands: %d\r\n" % len(together) if len(together) > 1 else b""
            _answer(connection, b"\n".join(together), self._head + several)


def _answer(connection: socket.socket, body: bytes, more: bytes = b"") -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n" % (more, len(body)) + body)


def burst(agent: Agent, machine: Machine, jobs: int) -> dict[str, float]:
    """Many jobs at once, then some one at a time."""
    machine.slowness()
    cpu, began = agent.cpu, time.perf_counter()
    for _ in range(jobs):
        agent.push("/bin/true")
    agent.serve(jobs)
    seconds, used = time.perf_counter() - began, (agent.cpu - cpu) / jobs * 1000
    slowness = machine.slowness()
    latencies = []
    for _ in range(SINGLES):
        agent.settle()
        pushed = time.perf_counter()
        agent.push("/bin/true")
        agent.serve(1)
        latencies.append((time.perf_counter() - pushed) * 1000)
    return {
        "jobs/s": jobs / seconds,
        "cpu ms": used,
        "cpu ms at full speed": used / slowness,
        "latency ms": statistics.median(latencies),
    }


def bare(count: int) -> float:
    """Programs a second."""
    began = time.perf_counter()
    for _ in range(count):
        subprocess.run(["/bin/true"], capture_output=True, check=True)
    return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkouts", nargs="*", type=Path, default=[Path(__file__).resolve().parent.parent])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=100, help="in one burst")
    parser.add_argument("--batches", action="store_true", help="several commands a poll and results in lists as well")
    parser.add_argument("--running", type=int, default=0, help="jobs that run all the time beside")
    options = parser.parse_args()
    machine = Machine()
    agents = [
        Agent(checkout.resolve(), machine, batches=batches)
        for checkout in options.checkouts
        for batches in (False, True)[: 1 + options.batches]
    ]
    found: dict[str, list[dict[str, float]]] = {agent.name: [] for agent in agents}
    try:
        for agent in agents:
            for _ in range(options.running):
                agent.push("sleep", "1000")
            agent.settle()
            burst(agent, machine, options.jobs)
        for _ in range(options.rounds):
            reference = bare(options.jobs)
            for agent in agents:
                figures = burst(agent, machine, options.jobs)
                found[agent.name].append({**figures, "x bare": figures["jobs/s"] / reference})
    finally:
        for agent in agents:
            agent.process.terminate()
        for agent in agents:
            agent.process.wait()
    for name, rounds in found.items():
        medians = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        print(f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in medians.items()))
    first = found[agents[0].name]
    for agent in agents[1:]:
        shares = {
            key: statistics.median(one[key] / other[key] for one, other in zip(found[agent.name], first, strict=True))
            for key in first[0]
        }
        print(f"{agent.name} / {agents[0].name}: " + ", ".join(f"{key} {share:.2f}" for key, share in shares.items()))


if __name__ == "__main__":
    main()
