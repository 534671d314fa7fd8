"""Simulated agents for ``fleet.py``: raw sockets without blocking, one epoll for all of a process.

An agent says that it starts, polls with the headers of ours, acknowledges with its next poll, and posts a result for
each command at once. A connection that is lost is opened again after a pause like that of a real agent.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import random
import select
import signal
import socket
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection as Pipe
from typing import Any

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
"""Seconds, as those of ``greenagent.uplink``: drawn between nothing and that, twice as long each time."""
RESULT_CONNECTIONS = 32
"""Of one process; an agent of its own each would need two descriptors for each agent at the controller."""


class Loop:
    """Watches connections and calls functions in time."""

    def __init__(self, port: int, trusted: str | None = None) -> None:
        """``trusted``: TLS, with the certificates in this file."""
        self.address = ("127.0.0.1", port)
        self.context = ssl.create_default_context(cafile=trusted) if trusted else None
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def watch(self, descriptor: int, handler: Callable[[], None], events: int = select.EPOLLIN) -> None:
        self._handlers[descriptor] = handler
        self._epoll.register(descriptor, events)

    def watch_input(self, descriptor: int) -> None:
        self._epoll.modify(descriptor, select.EPOLLIN)

    def forget(self, descriptor: int) -> None:
        """Before it is closed."""
        del self._handlers[descriptor]
        self._epoll.unregister(descriptor)

    def call_later(self, pause: float, function: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + pause, next(self._numbers), function))

    def turn(self, longest: float) -> None:
        """Does what there is to do, and waits so many seconds for it."""
        if self._due:
            longest = min(longest, max(0.0, self._due[0][0] - time.monotonic()))
        for descriptor, _ in self._epoll.poll(longest):
            if handler := self._handlers.get(descriptor):  # not closed by one of the others
                handler()
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()


class Connection:
    """One request after the other; a request that is not answered is sent again over a new connection."""

    __slots__ = ("_failures", "_is_connected", "_is_open", "_loop", "_received", "_stream", "request")

    def __init__(self, loop: Loop) -> None:
        self.request = b""
        """What is not answered yet."""
        self._loop = loop
        self._stream: Any = None
        self._is_connected = self._is_open = False
        self._received = b""
        self._failures = 0

    def answered(self, head: bytes, body: bytes) -> None:
        raise NotImplementedError

    def lost(self) -> None:
        """Called before ``request`` is sent once more."""

    def send(self, request: bytes) -> None:
        self.request = request
        if self._stream is None:
            self._connect()
        elif self._is_open:
            self._stream.sendall(request)

    def _connect(self) -> None:
        if self._stream is not None:
            return
        self._stream = socket.socket()
        self._stream.setblocking(False)
        self._stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream.connect_ex(self._loop.address)
        self._loop.watch(self._stream.fileno(), self._look, select.EPOLLOUT)

    def _look(self) -> None:
        try:
            if self._is_open:
                self._receive()
            else:
                self._open()
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        except OSError:
            self._close()
            self.lost()
            if self.request:
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**self._failures)
                self._failures += 1
                self._loop.call_later(random.uniform(0, pause), self._connect)

    def _open(self) -> None:
        if not self._is_connected:
            if error := self._stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, os.strerror(error))
            self._is_connected = True
            self._loop.watch_input(self._stream.fileno())
            if self._loop.context is not None:
                self._stream = self._loop.context.wrap_socket(
                    self._stream, server_hostname=self._loop.address[0], do_handshake_on_connect=False
                )  # has taken the descriptor
        if self._loop.context is not None:
            self._stream.do_handshake()
        self._is_open = True
        if self.request:
            self._stream.sendall(self.request)

    def _receive(self) -> None:
        data = self._stream.recv(1 << 16)
        if not data:
            raise ConnectionResetError
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank or len(body) < int(header(head, b"content-length") or 0):
            return
        self._received = self.request = b""
        self._failures = 0
        if header(head, b"connection").lower() == b"close":
            self._close()
        self.answered(head, body)

    def _close(self) -> None:
        self._loop.forget(self._stream.fileno())
        self._stream.close()
        self._stream = None
        self._is_connected = self._is_open = False
        self._received = b""


class Pool:
    """Requests whose order does not matter, over as many connections as they need, up to a number."""

    def __init__(self, loop: Loop, most: int) -> None:
        self.open = 0
        """Requests not answered yet."""
        self._loop = loop
        self._left = most
        self._idle: list[_OfPool] = []
        self._waiting: deque[tuple[bytes, Callable[[bytes], None]]] = deque()

    def send(self, request: bytes, answered: Callable[[bytes], None]) -> None:
        """``answered`` is called with the head of the answer."""
        self.open += 1
        self._waiting.append((request, answered))
        if not self._idle and self._left:
            self._left -= 1
            self._idle.append(_OfPool(self._loop, self))
        if self._idle:
            self._idle.pop().next(*self._waiting.popleft())

    def done(self, connection: _OfPool) -> None:
        self.open -= 1
        if self._waiting:
            connection.next(*self._waiting.popleft())
        else:
            self._idle.append(connection)


class _OfPool(Connection):
    __slots__ = ("_answered", "_pool")

    def __init__(self, loop: Loop, pool: Pool) -> None:
        super().__init__(loop)
        self._pool = pool

    def next(self, request: bytes, answered: Callable[[bytes], None]) -> None:
        self._answered = answered
        self.send(request)

    def answered(self, head: bytes, body: bytes) -> None:
        self._answered(head)
        self._pool.done(self)


class Fleet:
    """The agents of one process, and what they have seen since they were asked last."""

    def __init__(self, loop: Loop, nids: range) -> None:
        self._loop = loop
        self.here = 0
        """Agents that poll."""
        self._results = Pool(loop, RESULT_CONNECTIONS)
        self._begin()
        for nid in nids:
            agent = Agent(loop, self, nid)
            loop.call_later(random.uniform(0, len(nids) / 1000), agent.start)

    def _begin(self) -> None:
        self.delays: list[float] = []
        """Seconds from the post of each command until its agent had it."""
        self.ended: Counter[int] = Counter()
        """Polls that ended without a command, by the second."""
        self.lost = self.refused = self._taken_results = 0
        self._last = 0.0

    def figures(self) -> dict[str, Any]:
        """All until now; a new beginning."""
        found = {
            "here": self.here,
            "delays": self.delays,
            "ended": self.ended,
            "lost": self.lost,
            "refused": self.refused,
            "results": self._taken_results,
            "last": self._last,
        }
        self._begin()
        return found

    def post(self, nid: int, results: list[dict[str, Any]]) -> None:
        """Several go as a list: a controller that gives several commands at once takes that."""
        path, body = ("results", json.dumps(results)) if results[1:] else ("result", json.dumps(results[0]))
        self._results.send(request(f"POST /1/{nid}/{path}", body.encode()), partial(self._taken, len(results)))

    def _taken(self, count: int, head: bytes) -> None:
        self._last = time.monotonic()
        if is_good(head):
            self._taken_results += count
        else:
            self.refused += 1


class Agent(Connection):
    """One agent: its poll."""

    __slots__ = ("_event", "_fleet", "_is_here", "_nid", "_token")

    def __init__(self, loop: Loop, fleet: Fleet, nid: int) -> None:
        super().__init__(loop)
        self._fleet = fleet
        self._nid = nid
        self._token = ""
        self._is_here = False
        self._event = request(f"POST /1/{nid}/event", b'{"name": "startup"}')

    def start(self) -> None:
        self.send(self._event)

    def lost(self) -> None:
        self._fleet.lost += 1
        self._fleet.here -= self._is_here
        self._is_here = False
        self.request = self._event

    def answered(self, head: bytes, body: bytes) -> None:
        now = time.monotonic()
        if not is_good(head):
            self._fleet.refused += 1
            self._loop.call_later(FIRST_PAUSE, self._poll)
            return
        commands = body.split(b"\n") if body and self._is_here else []
        if commands:
            self._token = header(head, b"greenagent-delivery").decode()
        elif self._is_here:
            self._fleet.ended[int(now)] += 1
        self._fleet.here += not self._is_here
        self._is_here = True
        self._poll()
        if commands:
            self._fleet.post(self._nid, [self._work(json.loads(text), now) for text in commands])

    def _poll(self) -> None:
        headers = (
            f"Greenagent-Acknowledge: {self._token}\r\nGreenagent-Free-Slots: 100\r\nGreenagent-Commands: 100\r\n"
            "User-Agent: greenagent/0\r\nAccept-Encoding: gzip, deflate\r\nAccept: */*\r\n"
        )
        self.send(request(f"GET /1/{self._nid}/cmd?role=simulated", headers=headers))

    def _work(self, command: dict[str, Any], now: float) -> dict[str, Any]:
        """The result of a command, whose id ends with the moment it was posted."""
        self._fleet.delays.append(now - float(command["id"].rpartition("-")[2]))
        result = {key: command[key] for key in ("id", "cmd", "args")}
        result |= {"gid": 1, "nid": self._nid, "state": "SUCCESS", "level": 0, "data": "", "streams": ["", ""]}
        return result | {"starttime": int(time.time() * 1000), "time": 1, "exit_code": 0, "critical": "", "tags": ""}


def request(what: str, body: bytes = b"", headers: str = "") -> bytes:
    """A request for JSON; ``headers`` end with an end of line each."""
    length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    return f"{what} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}{length}\r\n".encode() + body


def is_good(head: bytes) -> bool:
    return head.startswith(b"HTTP/1.1 2")


def header(head: bytes, name: bytes) -> bytes:
    """A header's value; ``name`` in small letters."""
    place = head.lower().find(b"\r\n" + name + b":")
    return b"" if place < 0 else head[place + len(name) + 3 :].partition(b"\r\n")[0].strip()


def run(port: int, trusted: str | None, nids: range, pipe: Pipe) -> None:
    """A process of agents: gives its figures whenever it is asked, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loop = Loop(port, trusted)
    fleet = Fleet(loop, nids)
    goes_on = True

    def asked() -> None:
        nonlocal goes_on
        try:
            pipe.recv()
            pipe.send(fleet.figures())
        except (EOFError, OSError):
            goes_on = False

    loop.watch(pipe.fileno(), asked)
    while goes_on:
        loop.turn(60)
