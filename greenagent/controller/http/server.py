"""The HTTP server: gevent.pywsgi, tamed."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import gevent
from gevent import GreenletExit
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer

from greenagent.controller.http.bodies import RETRY_AFTER
from greenagent.controller.http.connections import ASKING, HEAD, Connection, Connections
from greenagent.controller.http.tls import close_gently, describe_refusal
from greenagent.controller.limits import Limits
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.tls_watch import TlsContext

MAX_HEAD: Final = 64 * 1024
"""Bytes of the headers of a request."""

READS_WITHOUT_PAUSE: Final = 10_000
"""Of a body in chunks: some milliseconds."""

_SLASH = re.compile("%2f", re.IGNORECASE)
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*\r?\n")
_ONLY_ONCE: Final = (b"content-length", b"transfer-encoding", b"host")


class _Head:
    """The headers of a request as they are read, refused where readers differ about what they mean."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._left = MAX_HEAD
        self._lines = 0
        self._found: dict[bytes, bytes] = {}

    @property
    def cost(self) -> int:
        """Bytes that what was read takes in memory, as it came and as the application reads it (measured)."""
        return 2 * (MAX_HEAD - self._left) + 200 * self._lines

    def readline(self, limit: int) -> bytes:
        """The next line. Raises ValueError for one that is no header, or odd where it decides about the body."""
        line: bytes = self._stream.readline(min(limit, self._left + 1))
        self._left -= len(line)
        self._lines += 1
        if self._left < 0:
            raise ValueError(f"the headers are longer than {MAX_HEAD} bytes")
        if line in (b"\r\n", b"\n", b""):
            return line
        header = _HEADER.fullmatch(line)
        if header is None:
            raise ValueError("a line of the headers is no header")
        name, value = header[1].lower(), header[2]
        if name in _ONLY_ONCE:
            if name in self._found:
                raise ValueError(f"{name.decode()} is there twice")
            self._found[name] = value
            if name == b"content-length" and not value.isdigit():
                raise ValueError("content-length must be a number")
            if name == b"transfer-encoding" and value.lower() != b"chunked":
                raise ValueError("only the transfer-encoding chunked is known")
            if b"content-length" in self._found and b"transfer-encoding" in self._found:
                raise ValueError("content-length and transfer-encoding exclude each other")
        return line


