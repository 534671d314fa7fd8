"""The agent's figures for Prometheus and for people, on ``[metrics] listen``.

``/metrics`` is Prometheus text, ``/healthz`` says whether the agent does its work, ``/status`` is
JSON for people. ``prometheus_client`` comes with the extra ``metrics`` and is loaded only here.
"""

from __future__ import annotations

import json
import math
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gevent import pywsgi

from greenagent.statistics.collector import Statistics
from greenagent.statistics.meter import FIGURES
from greenagent.statistics.own import Figures
from greenagent.values.errors import GreenagentError

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]

_JOB_LABELS = ("cmd", "domain", "name", "key")
_FAMILIES = {
    "counter": ("greenagent_job_counter", "counter", "Counters the jobs sent (type c)."),
    "gauge": ("greenagent_job_gauge", "gauge", "Gauges and key/values the jobs sent (types g and kv)."),
    "set": ("greenagent_job_set_members", "gauge", "Distinct texts of the present interval (type s)."),
    "timer_count": ("greenagent_job_timer_samples", "counter", "Samples of the jobs' timers (type ms)."),
    "timer_sum": ("greenagent_job_timer_milliseconds", "counter", "Sum of the samples of the jobs' timers (type ms)."),
}
_USAGE_UNITS = {"cpu": "cpu_percent", "rss": "rss_bytes", "vms": "vms_bytes", "swap": "swap_bytes"}
_NAME = re.compile(r"[^a-zA-Z0-9_]")


class ScrapeServer:
    """A small HTTP server on one address; it answers GET only and keeps no secrets."""

    def __init__(
        self,
        listen: str,
        statistics: Statistics,
        figures: Figures,
        health: Callable[[], str | None],
        status: Callable[[], dict[str, Any]],
    ) -> None:
        """``health`` gives None when all is well, else the reason; ``status`` an object JSON can tell.

        Raises GreenagentError when the address cannot be read or ``prometheus_client`` is missing.
        """
        self._address = parse_listen(listen)
        self._listen = listen
        self._health = health
        self._status = status
        try:
            import prometheus_client
            from prometheus_client import core
        except ImportError:
            raise GreenagentError(
                "[metrics] listen needs the package prometheus_client: pip install 'greenagent[metrics]', "
                "or take the key out of the configuration"
            ) from None
        self._core = core
        self._text = prometheus_client.generate_latest
        self._registry = prometheus_client.CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(self._families))
        self._content_type = prometheus_client.CONTENT_TYPE_LATEST
        self._statistics = statistics
        self._figures = figures
        self._server: pywsgi.WSGIServer | None = None

    def start(self) -> None:
        """Listens from now on. Raises GreenagentError when the address cannot be had."""
        server = pywsgi.WSGIServer(self._address, self._answer, log=None, error_log=None)
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
        try:
            status, kind, body = self._respond(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        except Exception as error:  # a traceback on stderr helps nobody who asks over HTTP
            status, kind = "500 Internal Server Error", "text/plain; charset=utf-8"
            body = f"{type(error).__name__}: {error}\n".encode()
        start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body] if environ["REQUEST_METHOD"] != "HEAD" else []

    def _respond(self, method: str, path: str) -> tuple[str, str, bytes]:
        plain = "text/plain; charset=utf-8"
        if method not in ("GET", "HEAD"):
            return "405 Method Not Allowed", plain, b"only GET is served here\n"
        if path == "/metrics":
            return "200 OK", self._content_type, self._text(self._registry)
        if path == "/healthz":
            reason = self._health()
            if reason is None:
                return "200 OK", plain, b"ok\n"
            return "503 Service Unavailable", plain, (reason + "\n").encode()
        if path == "/status":
            return "200 OK", "application/json", (json.dumps(self._status(), indent=2) + "\n").encode()
        return "404 Not Found", plain, b"here are /metrics, /healthz and /status\n"

    def _families(self) -> Iterator[Any]:
        yield from self._own_families()
        yield from self._job_families()

    def _own_families(self) -> Iterator[Any]:
        families: dict[str, Any] = {}
        for figure in self._figures.shown():
            name = "greenagent_" + _NAME.sub("_", figure.name)
            names = [key for key, _ in figure.labels]
            if name not in families:
                families[name] = self._family(figure.kind, name, f"The agent's own {figure.name}.", names)
            families[name].add_metric([value for _, value in figure.labels], _finite(figure.value))
        yield from families.values()

    def _job_families(self) -> Iterator[Any]:
        families = {
            kind: self._family(sort, name, text, list(_JOB_LABELS)) for kind, (name, sort, text) in _FAMILIES.items()
        }
        usages = {
            key: self._family(
                "gauge",
                "greenagent_job_" + _USAGE_UNITS.get(key, key),
                f"Summed {key} of the jobs' processes, their children included.",
                list(_JOB_LABELS[:-1]),
            )
            for key in FIGURES
        }
        lines = self._family(
            "counter", "greenagent_job_lines", "Messages the jobs printed on stdout and stderr.", list(_JOB_LABELS[:-1])
        )
        for series, shown in self._statistics.shown():
            for metric in shown:
                if metric.kind == "lines":
                    lines.add_metric(list(series), metric.value)
                elif metric.kind == "usage":
                    usages[metric.key].add_metric(list(series), metric.value)
                else:
                    families[metric.kind].add_metric([*series, metric.key], metric.value)
        yield from families.values()
        yield from usages.values()
        yield lines

    def _family(self, kind: str, name: str, text: str, labels: list[str]) -> Any:
        family = self._core.CounterMetricFamily if kind == "counter" else self._core.GaugeMetricFamily
        return family(name, text, labels=labels)


class _Collector:
    def __init__(self, families: Callable[[], Iterator[Any]]) -> None:
        self.collect = families


def parse_listen(text: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port`` as an address. Raises GreenagentError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise GreenagentError(f'[metrics] listen: {text!r} is not HOST:PORT, for instance "127.0.0.1:9464"')
    return host.removeprefix("[").removesuffix("]"), int(port)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def seconds_since(stamp: float | None) -> float | None:
    """The age of a monotonic stamp, for gauges such as the last contact; None without one."""
    return None if stamp is None else time.monotonic() - stamp
