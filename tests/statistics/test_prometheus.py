"""What Prometheus and people read on ``[metrics] listen``."""

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import gevent
import pytest
from prometheus_client.parser import text_string_to_metric_families

from greenagent.statistics.collector import Statistics
from greenagent.statistics.meter import ProcessUsage
from greenagent.statistics.own import AgentMetrics
from greenagent.statistics.prometheus import MAX_CONNECTIONS, MetricsServer
from greenagent.values.errors import GreenagentError
from tests.support.calibration import takes_at_most
from tests.support.floods import STALL, flooding, longest_stall
from tests.support.holds import HELD, longest_hold
from tests.support.waiting import wait_until


class Nowhere:
    def add(self, objects: list) -> None:
        raise AssertionError("nothing is flushed here")


class Served:
    def __init__(self) -> None:
        self.metrics = AgentMetrics()
        self.statistics = Statistics(1, 2, "seed", 3600, Nowhere(), self.metrics)
        self.trouble: str | None = None
        self.status: dict = {"jobs": {"running": 3}}
        self.server = MetricsServer(
            "127.0.0.1:0", self.statistics, self.metrics, lambda: self.trouble, lambda: self.status, ("scrape.example",)
        )
        self.server.start()

    @property
    def visits(self) -> int:
        """Connections that are open."""
        assert self.server._server is not None
        return len(self.server._server.visitors)

    def get(self, path: str, method: str = "GET", host: str = "") -> tuple[int, str, str]:
        headers = {"Host": host} if host else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.server.port}{path}", method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers["Content-Type"], error.read().decode()

    def samples(self) -> dict[tuple, float]:
        code, kind, text = self.get("/metrics")
        assert code == 200
        assert kind.startswith("text/plain")
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.server.stop()


def test_the_official_parser_reads_the_agents_metrics(served: Served) -> None:
    served.metrics.count("jobs_done", 2, state="SUCCESS")
    served.metrics.count("jobs_done", state="ERROR")
    served.metrics.gauge("jobs_running", lambda: 7)
    served.metrics.gauge("last_contact_seconds", lambda: None, controller="main")
    served.metrics.gauge("odd", lambda: float("nan"))
    samples = served.samples()
    assert samples[("greenagent_jobs_done_total", ("state", "SUCCESS"))] == 2
    assert samples[("greenagent_jobs_done_total", ("state", "ERROR"))] == 1
    assert samples[("greenagent_jobs_running",)] == 7
    assert samples[("greenagent_odd",)] == 0
    assert not any(name[0] == "greenagent_last_contact_seconds" for name in samples)


def test_the_official_parser_reads_the_jobs_own_with_their_labels(served: Served) -> None:
    handle = served.statistics.open("execute", "web", 'odd "name"\n\\')
    handle.feed("hits:3|c\ntemp:-2|g\ntook:5|ms\ntook:7|ms\nwho:x|s")
    handle.add_usage(ProcessUsage(cpu=12.5, rss=4096, threads=2))
    labels = (("cmd", ""), ("domain", "web"))
    name = ("name", 'odd "name"\n\\')
    samples = served.samples()
    assert samples[("greenagent_job_counter_total", *labels, ("key", "hits"), name)] == 3
    assert samples[("greenagent_job_gauge", *labels, ("key", "temp"), name)] == -2
    assert samples[("greenagent_job_timer_samples_total", *labels, ("key", "took"), name)] == 2
    assert samples[("greenagent_job_timer_milliseconds_total", *labels, ("key", "took"), name)] == 12
    assert samples[("greenagent_job_set_members", *labels, ("key", "who"), name)] == 1
    assert samples[("greenagent_job_cpu_percent", *labels, name)] == 12.5
    assert samples[("greenagent_job_rss_bytes", *labels, name)] == 4096
    assert samples[("greenagent_job_threads", *labels, name)] == 2


