"""A controller with a fleet of simulated agents: how late commands are, what they and the agents cost.

``python benchmarks/fleet.py [--agents N] [--rate R] [--seconds S] [--full S] [--state] [--tls] [--workers N]
[-- CONTROLLER OPTIONS]``. The agents (``fleet_agents.py``) live in processes of their own and keep their polls open;
this process posts commands for random ones over ``/api/jobs``. After the steady rate come as many commands as the
controller takes, a ``ping`` to all agents, and a restart of the controller. A fixed piece of work is timed meanwhile
(see ``jobs.py``): processor time is also told as it would be at the machine's full speed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import multiprocessing
import os
import random
import re
import resource
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fleet_agents
from fleet_agents import Loop, Pool, is_good, request
from jobs import Machine
from processes import cpu, memory, shared_memory, tree

ROOT = Path(__file__).resolve().parent.parent
RESERVED = 200
"""Descriptors for all but agents."""
POSTS = 256
"""Connections for posts."""
WARM_UP = 3
"""Seconds; the connections for posts and results are opened."""
AT_ONCE = 32
"""Posts under way where as many are wanted as the controller takes."""


class Controller:
    """A controller in a process of its own, which can be started again on the same port."""

    def __init__(self, options: list[str]) -> None:
        self._options = options
        self.port = 0
        self._start()

    def _start(self) -> None:
        words = [sys.executable, "-m", "greenagent.cli.controller", "--listen", f"127.0.0.1:{self.port}"]
        self._process = subprocess.Popen([*words, *self._options], stdout=subprocess.PIPE, cwd=ROOT)
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        ready = re.search(r"://[^ ]*:([0-9]+)", line)
        if ready is None:
            raise SystemExit(f"the controller did not start: {line!r}")
        self.port = int(ready[1])

    @property
    def cpu(self) -> float:
        return cpu(self._process.pid)

    def memory(self) -> str:
        several = len(tree(self._process.pid))
        if several == 1:
            return f"{memory(self._process.pid):.0f} MB resident"
        return f"{shared_memory(self._process.pid):.0f} MB in {several} processes (proportional set size)"

    def restart(self) -> float:
        """When it listened again (monotonic)."""
        self.stop()
        self._start()
        return time.monotonic()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


class Clients:
    """The processes with the agents."""

    def __init__(self, port: int, trusted: str | None, agents: int, processes: int) -> None:
        self._agents = agents
        self._pipes = []
        for number in range(processes):
            nids = range(1 + number * agents // processes, 1 + (number + 1) * agents // processes)
            ours, theirs = multiprocessing.Pipe()
            # Not forked: a child would keep the other pipes open, and live on.
            process = multiprocessing.get_context("spawn").Process(
                target=fleet_agents.run, args=(port, trusted, nids, theirs), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)

    def figures(self) -> dict[str, Any]:
        """What all have seen since the last call."""
        for pipe in self._pipes:
            pipe.send("figures")
        found = [pipe.recv() for pipe in self._pipes]
        return {
            **{key: sum(one[key] for one in found) for key in ("here", "lost", "refused", "results")},
            "last": max(one["last"] for one in found),
            "delays": sorted(delay for one in found for delay in one["delays"]),
            "ended": sum((one["ended"] for one in found), Counter[int]()),
        }

    def are_here(self) -> bool:
        return bool(self.figures()["here"] == self._agents)


class Driver:
    """Posts commands, and times the machine meanwhile."""

    def __init__(self, loop: Loop, agents: int, machine: Machine) -> None:
        self._loop = loop
        self._agents = agents
        self._machine = machine
        self._pool = Pool(loop, POSTS)
        self._posted = 0
        self.refused = 0

    def post(self, **command: Any) -> str:
        """The id of the command, which ends with the moment."""
        self._posted += 1
        command["id"] = f"fleet-{self._posted}-{time.monotonic():.6f}"
        self._pool.send(request("POST /api/jobs", json.dumps(command).encode()), self._answered)
        return str(command["id"])

    def _answered(self, head: bytes) -> None:
        self.refused += not is_good(head)

    def post_for_one(self) -> None:
        args = {"name": "/bin/true", "args": [], "max_time": 60, "loglevels": "*"}
        self.post(cmd="execute", gid=1, nid=random.randint(1, self._agents), args=args, data="")

    def steadily(self, rate: float, seconds: float) -> None:
        began, posted = time.monotonic(), 0
        while (passed := time.monotonic() - began) < seconds:
            while posted < passed * rate:
                self.post_for_one()
                posted += 1
            self.turn(max(0.0, (posted + 1) / rate - passed))

    def full(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            while self._pool.open < AT_ONCE:
                self.post_for_one()
            self.turn(0.01)

    def until(self, condition: Callable[[], bool], seconds: float = 120) -> bool:
        """Whether it came true within so many seconds."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            next_look = time.monotonic() + 0.05
            while time.monotonic() < next_look:
                self.turn(0.05)
        return True

    def is_idle(self) -> bool:
        return not self._pool.open

    def turn(self, longest: float) -> None:
        self._loop.turn(min(longest, 0.01))
        self._machine.look()


