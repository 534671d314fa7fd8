"""The HTTP server: gevent.pywsgi, tamed."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol
from urllib.parse import unquote_to_bytes

import gevent
from gevent.pool import Pool
from gevent.pywsgi import Input, WSGIServer

from greenagent.controller.http.bodies import RETRY_AFTER
from greenagent.controller.http.connections import ANSWERED, ASKING, HEAD, Connection, Connections
from greenagent.controller.http.tls import describe_refusal
from greenagent.controller.limits import Limits
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.http_server import GuardedHandler
from greenagent.runtime.paced import close_gently
from greenagent.runtime.tls_watch import TlsContext

ACCEPT_PAUSE: Final = 0.1
"""Seconds without accepting where no descriptor is free."""

PARKED: Final = "greenagent.parked"
"""Where the application puts a ``Parked`` into the environment of a request that it does not answer yet."""
UNWRITTEN: Final = "greenagent.unwritten"
"""Where it puts what is to be called if the answer could not be written."""

_SLASH = re.compile("%2f", re.IGNORECASE)


def _refuse_head(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("503 Service Unavailable", [("Content-Type", "application/json"), ("Retry-After", str(RETRY_AFTER))])
    return [b'"too many requests with large heads are open at once: try again later"']


class Parked(Protocol):
    """A request without an answer yet; an application that gives it."""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        """The answer, or nothing and itself once more in the environment."""

    def when_woken(self, wake: Callable[[], None]) -> None:
        """Calls ``wake`` once when it is to be called; at once where that is now."""


class Handler(GuardedHandler):
    """One connection. Gives the application its descriptor and tells it when an answer was not written.

    A request that the application parks costs no greenlet, no environment and no headers until it is woken: of ten
    thousand polls of agents most wait.
    """

    def __init__(self, client: Any, address: Any, server: Any, connection: Connection) -> None:
        super().__init__(client, address, server)
        self.connection = connection
        self._parked: Parked | None = None
        self._kept: tuple[Any, Any] | None = None
        """The socket and its buffer while a request is parked."""

    def handle(self) -> None:
        """Answers requests, one that was woken first, until the connection is closed or a request is parked."""
        if self._kept is not None:
            self.socket, self.rfile = self._kept
        super().handle()
        if self._parked is not None:
            self._parked.when_woken(partial(self.server.answer, self))

    @property
    def is_parked(self) -> bool:
        return self._parked is not None

    def handle_one_request(self) -> Any:
        if self._kept is None:
            result = super().handle_one_request()
        else:
            self._kept = None
            result = self._handle_woken()
        if self._parked is not None:
            self._let_go()
        return result

    def _handle_woken(self) -> Any:
        """As ``handle_one_request``, whose request was read when it was parked."""
        self.application: Any = self._parked
        self._parked = None
        self.environ: dict[str, Any] = {}
        self.wsgi_input = Input(self.rfile, 0)
        self.handle_one_response()
        return None if self.close_connection else True

    def _let_go(self) -> None:
        """Of all that is not needed to go on."""
        self._kept, self.socket = (self.socket, self.rfile), None
        self.connection.enter(ANSWERED)
        self.connection.head = 0
        self.connection.greenlet = None
        for name in ("requestline", "path", "headers", "head", "environ", "application", "response_headers"):
            self.__dict__.pop(name, None)

    def process_result(self) -> None:
        parked: Parked | None = self.environ.get(PARKED)
        self._parked = parked
        if parked is None:
            super().process_result()

    def read_requestline(self) -> str:
        self.connection.enter(ASKING if self.connection.has_asked else HEAD)
        self.rfile.peek(1)
        self.connection.enter(HEAD)
        line: str = super().read_requestline()
        return line

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        self.connection.asked(2 * len(self.requestline) + self.head.cost)
        environ["greenagent.connection"] = self.connection
        environ["greenagent.descriptor"] = self.socket.fileno()
        environ["greenagent.close"] = self.close_after_answer
        if "%2F" in self.path.upper() and self.path.startswith("/api/"):
            # A job id may hold a slash: it comes through as a character no id can hold.
            raw = self.path.partition("?")[0]
            environ["PATH_INFO"] = unquote_to_bytes(_SLASH.sub("%1F", raw)).decode("latin-1")
        return environ

    def finalize_headers(self) -> None:
        if self.server.is_stopping:  # or a kept connection asks again and again until the services are gone
            self.close_after_answer()
        super().finalize_headers()

    def discard_rest(self) -> None:
        """What is left of the body, which nobody wants, has to come as fast as a head."""
        self.connection.enter(HEAD)
        super().discard_rest()

    def run_application(self) -> None:
        if not self.server.connections.has_room_for(self.connection):
            self.close_after_answer()
            self.application = _refuse_head
        try:
            super().run_application()
        except BaseException:
            unwritten: Callable[[], None] | None = self.environ.get(UNWRITTEN)
            if unwritten is not None:
                unwritten()
            raise

    def report_error(self, kind: Any, value: Any, trace: Any) -> None:
        self.server.agent_log.error(f"internal error: {kind.__name__}: {value}; please report this")


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
            self.connections.make_room()  # accepted in one go, they may be more than were counted so far
            gevent.spawn_later(ACCEPT_PAUSE, self._accept_again)
            return None
        self._accept_trouble.resolved("connections are accepted again")
        return accepted

    def _accept_again(self) -> None:
        if not self.closed and not self.is_stopping:
            self.start_accepting()

    def handle(self, client: Any, address: Any) -> None:
        connection = self.connections.add(str(address[0]), gevent.getcurrent())
        handler = None
        try:
            ready = self._prepare(client, address)
            if ready is not None:
                handler = Handler(ready, address, self, connection)
        finally:
            if handler is None:
                self.connections.remove(connection)
                client.close()
        if handler is not None:
            self._run(handler)

    def answer(self, handler: Handler) -> None:
        """Goes on with a connection whose parked request was woken."""
        self.pool.spawn(self._run, handler)

    def _run(self, handler: Handler) -> None:
        handler.connection.greenlet = gevent.getcurrent()
        try:
            handler.handle()
        except OSError:
            pass  # the client has gone before it was told what was wrong with its request
        finally:
            if not handler.is_parked:
                self.connections.remove(handler.connection)

    def do_close(self, client: Any, address: Any) -> None:
        """Nothing: the connection is closed where it ends, which a parked request outlives."""

    def _prepare(self, client: Any, address: Any) -> Any:
        """The connection with its TLS and its limits; None, and closed, where it did not come to that."""
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
                client.close()  # the one of TLS: it has taken the descriptor
            return None
        return client

    def _log_refusal(self, peer: str, error: OSError) -> None:
        """Once per change of reason for each client, not at every retry."""
        text = describe_refusal(error, self._limits.handshake)
        if self._tls_trouble.get(peer) == text:
            return
        if len(self._tls_trouble) >= 1000:
            self._tls_trouble.clear()
        self._tls_trouble[peer] = text
        self.agent_log.warning(f"refused a TLS connection from {peer}: {text}")
