"""The agent's metrics for Prometheus and for people, on ``[metrics] listen``.

``/metrics`` is Prometheus text, ``/healthz`` says whether the agent does its work, ``/status`` is
JSON for people. ``prometheus_client`` comes with the extra ``metrics`` and is loaded only here.
"""

from __future__ import annotations

import json
import math
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any, Final

import gevent
from gevent import Greenlet, pywsgi

from greenagent.runtime.greenlets import give_way
from greenagent.runtime.http_server import GuardedHandler
from greenagent.statistics.collector import Statistics
from greenagent.statistics.meter import USAGE_KEYS
from greenagent.statistics.own import AgentMetrics
from greenagent.values.errors import GreenagentError
from greenagent.values.text import HostNames, parse_address

MAX_CONNECTIONS: Final = 32
"""Open at once; one more takes the place of another, so that no visitor takes the descriptors that jobs need."""
TURN: Final = 1000
"""Metrics shown until others get a turn."""
_LIFETIME = 30.0
"""Seconds after which a connection is closed, whatever happens on it."""

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]

_SERIES_LABELS = ("cmd", "domain", "name")
_KEY_LABELS = (*_SERIES_LABELS, "key")
_FAMILIES = {
    "counter": ("counter", "counter", "Counters the jobs sent (type c).", _KEY_LABELS),
    "gauge": ("gauge", "gauge", "Gauges and key/values the jobs sent (types g and kv).", _KEY_LABELS),
    "set": ("set_members", "gauge", "Distinct texts of the present interval (type s).", _KEY_LABELS),
    "timer_count": ("timer_samples", "counter", "Samples of the jobs' timers (type ms).", _KEY_LABELS),
    "timer_sum": ("timer_milliseconds", "counter", "Sum of the samples of the jobs' timers (type ms).", _KEY_LABELS),
    "lines": ("lines", "counter", "Messages the jobs printed on stdout and stderr.", _SERIES_LABELS),
}
"""By ``ShownMetric.kind``: name behind ``greenagent_job_``, kind of the family, help, labels."""
_USAGE_UNITS = {"cpu": "cpu_percent", "rss": "rss_bytes", "vms": "vms_bytes", "swap": "swap_bytes"}
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_]")
_PLAIN = "text/plain; charset=utf-8"


class _Handler(GuardedHandler):
    """One connection, which ends with its answer: nobody who reads here every few seconds needs it longer."""

    def get_environ(self) -> Environ:
        environ: Environ = super().get_environ()
        environ["greenagent.body"] = self.unread() > 0
        return environ

    def run_application(self) -> None:
        self.close_after_answer()
        super().run_application()


class _Server(pywsgi.WSGIServer):  # type: ignore[misc]
    """Keeps at most ``MAX_CONNECTIONS``: where there are more, the one that asked longest ago is closed."""

    handler_class = _Handler
    max_accept = 1  # the connection closed for a new one is gone before the next is taken

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.visitors: dict[Greenlet, None] = {}
        """Those who serve a connection; who began or was asked something last stands last."""

    def handle(self, sock: Any, address: Any) -> None:
        """Serves one connection, within its time."""
        if len(self.visitors) >= MAX_CONNECTIONS:
            oldest = next(iter(self.visitors))
            del self.visitors[oldest]
            oldest.kill(block=False)
        self.touch()
        try:
            with gevent.Timeout(_LIFETIME, False):
                super().handle(sock, address)
        finally:
            self.visitors.pop(gevent.getcurrent(), None)

    def touch(self) -> None:
        """Something was asked on this greenlet's connection."""
        own = gevent.getcurrent()
        self.visitors.pop(own, None)
        self.visitors[own] = None


