"""A controller for tests: speaks protocol 1.2 over real HTTP, records everything, misbehaves on command."""

from __future__ import annotations

import json
import select
import socket
import ssl
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs

import gevent
from gevent import monkey
from gevent.event import Event
from gevent.pywsgi import WSGIHandler, WSGIServer

from tests.support.ports import reserve_port
from tests.support.waiting import wait_until

ENDPOINTS = ("cmd", "event", "result", "results", "log", "open_text", "stats", "script")
_native_poll = monkey.get_original("select", "poll")


@dataclass
class Poll:
    """One GET ``cmd``. ``answered`` is None while it is parked."""

    gid: int
    nid: int
    roles: list[str]
    headers: dict[str, str]
    at: float = field(default_factory=time.monotonic)
    answered: float | None = None
    peer: str = ""
    """Serial number of the client certificate, if there was one."""


@dataclass
class Post:
    """One POST: its body as it came and the status it was answered with (0: none)."""

    endpoint: str
    gid: int
    nid: int
    body: bytes
    headers: dict[str, str]
    status: int = 200
    at: float = field(default_factory=time.monotonic)

    @cached_property
    def value(self) -> Any:
        return json.loads(self.body)


@dataclass
class Behaviour:
    """What an endpoint does instead of its work. ``matches`` (by body) limits it to some requests."""

    answer: Callable[[_Handler], tuple[int, dict[str, str], bytes] | None]
    matches: Callable[[bytes], bool] = lambda body: True
    times: int | None = None


def status(code: int, headers: dict[str, str] | None = None, body: bytes = b'"no"') -> Behaviour:
    """Answers with a status."""
    return Behaviour(lambda handler: (code, headers or {}, body))


def redirect(to: str, code: int = 302) -> Behaviour:
    return status(code, {"Location": to}, b"")


def hang(seconds: float = 3600) -> Behaviour:
    """Takes the request and says nothing."""

    def answer(handler: _Handler) -> None:
        _wait_gone(handler, seconds)

    return Behaviour(answer)


def accept_after(seconds: float) -> Behaviour:
    """Accepts after a while, as a controller at the end of a long line."""

    def answer(handler: _Handler) -> tuple[int, dict[str, str], bytes]:
        gevent.sleep(seconds)
        return 200, {}, b'"ok"'

    return Behaviour(answer)


def close_at_once() -> Behaviour:
    """Closes without a byte of an answer."""
    return Behaviour(lambda handler: None)


def raw(*pieces: bytes, pause: float = 0.0) -> Behaviour:
    """Writes bytes as they are, not necessarily HTTP, then closes."""

    def answer(handler: _Handler) -> None:
        for piece in pieces:
            handler.socket.sendall(piece)
            if pause:
                gevent.sleep(pause)

    return Behaviour(answer)


def close_half_way() -> Behaviour:
    """Promises 1000 bytes and closes after a few."""
    return raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")


def rubbish() -> Behaviour:
    return raw(b"\x00\xffthis is no HTTP at all\r\n\r\n")


def huge(size: int) -> Behaviour:
    """An answer of ``size`` blanks, sent piece by piece."""

    def answer(handler: _Handler) -> None:
        handler.socket.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        try:
            for _ in range(0, size, 65536):
                handler.socket.sendall(b" " * 65536)
        except OSError:
            pass  # the other side had enough

    return Behaviour(answer)


def dribble(pause: float = 0.05, head: bool = False) -> Behaviour:
    """An answer that never ends: a byte now and then, of the body or already of the head."""

    def answer(handler: _Handler) -> None:
        handler.socket.sendall(b"HTTP/1.1 200 OK\r\n" + (b"" if head else b"Content-Length: 100000\r\n\r\n"))
        try:
            while True:
                handler.socket.sendall(b"x")
                gevent.sleep(pause)
        except OSError:
            pass  # cut off, as it should be

    return Behaviour(answer)


