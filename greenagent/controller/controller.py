"""A running controller: the services, the HTTP server and the falcon application between them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import falcon

from greenagent.controller.http.access import Access
from greenagent.controller.http.agent_api import add_agent_routes
from greenagent.controller.http.bodies import Bodies
from greenagent.controller.http.disconnects import DisconnectWatch
from greenagent.controller.http.people_api import add_people_routes
from greenagent.controller.http.schedule_api import add_schedule_routes
from greenagent.controller.http.server import Server
from greenagent.controller.services import Services
from greenagent.controller.state.state_file import StateError
from greenagent.runtime.greenlets import Supervisor
from greenagent.runtime.tls_watch import TlsContext
from greenagent.values.text import address_text

if TYPE_CHECKING:
    from greenagent.controller.clients.front import OriginalClients  # it needs the extra redis


class Controller:
    """A running controller."""

    def __init__(
        self,
        services: Services,
        supervisor: Supervisor,
        listen: tuple[str, int],
        *,
        token: Callable[[], str] | None = None,
        host_names: tuple[str, ...] = (),
        tls: TlsContext | None = None,
        clients: OriginalClients | None = None,
    ) -> None:
        """Binds the address; with ``tls`` it serves TLS. Raises OSError."""
        self.services = services
        self._watch = DisconnectWatch()
        self._bodies = Bodies(services.limits)
        access = Access(token, (*host_names, listen[0]), services.log)
        application = make_application(services, self._watch, self._bodies, access)
        self._server = Server(listen, application, services.log, services.limits, tls)
        self._tls = tls
        self._clients = clients
        self._supervisor = supervisor
        self._scheme = "https" if tls is not None else "http"

    @property
    def url(self) -> str:
        host, port = self._server.socket.getsockname()[:2]
        return f"{self._scheme}://{address_text(host, port)}"

    def start(self) -> None:
        self._server.start()
        self._supervisor.service("sweep", self.services.sweep_for_ever)
        self._supervisor.service("schedules", self.services.schedules.run)
        for name, run in self.services.backend.services():
            self._supervisor.service(name, run)
        self._supervisor.service("connections", self._server.connections.watch)
        if self._tls is not None:
            self._supervisor.service("certificates", self._tls.watch, self.services.log)
        if self._clients is not None:
            self._supervisor.service("original clients", self._clients.run)

    def stop(self) -> None:
        """Takes no more connections, answers the open polls, ends all connections, closes the state."""
        self._server.is_stopping = True
        self._server.stop_accepting()
        self.services.dispatcher.close()
        self._server.stop(timeout=0.5)
        self._supervisor.kill_all()
        if self._clients is not None:
            self._clients.stop()
        self._watch.close()
        self._bodies.close()
        self.services.backend.close()


def make_application(
    services: Services, watch: DisconnectWatch, bodies: Bodies, access: Access
) -> falcon.App[Any, Any]:
    """The falcon application with both sides' routes."""
    app: falcon.App[Any, Any] = falcon.App(middleware=[access])
    app.req_options.strip_url_path_trailing_slash = True
    app.req_options.auto_parse_qs_csv = False
    app.set_error_serializer(_serialize_error)

    def state_error(req: falcon.Request, resp: falcon.Response, error: StateError, params: Any) -> None:
        services.log.error(str(error))
        raise falcon.HTTPServiceUnavailable(description=str(error))

    def any_error(req: falcon.Request, resp: falcon.Response, error: Exception, params: Any) -> None:
        services.log.error(f"internal error at {req.path}: {type(error).__name__}: {error}; please report this")
        raise falcon.HTTPInternalServerError(description="internal error; the controller's log says more")

    app.add_error_handler(Exception, any_error)
    app.add_error_handler(StateError, state_error)
    add_agent_routes(app, services, watch, bodies)
    add_people_routes(app, services, bodies)
    add_schedule_routes(app, services, bodies)
    return app


def _serialize_error(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError) -> None:
    resp.content_type = falcon.MEDIA_JSON
    resp.text = json.dumps({"error": error.description or error.title})
