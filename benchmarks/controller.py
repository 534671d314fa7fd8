"""The embedded controller with thousands of parked polls: its memory, and how fast one and all are woken.

``python benchmarks/controller.py [--polls 5000] [--wakes 300]``. The controller is a process of its
own, the polls are plain sockets of this one, so that its figures are the controller's alone.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import resource
import select
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

REQUEST = (
    "GET /1/{nid}/cmd?role=bench HTTP/1.1\r\nHost: 127.0.0.1\r\nGreenagent-Free-Slots: 10\r\n"
    "Greenagent-Acknowledge: {token}\r\nUser-Agent: greenagent/0\r\n"
    "Accept-Encoding: gzip, deflate\r\nAccept: */*\r\n\r\n"
)


class Polls:
    """Parked polls by node id."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._poller = select.epoll()
        self._nodes: dict[int, int] = {}
        self._connections: dict[int, socket.socket] = {}
        self._tokens: dict[int, str] = {}
        self._partial: dict[int, str] = {}

    def open(self, nid: int) -> None:
        connection = socket.create_connection(("127.0.0.1", self._port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections[nid] = connection
        self._nodes[connection.fileno()] = nid
        self._poller.register(connection, select.EPOLLIN)
        self.again(nid)

    def again(self, nid: int) -> None:
        self._connections[nid].sendall(REQUEST.format(nid=nid, token=self._tokens.get(nid, "")).encode())

    def answered(self, timeout: float) -> list[int]:
        """The nodes whose polls brought a command."""
        found = []
        for descriptor, _ in self._poller.poll(timeout):
            nid = self._nodes[descriptor]
            received = self._partial.pop(nid, "") + self._connections[nid].recv(65536).decode()
            if not _is_whole(received):
                self._partial[nid] = received
            elif '"cmd"' in received:
                found.append(nid)
                for line in received.split("\r\n"):
                    if line.lower().startswith("greenagent-delivery:"):
                        self._tokens[nid] = line.partition(":")[2].strip()
            else:
                self.again(nid)
        return found


def _is_whole(received: str) -> bool:
    """Whether an answer has come with its whole body (of ASCII)."""
    head, blank, body = received.partition("\r\n\r\n")
    for line in head.lower().split("\r\n"):
        if line.startswith("content-length:"):
            return bool(blank) and len(body) >= int(line.partition(":")[2])
    return False


def post(port: int, command: dict[str, object]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/api/jobs", json.dumps(command), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    if answer.status != 202:
        raise SystemExit(f"the controller refused a job: {answer.status} {body!r}")


def live(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/api/agents")
    agents = json.loads(connection.getresponse().read())["agents"]
    connection.close()
    return sum(1 for agent in agents if agent["live"])


def memory(pid: int) -> float:
    """Resident memory in MB (1e6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--polls", type=int, default=5000)
    parser.add_argument("--wakes", type=int, default=300)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < options.polls + 100:
        raise SystemExit(f"the limit of open files is {hard}: too low for {options.polls} polls")
    resource.setrlimit(resource.RLIMIT_NOFILE, (options.polls + 200 if hard == resource.RLIM_INFINITY else hard, hard))
    process = subprocess.Popen(
        [sys.executable, "-m", "greenagent.cli.controller", "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline().decode().rpartition(":")[2])
        measure(process.pid, port, options.polls, options.wakes)
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(30)


def measure(pid: int, port: int, count: int, wakes: int) -> None:
    print(f"memory before:          {memory(pid):8.1f} MB")
    polls = Polls(port)
    for nid in range(1, count + 1):
        polls.open(nid)
    while live(port) < count:
        time.sleep(0.2)
    print(f"memory, {count} polls:     {memory(pid):6.1f} MB (target under 150)")
    delays = []
    for number in range(wakes):
        nid = 1 + (number * 7919) % count
        began = time.perf_counter()
        post(port, {"cmd": "execute", "gid": 1, "nid": nid, "args": {"name": "true"}})
        while nid not in polls.answered(5):
            pass
        delays.append((time.perf_counter() - began) * 1000)
        polls.again(nid)
        time.sleep(0.005)
    delays.sort()
    print(f"one wake, post included: p50 {statistics.median(delays):6.1f} ms", end="")
    print(f", p99 {delays[int(len(delays) * 0.99)]:6.1f} ms (target under 15), max {delays[-1]:6.1f} ms")
    began = time.perf_counter()
    post(port, {"cmd": "execute", "roles": ["bench"], "fanout": True, "args": {"name": "true"}})
    left = count
    while left:
        left -= len(polls.answered(10))
    print(f"all woken by one fanout:  {time.perf_counter() - began:7.2f} s")
    print(f"memory afterwards:       {memory(pid):7.1f} MB")


if __name__ == "__main__":
    main()