class RecordingController:
    """Records polls, events, results, logs and statistics; hands out what is pushed.

    ``with RecordingController() as controller:`` or start/stop. ``park``: seconds a poll is held.
    ``hand_over``: offers commands again until the agent acknowledges them, as the embedded
    controller does; without it a command is handed out once, as by the originals.
    """

    def __init__(
        self, *, park: float = 20.0, hand_over: bool = False, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.park = park
        self.hand_over = hand_over
        self.polls: list[Poll] = []
        self.posts: list[Post] = []
        self.refused_posts: list[Post] = []
        self.slow_down = 0.0
        """Seconds to wait after each 64 KiB of a body."""
        self.refuse_above: int | None = None
        """Bodies of more bytes are answered 413, as by a front server."""
        self.connections = 0
        self.at_once = self.most_at_once = 0
        """Posts that are being answered, now and at the most."""
        self.errors: list[str] = []
        """What went wrong inside this controller itself: a mistake of the test."""
        self._tls = tls
        self._host = host
        self._port = 0
        self._server: _Server | None = None
        self.scripts: dict[str, bytes] = {}
        """What GET ``script`` answers, by hash; any other hash is answered 404."""
        self.script_requests: list[str] = []
        self._queues: dict[tuple[int, int] | None, deque[bytes]] = defaultdict(deque)
        self._offered: dict[tuple[int, int], tuple[str, bytes]] = {}
        self._handed_out: set[tuple[int, int]] = set()
        """Agents that have not polled since they got a command: they may not have dealt with it."""
        self._tokens = 0
        self._pushed = Event()
        self._behaviours: dict[str, list[Behaviour]] = defaultdict(list)

    def __enter__(self) -> RecordingController:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self._host}:{self._port}"

    @property
    def port(self) -> int:
        return self._port

    @property
    def open_connections(self) -> int:
        return len(self._server.open_sockets) if self._server else 0

    def start(self) -> None:
        """Listens, on the same port again after a ``stop``."""
        self._port = self._port or reserve_port(self._host)
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self._host, self._port))
        listener.listen(1024)
        arguments = {"ssl_context": self._tls} if self._tls else {}
        self._server = _Server(
            listener, self._application, handler_class=_Handler, log=None, error_log=None, **arguments
        )
        self._server.controller = self
        self._server.start()

    def stop(self) -> None:
        """Refuses connections from now on and cuts those there are."""
        server, self._server = self._server, None
        if server is not None:
            server.cut()
            server.stop(timeout=0)

    def push(self, command: dict[str, Any] | bytes, gid: int | None = None, nid: int | None = None) -> None:
        """Hands a command (or bytes as they are) to the next poll of ``gid``/``nid``, or of anybody."""
        key = None if gid is None or nid is None else (gid, nid)
        self._queues[key].append(command if isinstance(command, bytes) else json.dumps(command).encode())
        self._pushed.set()
        self._pushed.clear()

    @property
    def waiting_commands(self) -> int:
        """Commands that no agent has taken: it polls again once it has."""
        return sum(map(len, self._queues.values())) + len(self._offered) + len(self._handed_out)

    def misbehave(self, endpoint: str, behaviour: Behaviour, times: int | None = None) -> None:
        """From now on (for ``times`` requests) ``endpoint`` (or ``*``) behaves so; earlier orders go first."""
        self._behaviours[endpoint].append(Behaviour(behaviour.answer, behaviour.matches, times))

    def reject(self, text: str, code: int, endpoint: str = "*") -> None:
        """Answers every body that contains ``text`` with a status."""
        self._behaviours[endpoint].append(
            Behaviour(status(code).answer, lambda body: text.encode() in body),
        )

    def reject_larger(self, size: int, endpoint: str = "*") -> None:
        """Answers 413 to every body of more than ``size`` bytes, as a proxy in front of a controller does."""
        self._behaviours[endpoint].append(Behaviour(status(413).answer, lambda body: len(body) > size))

    def behave(self, endpoint: str | None = None) -> None:
        """Takes back what ``misbehave`` and ``reject`` ordered, for one endpoint or all."""
        if endpoint is None:
            self._behaviours.clear()
        else:
            self._behaviours.pop(endpoint, None)

    def _values(self, endpoint: str) -> list[Any]:
        return [post.value for post in self.posts if post.endpoint == endpoint]

    @property
    def results(self) -> list[dict[str, Any]]:
        """Accepted results, in order of arrival."""
        return self._values("result")

    @property
    def events(self) -> list[dict[str, Any]]:
        return self._values("event")

    @property
    def log_batches(self) -> list[list[dict[str, Any]]]:
        return self._values("log")

    @property
    def logs(self) -> list[dict[str, Any]]:
        """Accepted log records, all batches in one list."""
        return [record for batch in self.log_batches for record in batch]

    @property
    def stats(self) -> list[dict[str, Any]]:
        """Accepted statistics objects, all batches in one list."""
        return [statistics for batch in self._values("stats") for statistics in batch]

    def results_of(self, command_id: str) -> list[dict[str, Any]]:
        return [result for result in self.results if result.get("id") == command_id]

    def wait_for_result(self, command_id: str, timeout: float = 15) -> dict[str, Any]:
        """The first result of a command; fails the test when it does not come."""
        return wait_until(lambda: self.results_of(command_id), timeout, f"the result of {command_id}")[0]

    def wait_for_poll(self, count: int = 1, timeout: float = 15) -> Poll:
        """The ``count``-th poll."""
        wait_until(lambda: len(self.polls) >= count, timeout, f"{count} polls")
        return self.polls[count - 1]

    def _application(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        handler: _Handler = environ["greenagent.handler"]
        parts = environ["PATH_INFO"].strip("/").split("/")
        if len(parts) < 3 or parts[-1] not in ENDPOINTS:
            return _answer(start_response, 404, {}, b"no such endpoint")
        gid, nid, endpoint = int(parts[-3]), int(parts[-2]), parts[-1]
        headers = {key[5:].replace("_", "-").title(): value for key, value in environ.items() if key[:5] == "HTTP_"}
        body = self._read_body(environ["wsgi.input"])
        poll = post = None
        if endpoint == "script":
            digest = parse_qs(environ["QUERY_STRING"]).get("hash", [""])[0]
            self.script_requests.append(digest)
            if digest not in self.scripts:
                return _answer(start_response, 404, {}, f"no script {digest}".encode())
            return _answer(start_response, 200, {}, self.scripts[digest])
        if endpoint == "cmd":
            poll = Poll(gid, nid, parse_qs(environ["QUERY_STRING"]).get("role", []), headers)
            poll.peer = handler.peer_serial()
            self.polls.append(poll)
        else:
            post = Post(endpoint, gid, nid, body, headers)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return self._answered(handler, start_response, poll, post)
        finally:
            if post is not None:
                self.at_once -= 1

    def _answered(
        self, handler: _Handler, start_response: Callable[..., Any], poll: Poll | None, post: Post | None
    ) -> Iterable[bytes]:
        body = b"" if post is None else post.body
        behaviour = self._behaviour("cmd" if post is None else post.endpoint, body)
        if self.refuse_above is not None and len(body) > self.refuse_above:
            behaviour = status(413)
        if behaviour is not None:
            if post is not None:
                post.status = 0
                self.refused_posts.append(post)
            reply = behaviour.answer(handler)
            if reply is None:
                handler.hang_up()
                return []
            if post is not None:
                post.status = reply[0]
                if 200 <= post.status < 300:
                    self.refused_posts.remove(post)
                    self.posts.append(post)
            return _answer(start_response, *reply)
        if post is not None:
            post.status, reply_body = self._judge(post)
            (self.posts if post.status < 300 else self.refused_posts).append(post)
            return _answer(start_response, post.status, {}, reply_body)
        assert poll is not None
        command, more = self._next_command(handler, poll)
        poll.answered = time.monotonic()
        if self.hand_over:
            more = {**more, "Greenagent-Open-Text": "1"}
        return _answer(start_response, 200, more, command)

    def _judge(self, post: Post) -> tuple[int, bytes]:
        """What a post is answered."""
        try:
            json.loads(post.body)
        except ValueError:
            return 500, b'"json error"'
        return 200, b'"ok"'

    def _read_body(self, source: Any) -> bytes:
        pieces = []
        while piece := source.read(65536):
            pieces.append(piece)
            if self.slow_down:
                gevent.sleep(self.slow_down)
        return b"".join(pieces)

    def _behaviour(self, endpoint: str, body: bytes) -> Behaviour | None:
        for name in (endpoint, "*"):
            for behaviour in list(self._behaviours.get(name, ())):
                if not behaviour.matches(body):
                    continue
                if behaviour.times is not None:
                    if behaviour.times <= 0:
                        continue
                    behaviour.times -= 1
                return behaviour
        return None

    def _next_command(self, handler: _Handler, poll: Poll) -> tuple[bytes, dict[str, str]]:
        agent = (poll.gid, poll.nid)
        self._handed_out.discard(agent)
        acknowledged = poll.headers.get("Greenagent-Acknowledge")
        offered = self._offered.get(agent)
        if offered is not None and acknowledged == offered[0]:
            del self._offered[agent]
            offered = None
        if offered is not None:
            return offered[1], {"Greenagent-Delivery": offered[0]}
        deadline = time.monotonic() + self.park
        while True:
            for key in (agent, None):
                if self._queues[key] and not handler.is_gone():
                    command = self._queues[key].popleft()
                    if not self.hand_over or acknowledged is None:
                        self._handed_out.add(agent)
                        return command, {}
                    self._tokens += 1
                    self._offered[agent] = (f"token-{self._tokens}", command)
                    return command, {"Greenagent-Delivery": f"token-{self._tokens}"}
            left = deadline - time.monotonic()
            if left <= 0 or handler.is_gone():
                return b"", {}
            self._pushed.wait(min(left, 0.25))


class _Server(WSGIServer):
    """Counts connections and can cut them all."""

    controller: RecordingController

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.open_sockets: set[Any] = set()

    def handle(self, sock: Any, address: Any) -> None:
        self.controller.connections += 1
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.open_sockets.add(sock)
        try:
            super().handle(sock, address)
        finally:
            self.open_sockets.discard(sock)

    def wrap_socket_and_handle(self, client_socket: Any, address: Any) -> Any:
        try:
            return super().wrap_socket_and_handle(client_socket, address)
        except (OSError, ssl.SSLError):
            client_socket.close()  # a handshake that failed is the client's affair here
            return None

    def cut(self) -> None:
        for sock in list(self.open_sockets):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class _Handler(WSGIHandler):
    """Gives the application its socket, for answers that are no WSGI."""

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        environ["greenagent.handler"] = self
        return environ

    def hang_up(self) -> None:
        """Closes without an answer by WSGI."""
        self.close_connection = True
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def peer_serial(self) -> str:
        certificate = self.socket.getpeercert() if isinstance(self.socket, ssl.SSLSocket) else None
        return str(certificate.get("serialNumber", "")) if certificate else ""

    def is_gone(self) -> bool:
        """True when the client has closed its side."""
        descriptor = self.socket.fileno()
        if descriptor < 0:
            return True
        poll = _native_poll()
        poll.register(descriptor, select.POLLRDHUP | select.POLLHUP)
        return bool(poll.poll(0))

    def handle_error(self, kind: Any, error: Any, trace: Any) -> None:
        self.close_connection = True
        if not isinstance(error, OSError):
            self.server.controller.errors.append(repr(error))

    def log_error(self, message: str, *args: Any) -> None:
        pass

    def log_request(self) -> None:
        pass


def _wait_gone(handler: _Handler, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not handler.is_gone():
        gevent.sleep(0.02)


def _answer(start_response: Callable[..., Any], code: int, headers: dict[str, str], body: bytes) -> Iterable[bytes]:
    start_response(
        f"{code} {'OK' if code == 200 else 'Status'}",
        [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers.items()],
    )
    return [body]