def ask(port: int, trusted: str | None, path: str) -> Any:
    """What the controller answers, as a value."""
    if trusted is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    else:
        context = ssl.create_default_context(cafile=trusted)
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=120, context=context)
    connection.request("GET", path)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def live(port: int, trusted: str | None) -> int:
    """Agents that are live, by the controller's own word."""
    return sum(1 for agent in ask(port, trusted, "/api/agents")["agents"] if agent["live"])


def certificate(folder: str) -> tuple[list[str], str]:
    """The controller's options for TLS with a new key on P-256, and the file that clients trust."""
    key, chain = f"{folder}/key.pem", f"{folder}/cert.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    words = ["openssl", "req", "-x509", *curve, *name, "-nodes", "-days", "2", "-keyout", key, "-out", chain]
    subprocess.run(words, check=True, capture_output=True)
    return ["--tls-cert", chain, "--tls-key", key], chain


def told(delays: list[float]) -> str:
    """Milliseconds of sorted seconds."""
    if not delays:
        return "nothing"
    shown = [delays[math.ceil(len(delays) * share) - 1] * 1000 for share in (0.5, 0.99, 1)]
    return "p50 {:.1f}, p99 {:.1f}, worst {:.1f} ms".format(*shown)


class Measurement:
    """One phase after the other, a line for each figure."""

    def __init__(self, controller: Controller, clients: Clients, driver: Driver, machine: Machine) -> None:
        self._controller = controller
        self._clients = clients
        self._driver = driver
        self._machine = machine

    def commands(self, title: str, phase: Callable[[], None]) -> None:
        """What many commands cost that ``phase`` posts."""
        self._clients.figures()
        self._machine.slowness()
        used, began = self._controller.cpu, time.monotonic()
        phase()
        seconds, used = time.monotonic() - began, self._controller.cpu - used
        slowness = self._machine.slowness()
        found = self._clients.figures()
        count = max(1, len(found["delays"]))
        print(f"{title}: {count / seconds:.0f} commands/s, delivered after {told(found['delays'])}")
        each = used / count * 1000
        print(
            f"  controller: {used / seconds * 100:.0f} % of a core, {each:.2f} ms a command, {each / slowness:.2f} ms"
            f" at the machine's full speed; {self._controller.memory()}"
        )
        ended, most = sum(found["ended"].values()), max(found["ended"].values(), default=0)
        print(
            f"  polls ended and repeated: {ended}, {ended / seconds:.0f}/s on average, {most} in the busiest second;"
            f" connections lost: {found['lost']}, requests refused: {found['refused'] + self._driver.refused}"
        )
        load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
        print(f"  machine: {slowness:.2f} times its best time for a fixed piece of work; load {load}", flush=True)
        self.settle()

    def settle(self) -> None:
        """Until what was posted is over."""
        self._driver.until(lambda: self._driver.is_idle() and self._clients.figures()["results"] == 0)

    def ping(self, agents: int, answer: Callable[[str], Any]) -> None:
        began, used = time.monotonic(), self._controller.cpu
        job = self._driver.post(cmd="ping", roles=["*"], fanout=True, args={}, data="")
        self._driver.until(self._driver.is_idle)
        found = answer(f"/api/jobs/{job}?wait=120")
        came = sum(1 for one in found["results"] if one["state"] == "SUCCESS")
        passed, used = time.monotonic() - began, self._controller.cpu - used
        print(f"ping: {came} of {agents} agents' answers are there after {passed:.2f} s, {used:.2f} s CPU", flush=True)

    def restart(self, agents: int, are_live: Callable[[], int]) -> None:
        down = time.monotonic()
        listens = self._controller.restart()
        came = self._driver.until(self._clients.are_here) and are_live() == agents
        passed, used = time.monotonic() - listens, self._controller.cpu
        print(
            f"restart: {'all agents are' if came else 'NOT all agents came'} back {passed:.1f} s after the controller"
            f" listened again, which took {listens - down:.1f} s; {used:.1f} s CPU, {self._controller.memory()}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    add = parser.add_argument
    add("--agents", type=int, default=1000)
    add("--rate", type=float, default=200, help="commands a second")
    add("--seconds", type=float, default=90, help="at that rate; polls end and are repeated within 50")
    add("--full", type=float, default=10, help="seconds with as many commands as the controller takes; 0: none")
    add("--clients", type=int, default=2, help="processes with agents")
    add("--state", action="store_true", help="the controller keeps a state file")
    add("--tls", action="store_true", help="with a certificate on P-256")
    add("--workers", type=int, help="passed on to the controller")
    add("controller", nargs="*", help="further options of the controller, after --")
    options = parser.parse_args()
    machine = Machine()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < options.agents + RESERVED:
        raise SystemExit(f"the limit of open files is {hard}: too low for {options.agents} agents")
    wanted = options.agents + RESERVED + POSTS if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    with tempfile.TemporaryDirectory(prefix="greenagent-benchmark-") as folder:
        words, trusted = certificate(folder) if options.tls else ([], None)
        words += ["--state", f"{folder}/controller.db"] if options.state else []
        words += ["--workers", str(options.workers)] if options.workers else []
        controller = Controller([*words, *options.controller])
        try:
            measure(options, controller, trusted, machine)
        finally:
            controller.stop()


def measure(options: argparse.Namespace, controller: Controller, trusted: str | None, machine: Machine) -> None:
    agents = options.agents
    print(f"{agents} agents; without them: {controller.memory()}", flush=True)
    driver = Driver(Loop(controller.port, trusted), agents, machine)
    began = time.monotonic()
    clients = Clients(controller.port, trusted, agents, options.clients)
    if not driver.until(clients.are_here) or live(controller.port, trusted) != agents:
        raise SystemExit("not all agents came")
    print(f"all there after {time.monotonic() - began:.1f} s: {controller.cpu:.1f} s CPU, {controller.memory()}")
    measurement = Measurement(controller, clients, driver, machine)
    driver.steadily(options.rate, WARM_UP)
    measurement.settle()
    measurement.commands(
        f"{options.rate:g}/s for {options.seconds:g} s", lambda: driver.steadily(options.rate, options.seconds)
    )
    if options.full:
        measurement.commands("as many as it takes", lambda: driver.full(options.full))
    measurement.ping(agents, lambda path: ask(controller.port, trusted, path))
    measurement.restart(agents, lambda: live(controller.port, trusted))


if __name__ == "__main__":
    main()