class MetricsServer:
    """A small HTTP server on one address; it answers GET only and keeps no secrets."""

    def __init__(
        self,
        listen: str,
        statistics: Statistics,
        metrics: AgentMetrics,
        health: Callable[[], str | None],
        status: Callable[[], dict[str, Any]],
        host_names: Iterable[str] = (),
    ) -> None:
        """``health`` gives None when all is well, else the reason; ``status`` an object JSON can tell.

        ``host_names``: names it may be asked by, beside ``localhost`` and this machine's own.

        Raises GreenagentError when the address cannot be read or ``prometheus_client`` is missing.
        """
        self._address = parse_address(listen)
        self._listen = listen
        self._statistics = statistics
        self._metrics = metrics
        self._health = health
        self._status = status
        self._names = HostNames(("localhost", socket.gethostname(), *host_names))
        self._server: _Server | None = None
        try:
            import prometheus_client
            from prometheus_client import core
        except ImportError:
            raise GreenagentError(
                "[metrics] listen needs the package prometheus_client: pip install prometheus_client, "
                "or take the key out of the configuration"
            ) from None
        self._core = core
        self._text = prometheus_client.generate_latest
        self._content_type = prometheus_client.CONTENT_TYPE_LATEST

    def start(self) -> None:
        """Listens from now on. Raises GreenagentError when the address cannot be had."""
        server = _Server(self._address, self._answer, log=None, error_log=None)
        try:
            server.init_socket()
            # Accepted connections inherit it; without it each answer waits for an acknowledgement.
            server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server.start()
        except OSError as error:
            server.stop()
            raise GreenagentError(f"[metrics] listen: cannot listen on {self._listen}: {error.strerror}") from error
        self._server = server

    @property
    def port(self) -> int:
        """The port in use, for a configured port 0."""
        if self._server is None:
            raise RuntimeError("the server is not started")
        return int(self._server.server_port)

    def stop(self) -> None:
        """Ends the server; harmless when it is not started."""
        if self._server is not None:
            self._server.stop(timeout=1)
            self._server = None

    def _answer(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if self._server is not None:
            self._server.touch()
        try:
            method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
            if (refused := self._refuse(environ)) is None and method in ("GET", "HEAD") and path == "/metrics":
                status, kind, body = "200 OK", self._content_type, self._metrics_text()
            else:
                status, kind, text = refused or self._respond(method, path)
                body = [text]
        except Exception as error:  # a traceback on stderr helps nobody who asks over HTTP
            status, kind = "500 Internal Server Error", _PLAIN
            body = [f"{type(error).__name__}: {error}\n".encode()]
        start_response(status, [("Content-Type", kind), ("Content-Length", str(sum(map(len, body))))])
        return _in_turns(body) if environ["REQUEST_METHOD"] != "HEAD" else []

    def _metrics_text(self) -> list[bytes]:
        """All metrics, in pieces: others get their turn meanwhile, since jobs may send a hundred thousand."""
        pieces: list[bytes] = []
        for family in self.collect():
            samples = family.samples
            for first in range(0, max(1, len(samples)), TURN):
                give_way()
                family.samples = samples[first : first + TURN]
                text = self._text(SimpleNamespace(collect=lambda family=family: [family]))
                if first:  # what the family is was told with its first samples
                    lines = text.split(b"\n")
                    text = b"\n".join(line for line in lines if not line.startswith(b"#"))
                pieces.append(text)
        return pieces

    def _refuse(self, environ: Environ) -> tuple[str, str, bytes] | None:
        """A request with a body, or a browser that a web page made ask here, under a name of the page's own."""
        if environ["greenagent.body"]:
            return "400 Bad Request", _PLAIN, b"no request has a body here\n"
        name = self._names.unknown(environ.get("HTTP_HOST", ""))
        if not name:
            return None
        text = f"the Host {name!r} is not known here: add it to host_names in [metrics]\n"
        return "403 Forbidden", _PLAIN, text.encode("utf-8", "backslashreplace")

    def _respond(self, method: str, path: str) -> tuple[str, str, bytes]:
        if method not in ("GET", "HEAD"):
            return "405 Method Not Allowed", _PLAIN, b"only GET is served here\n"
        if path == "/healthz":
            reason = self._health()
            if reason is None:
                return "200 OK", _PLAIN, b"ok\n"
            return "503 Service Unavailable", _PLAIN, (reason + "\n").encode()
        if path == "/status":
            return "200 OK", "application/json", (json.dumps(self._status(), indent=2) + "\n").encode()
        return "404 Not Found", _PLAIN, b"here are /metrics, /healthz and /status\n"

    def collect(self) -> Iterator[Any]:
        """All families of metrics: the agent's own, then those of the jobs. Other greenlets run meanwhile."""
        own: dict[str, Any] = {}
        for metric in self._metrics.shown():
            if metric.name not in own:
                name = "greenagent_" + _NOT_IN_NAMES.sub("_", metric.name)
                labels = [key for key, _ in metric.labels]
                own[metric.name] = self._family(metric.kind, name, f"The agent's own {metric.name}.", labels)
            value = metric.value if math.isfinite(metric.value) else 0.0
            own[metric.name].add_metric([label for _, label in metric.labels], value)
        yield from own.values()
        families = {
            shown: self._family(kind, "greenagent_job_" + name, text, labels)
            for shown, (name, kind, text, labels) in _FAMILIES.items()
        }
        for key in USAGE_KEYS:
            name = "greenagent_job_" + _USAGE_UNITS.get(key, key)
            text = f"Summed {key} of the jobs' processes, their children included."
            families[key] = self._family("gauge", name, text, _SERIES_LABELS)
        for series, shown_metrics in self._statistics.shown():
            for shown in shown_metrics:
                give_way()
                if shown.kind in ("usage", "lines"):
                    families[shown.key].add_metric(list(series), shown.value)
                else:
                    families[shown.kind].add_metric([*series, shown.key], shown.value)
        yield from families.values()

    def _family(self, kind: str, name: str, text: str, labels: Iterable[str]) -> Any:
        family = self._core.CounterMetricFamily if kind == "counter" else self._core.GaugeMetricFamily
        return family(name, text, labels=list(labels))


def _in_turns(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        give_way()
        yield piece
