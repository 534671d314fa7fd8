"""The HTTP server: gevent.pywsgi, tamed, with the falcon application on it."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

import falcon
import gevent
from gevent import GreenletExit
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer

from greenagent.controller.access import Access
from greenagent.controller.agent_api import add_agent_routes
from greenagent.controller.certificates import ServedCertificates, close_gently, describe_refusal
from greenagent.controller.hangups import HangUpWatch
from greenagent.controller.journal import StateError
from greenagent.controller.parts import Parts
from greenagent.controller.people_api import add_people_routes
from greenagent.runtime.greenlets import Supervisor

_SLASH = re.compile("%2f", re.IGNORECASE)


class _Silent:
    """The access log nobody reads."""

    def write(self, text: str) -> None:
        pass


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
        if self.server.is_stopping:  # or a kept connection asks again and again until the parts are gone
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
        parts: Parts,
        context: ssl.SSLContext | ServedCertificates | None,
    ) -> None:
        self.agent_log = parts.agent_log
        self.is_stopping = False
        self._limits = parts.limits
        self._context = context
        self._tls_trouble: dict[str, str] = {}
        self._accept_trouble = parts.agent_log.on_change()
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1024)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        super().__init__(
            listener,
            application,
            log=_Silent(),
            error_log=_Silent(),
            handler_class=Handler,
            environ={"wsgi.multithread": True},
            spawn=Pool(),  # without one, connections would outlive the end of the server
        )
        if context is not None:
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
            if self._context is not None:
                client.settimeout(self._limits.handshake)
                client = self._context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
                client.do_handshake()
            client.settimeout(self._limits.idle)
        except OSError as error:
            if self._context is not None:
                self._say_handshake(str(address[0]), error)
                close_gently(client)
            client.close()
            return
        try:
            super().handle(client, address)
        except OSError:
            pass  # the client has gone before it was told what was wrong with its request

    def _say_handshake(self, peer: str, error: OSError) -> None:
        """Once per change of reason for each client, not at every retry."""
        text = describe_refusal(error, self._limits.handshake)
        if self._tls_trouble.get(peer) == text:
            return
        if len(self._tls_trouble) >= 1000:
            self._tls_trouble.clear()
        self._tls_trouble[peer] = text
        self.agent_log.warning(f"refused a TLS connection from {peer}: {text}")


class Controller:
    """A running controller."""

    def __init__(
        self,
        parts: Parts,
        supervisor: Supervisor,
        listen: tuple[str, int],
        *,
        token: str | None = None,
        host_names: tuple[str, ...] = (),
        context: ssl.SSLContext | ServedCertificates | None = None,
    ) -> None:
        """Binds the address; with a ``context`` it serves TLS. Raises OSError."""
        self.parts = parts
        self._watch = HangUpWatch()
        application = make_application(parts, self._watch, Access(token, (*host_names, listen[0])))
        self._server = Server(listen, application, parts, context)
        self._context = context
        self._supervisor = supervisor
        self._scheme = "https" if context is not None else "http"

    @property
    def url(self) -> str:
        host, port = self._server.socket.getsockname()[:2]
        return f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def start(self) -> None:
        self._server.start()
        self._supervisor.service("sweep", self.parts.sweep_for_ever)
        if isinstance(self._context, ServedCertificates):
            self._supervisor.service("certificates", self._context.watch, self.parts.agent_log)

    def stop(self) -> None:
        """Takes no more connections, answers the open polls, ends all connections, closes the state file."""
        self._server.is_stopping = True
        self._server.stop_accepting()
        self.parts.dispatcher.close()
        self._server.stop(timeout=0.5)
        self._supervisor.kill_all()
        self._watch.close()
        self.parts.journal.close()


def make_application(parts: Parts, watch: HangUpWatch, access: Access) -> falcon.App[Any, Any]:
    """The falcon application with both sides' routes."""
    app: falcon.App[Any, Any] = falcon.App(middleware=[access])
    app.req_options.strip_url_path_trailing_slash = True
    app.req_options.auto_parse_qs_csv = False
    app.set_error_serializer(_serialize_error)

    def state_error(req: falcon.Request, resp: falcon.Response, error: StateError, params: Any) -> None:
        parts.agent_log.error(str(error))
        raise falcon.HTTPServiceUnavailable(description=str(error))

    def any_error(req: falcon.Request, resp: falcon.Response, error: Exception, params: Any) -> None:
        parts.agent_log.error(f"internal error at {req.path}: {type(error).__name__}: {error}; please report this")
        raise falcon.HTTPInternalServerError(description="internal error; the controller's log says more")

    app.add_error_handler(Exception, any_error)
    app.add_error_handler(StateError, state_error)
    add_agent_routes(app, parts, watch)
    add_people_routes(app, parts)
    return app


def _serialize_error(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError) -> None:
    resp.content_type = falcon.MEDIA_JSON
    resp.text = json.dumps({"error": error.description or error.title})