def test_many_metrics_hold_up_nobody(served: Served) -> None:
    number = 30_000
    for name in range(3):
        handle = served.statistics.open("execute", "domain", f"name{name}")
        for first in range(0, number // 3, 1000):
            handle.feed("\n".join(f"key{key}:1|c" for key in range(first, first + 1000)))
    with longest_hold() as longest:
        code, _, text = served.get("/metrics")
    assert takes_at_most(longest[0], HELD)
    assert code == 200
    assert text.count("greenagent_job_counter_total{") == number
    assert text.count("# TYPE greenagent_job_counter_total counter") == 1


def test_health_is_200_or_the_reason(served: Served) -> None:
    assert served.get("/healthz")[::2] == (200, "ok\n")
    served.trouble = "the poller of main is dead"
    assert served.get("/healthz")[::2] == (503, "the poller of main is dead\n")


def test_status_is_json_for_people(served: Served) -> None:
    code, kind, text = served.get("/status")
    assert (code, kind) == (200, "application/json")
    assert json.loads(text) == served.status


def test_what_is_not_there_says_what_is(served: Served) -> None:
    code, _, text = served.get("/")
    assert code == 404
    assert "/metrics" in text
    assert served.get("/metrics", "POST")[0] == 405
    served.status = {"odd": object()}
    code, _, text = served.get("/status")
    assert code == 500
    assert text.startswith("TypeError")


def test_connections_that_ask_nothing_take_no_descriptors_of_jobs_and_keep_nobody_out(served: Served) -> None:
    def open_descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = open_descriptors()
    with ExitStack() as idle:
        for number in range(300):
            client = socket.create_connection(("127.0.0.1", served.server.port), timeout=60)
            idle.callback(client.close)
            if number % 50 == 0:
                assert served.get("/healthz")[0] == 200
        assert served.get("/metrics")[0] == 200
        assert served.get("/status")[0] == 200
        assert open_descriptors() - before - 300 <= MAX_CONNECTIONS + 2
    assert served.get("/healthz")[0] == 200


REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = REQUEST + b"Transfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "trailer": (CHUNKED + b"0\r\n", b"a: b\r\n"),
    "chunks of a byte": (CHUNKED, b"1\r\nx\r\n"),
    "posted": (CHUNKED.replace(b"GET", b"POST"), b"1\r\nx\r\n"),
    "body": (REQUEST + b"Content-Length: 99999999999\r\n\r\n", b"x" * 1000),
    "requests": (b"", REQUEST + b"\r\n"),
    "large answers": (b"", b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "headers": (REQUEST, b"a: b\r\n"),
    "header": (REQUEST + b"a: ", b"b"),
    "blank lines": (b"", b"\r\n"),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_a_visitor_sends_without_end_holds_up_nobody_and_is_not_said(
    served: Served, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    before = served.visits
    with flooding(served.server.port, *ENDLESS[kind]):
        wait_until(lambda: served.visits > before, what="the flood")
        with longest_stall() as stall:
            for _ in range(20):
                assert served.get("/healthz")[0] == 200
                gevent.sleep(0.05)
    assert stall[0] < STALL
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"", b"200"),
        (b"Connection: keep-alive\r\n", b"200"),
        (b"Content-Length: 0\r\n", b"200"),
        (b"Content-Length: 1\r\n", b"400"),
        (b"Transfer-Encoding: chunked\r\n", b"400"),
        (b"a: b\r\n" * 150, b"400"),
        (b"no header\r\n", b"400"),
    ],
)
def test_a_connection_ends_with_its_one_answer_and_a_request_with_a_body_is_refused(
    served: Served, headers: bytes, status: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", served.server.port), timeout=60) as client:
        client.sendall(REQUEST + headers + b"\r\n" + (b"" if status == b"200" else b"x"))
        answer = b""
        while piece := client.recv(1000):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer.lower()


def test_a_name_that_nobody_gave_this_server_is_refused(served: Served) -> None:
    for known in ("127.0.0.1:9464", "[::1]:9464", "LOCALHOST", socket.gethostname() + ":1", "scrape.example."):
        assert served.get("/status", host=known)[0] == 200, known
    code, _, text = served.get("/status", host="rebind.attacker.example:18907")
    assert code == 403
    assert text == "the Host 'rebind.attacker.example' is not known here: add it to host_names in [metrics]\n"


def test_a_port_in_use_is_one_clear_error(served: Served) -> None:
    other = MetricsServer(f"127.0.0.1:{served.server.port}", served.statistics, served.metrics, lambda: None, dict)
    with pytest.raises(GreenagentError, match=rf"\[metrics\] listen: cannot listen on 127.0.0.1:{served.server.port}"):
        other.start()
    other.stop()


def test_it_listens_on_an_address_of_the_newer_kind(served: Served) -> None:
    server = MetricsServer("[::1]:0", served.statistics, served.metrics, lambda: None, dict)
    server.start()
    try:
        with urllib.request.urlopen(f"http://[::1]:{server.port}/healthz", timeout=60) as answer:
            assert answer.read() == b"ok\n"
    finally:
        server.stop()


def test_without_the_package_there_is_one_line_that_says_what_to_install() -> None:
    """Run elsewhere: here the package is loaded already."""
    program = """
import sys
sys.modules["prometheus_client"] = None
from greenagent.runtime.patch import patch
patch()
from greenagent.statistics.prometheus import MetricsServer
from greenagent.values.errors import GreenagentError
try:
    MetricsServer("127.0.0.1:0", None, None, None, None)
except GreenagentError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, timeout=120, check=False
    )
    assert done.stderr == b""
    assert b"pip install prometheus_client" in done.stdout
    assert done.stdout.count(b"\n") == 1
