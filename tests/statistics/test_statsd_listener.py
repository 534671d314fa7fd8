"""A real statsd client library talks to the port of its job, and to that only."""

import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec

import gevent
import pytest

from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.greenlets import Supervisor
from greenagent.statistics.collector import FlushedObject, Statistics
from greenagent.statistics.statsd_listener import StatsdListener
from tests.support.waiting import wait_until


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    said: list[str] = []
    agent_log = AgentLog(None)
    agent_log.attach(lambda level, text: said.append(text))
    supervisor = Supervisor(agent_log, said.append)
    yield supervisor
    supervisor.kill_all()
    assert said == []


class Collected:
    def __init__(self) -> None:
        self.points: dict[str, float] = {}

    def add(self, objects: list[FlushedObject]) -> None:
        for item in objects:
            self.points.update({item.prefix + key: value for key, value in item.points.items()})


CLIENT = """
import os, statsd
client = statsd.StatsClient(os.environ["STATSD_HOST"], int(os.environ["STATSD_PORT"]), prefix="app")
client.incr("hits")
client.incr("hits", 4)
client.decr("hits", 2)
client.gauge("level", 70)
client.gauge("level", -5, delta=True)
client.gauge("below", -3)
client.set("users", "ann")
client.set("users", "bob")
client.timing("took", 320)
client.timing("took", 480)
with client.pipeline() as pipe:
    pipe.incr("piped")
    pipe.gauge("piped.level", 1.5)
"""


def run(program: str, listener: StatsdListener) -> None:
    process = subprocess.Popen([sys.executable, "-c", program], env=listener.environment)
    wait_until(lambda: process.poll() is not None, what="the client to end")
    assert process.returncode == 0


def test_a_statsd_client_library_works_unchanged(supervisor: Supervisor) -> None:
    if find_spec("statsd") is None:
        pytest.fail("this test needs the package statsd: pip install statsd")
    sink = Collected()
    statistics = Statistics(1, 2, "seed", 60, sink)
    handle = statistics.open("execute", "d", "n")
    refused: list[str] = []
    listener = StatsdListener("job", lambda text: refused.extend(handle.feed(text)), supervisor)
    run(CLIENT, listener)
    listener.close()
    listener.close()
    handle.close()
    statistics.flush_all()
    assert refused == []
    assert sink.points == {
        "1.2.d.n.app.hits": 3,
        "1.2.d.n.app.level": 65,
        "1.2.d.n.app.below": -3,
        "1.2.d.n.app.users": 2,
        "1.2.d.n.app.took": 400,
        "1.2.d.n.app.took.count": 2,
        "1.2.d.n.app.took.min": 320,
        "1.2.d.n.app.took.max": 480,
        "1.2.d.n.app.took.median": 400,
        "1.2.d.n.app.took.p95": 480,
        "1.2.d.n.app.piped": 1,
        "1.2.d.n.app.piped.level": 1.5,
    }


def send(listener: StatsdListener, *datagrams: bytes) -> None:
    from socket import AF_INET, SOCK_DGRAM, socket

    with socket(AF_INET, SOCK_DGRAM) as sender:
        for data in datagrams:
            sender.sendto(data, (listener.environment["STATSD_HOST"], int(listener.environment["STATSD_PORT"])))


def test_each_job_has_a_port_of_its_own(supervisor: Supervisor) -> None:
    texts: dict[str, list[str]] = {"a": [], "b": []}
    first = StatsdListener("a", texts["a"].append, supervisor)
    second = StatsdListener("b", texts["b"].append, supervisor)
    send(first, b"x:1|c")
    send(second, b"y:1|c")
    wait_until(lambda: texts["a"] and texts["b"], what="both datagrams")
    assert texts == {"a": ["x:1|c"], "b": ["y:1|c"]}
    assert first.environment["STATSD_HOST"] == "127.0.0.1"
    first.close()
    second.close()


def test_what_arrived_before_the_end_counts(supervisor: Supervisor) -> None:
    texts: list[str] = []
    listener = StatsdListener("a", texts.append, supervisor)
    send(listener, *(b"x:%d|c" % number for number in range(200)))
    listener.close()  # the hub had no turn to read
    assert len(texts) == 200


def test_bytes_that_are_no_text_do_not_end_it(supervisor: Supervisor) -> None:
    texts: list[str] = []
    listener = StatsdListener("a", texts.append, supervisor)
    send(listener, b"\xff\xfe:1|c", b"", b"x:1|c")
    wait_until(lambda: len(texts) == 2, what="the two that hold something")
    assert texts == ["\\xff\\xfe:1|c", "x:1|c"]
    listener.close()


def test_one_large_datagram_leaves_the_hub_its_turns(supervisor: Supervisor) -> None:
    """Each part takes a moment, as many lines do."""
    texts: list[str] = []

    def take(text: str) -> None:
        texts.append(text)
        until = time.monotonic() + 0.003
        while time.monotonic() < until:
            pass

    listener = StatsdListener("a", take, supervisor)
    datagram = b"".join(b"key%d:1|c\n" % number for number in range(5000))
    send(listener, datagram)
    turns = 0
    while sum(map(len, texts)) < len(datagram):
        gevent.sleep(0)
        turns += 1
    assert "".join(texts) == datagram.decode()
    assert all(text.endswith("\n") for text in texts)
    assert len(texts) > 20
    assert turns >= len(texts)
    listener.close()


def test_a_port_is_left_to_the_next_with_what_it_holds(supervisor: Supervisor) -> None:
    first_texts: list[str] = []
    first = StatsdListener("a", first_texts.append, supervisor)
    send(first, b"x:1|c")
    detached = first.detach()
    assert detached is not None
    descriptor, texts = detached
    send(first, b"x:2|c")
    first.close()
    assert first.detach() is None
    second = StatsdListener("a", texts.append, supervisor, 0, descriptor)
    assert second.environment == first.environment
    send(second, b"x:3|c")
    wait_until(lambda: [*first_texts, *texts] == ["x:1|c", "x:2|c", "x:3|c"], what="all three")
    second.close()


def test_a_flood_leaves_the_hub_its_turns(supervisor: Supervisor) -> None:
    from socket import AF_INET, SOCK_DGRAM, socket

    count = 0

    def take(text: str) -> None:
        nonlocal count
        count += 1

    listener = StatsdListener("a", take, supervisor)
    turns = 0
    with socket(AF_INET, SOCK_DGRAM) as sender:
        sender.connect((listener.environment["STATSD_HOST"], int(listener.environment["STATSD_PORT"])))
        for _ in range(20):
            for _ in range(200):
                sender.send(b"x:1|c")
            gevent.sleep(0)
            turns += 1
    wait_until(lambda: count > 1000, what="the flood to be read")
    assert turns == 20
    listener.close()
