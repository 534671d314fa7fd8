"""What peers do who mean harm: bodies of any shape, half requests, connections that ask for nothing."""

from __future__ import annotations

import gc
import json
import os
import resource
import socket

import gevent
import pytest

from greenagent.controller.dispatch.agents import AgentTable, Poll
from greenagent.controller.http.connections import ANSWERED
from greenagent.controller.limits import MIB, Limits
from greenagent.controller.model import AgentKey, Job, Target
from greenagent.controller.state.scripts import Script, ScriptStore
from greenagent.controller.state.state_file import StateFile
from greenagent.runtime import paced
from tests.support.calibration import takes_at_most
from tests.support.floods import STALL, flooding, longest_stall
from tests.support.holds import HELD, longest_hold
from tests.support.local_controller import Agent, LocalController, plain, start
from tests.support.memory import held_by, resident
from tests.support.waiting import wait_until


def address_of(controller: LocalController) -> tuple[str, int]:
    host, _, port = controller.url.removeprefix("http://").rpartition(":")
    return host, int(port)


def connect(controller: LocalController, data: bytes = b"") -> socket.socket:
    client = socket.create_connection(address_of(controller))
    client.sendall(data)
    return client


def is_closed(client: socket.socket) -> bool:
    client.settimeout(0)
    try:
        return client.recv(1000) == b""
    except (BlockingIOError, TimeoutError):
        return False
    except OSError:
        return True