class _Chunks:
    """A body in chunks as it is read: byte by byte, which must not keep the hub."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._reads = 0

    def read(self, size: int) -> bytes:
        self._reads += 1
        if self._reads % READS_WITHOUT_PAUSE == 0:
            gevent.sleep(0)
        data: bytes = self._stream.read(size)
        return data


def _refuse_head(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("503 Service Unavailable", [("Content-Type", "application/json"), ("Retry-After", str(RETRY_AFTER))])
    return [b'"too many requests with large heads are open at once: try again later"']


class Handler(WSGIHandler):  # type: ignore[misc]
    """One connection. Gives the application its descriptor and tells it when an answer was not written."""

    def __init__(self, client: Any, address: Any, server: Any, connection: Connection) -> None:
        # The usual buffer of 8 KiB for each parked poll would be a third of what a poll costs.
        super().__init__(client, address, server, client.makefile("rb", 1024))
        self.connection = connection

    def read_requestline(self) -> str:
        self.connection.enter(ASKING if self.connection.has_asked else HEAD)
        self.rfile.peek(1)
        self.connection.enter(HEAD)
        line: str = super().read_requestline()
        return line

    def MessageClass(self, stream: Any, *args: Any) -> Any:
        self._head = _Head(stream)
        return super().MessageClass(self._head, *args)

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        if self.wsgi_input.chunked_input:
            self.wsgi_input.rfile = _Chunks(self.rfile)
        self.connection.asked(2 * len(self.requestline) + self._head.cost)
        environ["greenagent.connection"] = self.connection
        environ["greenagent.descriptor"] = self.socket.fileno()
        environ["greenagent.close"] = self._close_after_answer
        if "%2F" in self.path.upper() and self.path.startswith("/api/"):
            # A job id may hold a slash: it comes through as a character no id can hold.
            raw = self.path.partition("?")[0]
            environ["PATH_INFO"] = unquote_to_bytes(_SLASH.sub("%1F", raw)).decode("latin-1")
        return environ

    def _close_after_answer(self) -> None:
        self.close_connection = True
        self.wsgi_input.position = self.wsgi_input.content_length or 0
        self.wsgi_input.chunked_input = False

    def finalize_headers(self) -> None:
        if self.server.is_stopping:  # or a kept connection asks again and again until the services are gone
            self.close_connection = True
            self.response_headers.append((b"Connection", b"close"))
        super().finalize_headers()

    def run_application(self) -> None:
        if not self.server.connections.has_room_for(self.connection):
            self._close_after_answer()
            self.application = _refuse_head
        try:
            super().run_application()
        except BaseException:
            unwritten: Callable[[], None] | None = self.environ.get("greenagent.unwritten")
            if unwritten is not None:
                unwritten()
            raise
        self.connection.enter(HEAD)  # what is left of the body, which nobody wants, has to come as fast as a head

    def format_request(self) -> str:
        return ""

    def handle_error(self, kind: Any, value: Any, trace: Any) -> None:
        self.close_connection = True
        if isinstance(value, (OSError, GreenletExit)):
            return  # the client is gone or too slow, or the controller stops
        self.server.agent_log.error(f"internal error: {kind.__name__}: {value}; please report this")
        self._send_error_response_if_possible(500)

    def _handle_client_error(self, error: Any) -> Any:
        if isinstance(error, OSError):
            return None  # nothing was asked within the time
        # Whatever else reading a request raises (too many headers, half a version), its client has caused.
        return super()._handle_client_error(error if isinstance(error, ValueError) else ValueError(repr(error)))


class Server(WSGIServer):  # type: ignore[misc]
    """Serves plain HTTP, or TLS whose handshakes block nobody else."""

    def __init__(
        self,
        address: tuple[str, int],
        application: Any,
        log: AgentLog,
        limits: Limits,
        tls: TlsContext | None,
    ) -> None:
        """Binds the address. Raises OSError."""
        self.agent_log = log  # WSGIServer has a ``log`` of its own
        self.is_stopping = False
        self._limits = limits
        self.connections = Connections(limits)
        self._tls = tls
        self._tls_trouble: dict[str, str] = {}
        self._accept_trouble = log.on_change()
        super().__init__(
            address,
            application,
            backlog=1024,
            log=None,
            error_log=None,
            environ={"wsgi.multithread": True},
            spawn=Pool(),  # without one, connections would outlive the end of the server
        )
        self.init_socket()  # binds now, not in ``start``
        if tls is not None:
            self.base_env["wsgi.url_scheme"] = "https"

    def do_read(self) -> Any:
        """Accepts a connection; without a free descriptor it pauses, where gevent would print a traceback."""
        try:
            accepted = super().do_read()
        except OSError as error:
            self._accept_trouble.warning(f"cannot accept connections: {error.strerror or error}")
            self.stop_accepting()
            gevent.spawn_later(0.5, self._accept_again)
            return None
        self._accept_trouble.resolved("connections are accepted again")
        return accepted

    def _accept_again(self) -> None:
        if not self.closed and not self.is_stopping:
            self.start_accepting()

    def handle(self, client: Any, address: Any) -> None:
        connection = self.connections.add(str(address[0]), gevent.getcurrent())
        try:
            self._serve(client, address, connection)
        finally:
            self.connections.remove(connection)

    def _serve(self, client: Any, address: Any, connection: Connection) -> None:
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                assert self._tls.context is not None
                client.settimeout(self._limits.handshake)
                client = self._tls.context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
                client.do_handshake()
            client.settimeout(self._limits.idle)
        except OSError as error:
            if self._tls is not None:
                self._log_refusal(str(address[0]), error)
                close_gently(client)
            client.close()
            return
        try:
            Handler(client, address, self, connection).handle()
        except OSError:
            pass  # the client has gone before it was told what was wrong with its request

    def _log_refusal(self, peer: str, error: OSError) -> None:
        """Once per change of reason for each client, not at every retry."""
        text = describe_refusal(error, self._limits.handshake)
        if self._tls_trouble.get(peer) == text:
            return
        if len(self._tls_trouble) >= 1000:
            self._tls_trouble.clear()
        self._tls_trouble[peer] = text
        self.agent_log.warning(f"refused a TLS connection from {peer}: {text}")
