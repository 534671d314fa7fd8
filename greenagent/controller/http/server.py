"""The HTTP server: gevent.pywsgi, tamed."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

import gevent
from gevent import GreenletExit
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer

from greenagent.controller.http.tls import close_gently, describe_refusal
from greenagent.controller.limits import Limits
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.tls_watch import TlsContext

_SLASH = re.compile("%2f", re.IGNORECASE)


class Handler(WSGIHandler):  # type: ignore[misc]
    """One connection. Gives the application its descriptor and tells it when an answer was not written."""

    def __init__(self, connection: Any, address: Any, server: Any) -> None:
        # The usual buffer of 8 KiB for each parked poll would be a third of what a poll costs.
        super().__init__(connection, address, server, connection.makefile("rb", 1024))

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
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
        try:
            super().run_application()
        except BaseException:
            unwritten: Callable[[], None] | None = self.environ.get("greenagent.unwritten")
            if unwritten is not None:
                unwritten()
            raise

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
        self._tls = tls
        self._tls_trouble: dict[str, str] = {}
        self._accept_trouble = log.on_change()
        super().__init__(
            address,
            application,
            backlog=1024,
            log=None,
            error_log=None,
            handler_class=Handler,
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
            super().handle(client, address)
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