def chunked(data: bytes, size: int = 1) -> bytes:
    pieces = (data[at : at + size] for at in range(0, len(data), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def many(number: int, record: str) -> bytes:
    return f"[{','.join([record] * number)}]".encode()


RESULT = '{"id": "j", "state": "SUCCESS", "starttime": 1, "data": "", "args": %s}'
BODIES = {
    "wide": ("log", lambda: many(600_000, "{}")),
    "wide within the cap": ("log", lambda: many(200_000, "{}")),
    "lines": ("log", lambda: many(40_000, '{"jobid": "j", "id": 1, "level": 1, "data": "a line of some length"}')),
    "many jobs": ("log", lambda: ("[" + ",".join(f'{{"jobid":"{n}"}}' for n in range(50_000)) + "]").encode()),
    "long line": ("log", lambda: json.dumps([{"jobid": "j", "data": "\n\U0001f600" * MIB}]).encode()),
    "deep": ("result", lambda: (RESULT % ("[" * 150_000 + "]" * 150_000)).encode()),
    "wide result": ("result", lambda: (RESULT % ("[" + "[]," * 400_000 + "[]]")).encode()),
    "many keys": ("result", lambda: (RESULT % json.dumps({str(n): n for n in range(200_000)})).encode()),
    "long text": ("result", lambda: json.dumps({"id": "j", "state": "SUCCESS", "data": "\n" * 6 * MIB}).encode()),
    "long numbers": ("result", lambda: (RESULT % ("[" + "9" * 4000 + ("," + "9" * 4000) * 1000 + "]")).encode()),
    "flushes": ("stats", lambda: many(170_000, '{"timestamp":1,"series":[]}')),
    "figures": (
        "stats",
        lambda: json.dumps([{"timestamp": 1, "series": [[f"key{n}", n] for n in range(80_000)]}]).encode(),
    ),
    "no JSON": ("event", lambda: b"[" * 60_000),
    "chunks of a byte": ("log", lambda: many(6_000, '{"jobid":"j","data":"x"}')),
    "commas in a text": (
        "result",
        lambda: json.dumps({"id": "j", "state": "SUCCESS", "data": "," * 600_000 + "\n" * 6 * MIB}).encode(),
    ),
    "white space": ("result", lambda: b" " * 20 * MIB + (RESULT % "1").encode()),
    "what is no UTF-8": ("log", lambda: b'[{"jobid": "j", "data": "' + b"\xff" * 8 * MIB + b'"}]'),
    "half characters": ("log", lambda: b'[{"jobid": "j", "data": "' + rb"\ud800" * 2 * MIB + b'"}]'),
    "a large result": (
        "result",
        lambda: json.dumps({"id": "j", "state": "SUCCESS", "data": "a line\n" * 7 * MIB}).encode(),
    ),
    "members within a script": (
        "job",
        lambda: json.dumps(
            {
                "id": "p",
                "cmd": "jumpscript_content",
                "gid": 1,
                "nid": 9,
                "data": '{"content": "x", "args": [' + "[]," * 2 * MIB + "1]}",
            }
        ).encode(),
    ),
    "long id": ("result", lambda: json.dumps({"id": "j" * 6 * MIB, "state": "SUCCESS"}).encode()),
    "a job": (
        "job",
        lambda: json.dumps(
            {
                "id": "p",
                "cmd": "x",
                "gid": 1,
                "nid": 9,
                "wait_for_agent": 9,
                "args": {"a": ["x\n"] * 200_000},
                "data": "x\n" * 4 * MIB,
            }
        ).encode(),
    ),
    "a script": (
        "job",
        lambda: json.dumps(
            {
                "id": "p",
                "cmd": "jumpscript_content",
                "gid": 1,
                "nid": 9,
                "wait_for_agent": 9,
                "data": json.dumps({"content": "x\n" * 4 * MIB}),
            }
        ).encode(),
    ),
    "script": ("script", lambda: json.dumps({"content": "x\n" * (MIB - 20)}).encode()),
}


@pytest.mark.parametrize("shape", BODIES)
def test_no_body_holds_up_the_others(controller, agent, shape) -> None:
    endpoint, make = BODIES[shape]
    start(controller, agent)
    body = make()
    path = {"job": "/api/jobs", "script": "/api/scripts"}.get(endpoint, f"/1/10/{endpoint}")
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
    if shape.startswith("chunks"):
        request = head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body)
    else:
        request = head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    with longest_hold(controller) as longest:
        client = connect(controller)
        sending = gevent.spawn(client.sendall, request)
        answer = client.recv(1000)
        while client.recv(65536):
            pass
    sending.kill()
    assert answer.startswith(b"HTTP/1.1 ")
    assert takes_at_most(longest[0], HELD)
    assert plain().get(f"{controller.url}/1/10/ping", timeout=60).json() == "ok"


PING = b"GET /1/77/ping HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"POST /1/77/log HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "requests": (b"", PING + b"\r\n"),
    "requests for nothing": (b"", b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "chunks of a byte": (CHUNKED, b"1\r\nx\r\n"),
    "trailer": (CHUNKED + b"0\r\n", b"a: b\r\n"),
    "extensions": (CHUNKED, b"1;" + b"e" * 8000 + b"\r\nx\r\n"),
    "unread body": (PING + b"Content-Length: 99999999999\r\n\r\n", b"x" * 1000),
    "unread body of nothing": (b"POST /nothing HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"x" * 1000),
    "unread chunks": (PING + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "unread trailer": (PING + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n"),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_is_sent_without_end_holds_up_nobody(controller, kind) -> None:
    port = address_of(controller)[1]
    with flooding(port, *ENDLESS[kind]):
        wait_until(lambda: len(controller.controller._server.connections._open), what="the flood")
        with longest_stall() as stall:
            for _ in range(20):
                assert plain().get(f"{controller.url}/1/10/ping", timeout=60).json() == "ok"
                gevent.sleep(0.05)
    assert stall[0] < STALL
    assert not controller.said


@pytest.mark.parametrize("head", [PING, b"POST /nothing HTTP/1.1\r\nHost: localhost\r\n"])
@pytest.mark.parametrize("size", [60_000, 3_000_000])
def test_a_body_that_nobody_reads_is_answered_and_not_awaited(controller, head, size, monkeypatch) -> None:
    """A small one costs less than another connection; of a large one only so much is read that the answer arrives."""
    monkeypatch.setattr(paced, "LINGER_TIMEOUT", 60.0)  # else nobody reads the rest once we have stood still
    client = connect(controller, head + f"Content-Length: {size}\r\n\r\n".encode())
    client.settimeout(60)
    client.sendall(b"x" * size)
    answer = client.recv(1000)
    assert answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 404 "))
    assert (b"connection: close" in answer.lower()) == (size > 65536)
    client.sendall(PING + b"\r\n")
    rest = client.recv(1000)
    assert rest.startswith(b"HTTP/1.1 200 ") if size <= 65536 else not rest


def half_a_request(number: int) -> bytes:
    """Silence, the beginning of a head, or of a body."""
    body = b"POST /1/10/log HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n["
    return (b"", b"GET /1/10/ping HTTP/1.1\r\nHo", body)[number % 3]


def test_a_thousand_half_open_connections_shut_no_agent_out(make_controller) -> None:
    """Fewer may be open, as with a low limit of open files: the newest still get their turn."""
    controller = make_controller(Limits(connections=200, unasked_for=0.2, head=300, slow_body=300))
    agent = Agent(controller)
    parked = agent.poll()
    clients = []
    for number in range(1000):
        clients.append(connect(controller, half_a_request(number % 2)))
        if number % 50 == 0:
            gevent.sleep(0)
    assert plain().get(f"{controller.url}/1/10/ping", timeout=60).json() == "ok"
    controller.submit(id="j", gid=1, nid=10)
    assert parked.command()["id"] == "j"
    agent.finish("j")
    assert controller.state("j") == "SUCCESS"
    assert not controller.said
    for client in clients:
        client.close()


def test_idle_connections_go_when_there_are_too_many_and_parked_polls_stay(make_controller) -> None:
    controller = make_controller(Limits(connections=20))
    parked = [Agent(controller, nid=nid).poll() for nid in range(1, 6)]
    ping = b"GET /9/9/ping HTTP/1.1\r\nHost: x\r\n\r\n"
    idle = []
    for _ in range(100):
        client = connect(controller, ping)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        idle.append(client)
    assert sum(is_closed(client) for client in idle) >= 80
    assert not any(poll.over for poll in parked)
    for nid, poll in enumerate(parked, 1):
        controller.submit(id=f"j{nid}", gid=1, nid=nid)
        assert poll.command()["id"] == f"j{nid}"


def test_a_few_connections_of_one_address_may_wait_without_a_request(make_controller) -> None:
    controller = make_controller(Limits(unasked_per_address=5, unasked_for=0.2, head=300))
    silent = [connect(controller, half_a_request(number % 2)) for number in range(20)]
    wait_until(lambda: sum(map(is_closed, silent)) == 15, timeout=5, what="the oldest to be closed")
    assert not any(map(is_closed, silent[15:]))


@pytest.mark.parametrize("slowly", ["", "head", "body", "chunks", "unread"])
def test_a_request_has_to_come_in_time(make_controller, slowly) -> None:
    """A byte now and then keeps no connection open."""
    controller = make_controller(Limits(head=0.3, slow_body=0.3, idle=30))
    start_of = {
        "": b"",
        "head": b"GET /1/10/ping HTTP/1.1\r\nX: ",
        "body": b"POST /1/10/log HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n",
        "chunks": b"POST /1/10/log HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        "unread": b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n",
    }[slowly]
    client = connect(controller, start_of)
    drop = {"": b"", "chunks": b"1\r\n \r\n"}.get(slowly, b" ")

    def drips() -> bool:
        try:
            client.setblocking(True)
            client.sendall(drop)
        except OSError:
            return True
        return slowly != "unread" and is_closed(client)

    wait_until(drips, timeout=5, what="the connection to be closed", interval=0.05)


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 2",
        "Content-Length: 2\r\nContent-Length: 2",
        "Content-Length: +2",
        "Content-Length: 0_2",
        "Content-Length: 2, 2",
        "Content-Length : 2",
        "Content-Length: 2\r\n folded",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked, chunked",
        "Content-Length: 2\r\nHost: second",
        "Content-Length: 2\r\nno header",
        "Content-Length: 2\r\nX: " + "x" * 70_000,
        "Content-Length: 2\r\n" + "X: " + "x" * 30_000 + "\r\nY: " + "y" * 40_000,
    ],
)
def test_heads_that_readers_take_differently_are_refused(controller, headers) -> None:
    client = connect(controller, f"POST /1/10/log HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n[]".encode())
    client.settimeout(60)
    assert client.recv(1000).startswith(b"HTTP/1.1 400 ")
    wait_until(lambda: is_closed(client), what="the connection to be closed")
    assert not controller.said


def test_half_sent_bodies_take_no_more_memory_than_they_may_and_small_ones_get_through(make_controller) -> None:
    cap = 16 * MIB
    controller = make_controller(Limits(bodies=cap))
    agent = Agent(controller)
    head = f"POST /1/10/log HTTP/1.1\r\nHost: x\r\nContent-Length: {12 * MIB}\r\n\r\n".encode()
    piece = b" " * 4 * MIB
    before = resident()
    clients = []
    for _ in range(20):
        clients.append(connect(controller, head))
        gevent.spawn(clients[-1].sendall, piece)
        gevent.sleep(0.01)
    wait_until(lambda: sum(map(is_sent_away, clients)) >= 16, what="the others to be sent away", interval=0.1)
    assert agent.post("log", [{"jobid": "j", "data": "x"}]).json() == "ok"
    assert resident() - before < 1.5 * cap
    sent_away = next(client for client in clients if is_sent_away(client))
    answer = sent_away.recv(1000)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 5" in answer.lower()


def is_sent_away(client: socket.socket) -> bool:
    """And not answered at the end of a poll, which comes on a slow machine too."""
    client.settimeout(0)
    try:
        return client.recv(13, socket.MSG_PEEK) == b"HTTP/1.1 503 "
    except OSError:
        return False


def poll_head(nid: int, parameters: str = "", *headers: str) -> bytes:
    lines = (f"GET /1/{nid}/cmd{parameters} HTTP/1.1", "Host: x", "User-Agent: greenagent/0.2.0", *headers, "", "")
    return "\r\n".join(lines).encode()


def parked_polls(controller: LocalController) -> int:
    agents = controller.services.agents
    return sum(len(agent.parked) for nid in range(1, 200) if (agent := agents.get((1, nid))))


LARGE_HEADS = pytest.mark.parametrize("headers", [["A: " + "x" * 60_000], [f"A{n}: {'x' * 600}" for n in range(95)]])


@LARGE_HEADS
def test_parked_polls_hold_no_heads(make_controller, headers) -> None:
    controller = make_controller(Limits(heads=2 * MIB, poll=300))  # or the first polls come to their end meanwhile
    first = [connect(controller, poll_head(nid, "", *headers)) for nid in range(200, 230)]
    before = resident()
    clients = [connect(controller, poll_head(nid, "", *headers)) for nid in range(1, 200)]
    wait_until(lambda: parked_polls(controller) == len(clients), what="the polls", interval=0.05)
    assert not any(map(is_sent_away, clients))
    assert resident() - before < 8 * MIB  # of 199 times 120,000 bytes
    controller.submit(id="j", gid=1, nid=199)
    wait_until(lambda: controller.state("j") == "RUNNING", what="the poll to be answered")
    for client in (*first, *clients):
        client.close()
    wait_until(lambda: not parked_polls(controller), what="their ends", interval=0.05)


@LARGE_HEADS
def test_heads_of_requests_in_work_take_no_more_memory_than_they_may_and_small_ones_get_through(
    make_controller, headers
) -> None:
    cap = 48 * MIB
    controller = make_controller(Limits(heads=cap))
    controller.submit(id="never", gid=1, nid=1, wait_for_agent=300)
    connections = controller.controller._server.connections._open

    def ask(job_id: str, *headers: str) -> list[socket.socket]:
        lines = (f"GET /api/jobs/{job_id}?wait=300 HTTP/1.1", "Host: localhost", *headers, "", "")
        found = []
        for _ in range(450):
            found.append(connect(controller, "\r\n".join(lines).encode()))
            gevent.sleep(0.001)
        return found

    controller.submit(id="ends", gid=1, nid=1, wait_for_agent=300)
    small = ask("ends")  # so that what requests take beside their heads is there, and free, when the others come
    wait_until(lambda: sum(one.phase == ANSWERED for one in connections) == len(small), what="the small requests")
    controller.post("jobs/ends/kill", {})
    for client in small:
        client.close()
    wait_until(lambda: not connections, what="their ends")
    before = resident()
    clients = ask("never", *headers)
    wait_until(lambda: sum(map(is_sent_away, clients)) >= 25, what="the others to be sent away", interval=0.1)
    assert Agent(controller).post("log", [{"jobid": "j", "data": "x"}]).json() == "ok"
    assert resident() - before < 1.3 * cap
    answer = next(client for client in clients if is_sent_away(client)).recv(1000)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 5" in answer.lower()
    parked = Agent(controller, nid=1000).poll()
    controller.submit(id="j", gid=1, nid=1000)
    assert parked.command()["id"] == "j"
    for client in clients:
        client.close()


def test_roles_of_agents_take_no_more_memory_than_they_may() -> None:
    """Those of the agents that name most go, and no honest agent's."""
    cap = 2 * MIB
    table = AgentTable(Limits(roles=cap))
    honest = AgentKey(1, 1)
    table.poll_began(Poll(honest, ("web", "database")))
    for nid in range(2, 1000):
        agent = table.poll_began(Poll(AgentKey(1, nid), tuple(f"{nid}.{n}" for n in range(500))))
        table.poll_ended(agent)
    assert cap / 2.5 < held_by(table) < 1.5 * cap
    assert table.live(Target(AgentKey(0, 0), ("web",), False))
    left_out = table.newly_without_roles()
    assert honest not in left_out
    assert 800 < len(left_out) < 1000
    assert not table.newly_without_roles()


def test_agents_whose_roles_are_too_many_are_said(make_controller) -> None:
    controller = make_controller(Limits(roles=20_000))
    Agent(controller, nid=7, roles=[f"role{n}" for n in range(500)]).poll()
    wait_until(lambda: controller.said, what="the controller to say so")
    assert controller.said == [
        "agents name more roles than 20000 bytes hold: those of 1:7 are left out until the next poll"
    ]
    parked = Agent(controller, nid=8, roles=["web"]).poll()
    controller.submit(id="j", roles=["web"])
    assert parked.command()["id"] == "j"


def test_bodies_that_do_not_come_leave_descriptors_for_others(make_controller) -> None:
    """More connections at once than there are descriptors: nobody counts them before they are accepted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    controller = make_controller()
    agent = Agent(controller)
    clients = [socket.socket() for _ in range(300)]
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 150, hard))
    try:
        for client in clients:
            client.connect(address_of(controller))
            client.sendall(b"POST /1/2/result HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
        clients.pop().close()  # the agent's own side, in this process too, needs one
        assert plain().get(f"{agent.url}/ping", timeout=60).json() == "ok"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for client in clients:
            client.close()


def test_scripts_take_no_more_memory_than_they_may() -> None:
    """One wide character makes a text four times as large."""
    cap = MIB
    store = ScriptStore(StateFile(None), Limits(script_bytes=cap))
    for number in range(100):
        store.store(Script.of(f"{number}\U0001f600" + "x" * 20_000))
        assert held_by(store) < 1.5 * cap
    for number in range(10_000):
        store.store(Script.of(f"{number}"))
    assert cap / 2.5 < held_by(store) < 1.5 * cap


def test_a_command_has_only_so_many_roles(controller, agent) -> None:
    answer = controller.post("jobs", {"cmd": "x", "roles": [f"r{n}" for n in range(1001)], "wait_for_agent": 9})
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "a command has 1000 roles at most, each of 8192 characters"},
    )


def test_a_job_that_is_forgotten_is_freed_at_once(make_controller) -> None:
    """Adopted ones of 20 MiB each stayed until the collector looked."""
    controller = make_controller(Limits(adopted_jobs=1))
    agent = Agent(controller)
    gc.collect()
    gc.disable()
    try:
        agent.finish("freed")
        agent.finish("second")
        assert not [one for one in gc.get_objects() if isinstance(one, Job) and one.id == "freed"]
    finally:
        gc.enable()
