"""The agents' endpoints and their original answers (protocol 1.2); bodies that may be anything."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import time

import gevent
import pytest
import requests

from greenagent.controller.limits import Limits
from tests.support.controllers import ControllerProcess
from tests.support.local_controller import Agent, plain
from tests.support.waiting import wait_until

RUBBISH = [
    b"",
    b"{",
    b"nonsense",
    b"\xff\xfe\x00",
    b"[" * 50_000,
    b'{"a":' * 10_000,
    b"[" * 500 + b"]" * 500,
    b"null",
    b"1e999",
    b"[1, 2]",
    b'[{"series": 5}, 7]',
    b'"text"',
]


def test_good_posts_are_ok(controller, agent) -> None:
    line = {"id": 1, "jobid": "j", "level": 1, "data": "x", "epoch": 5}
    for endpoint, value in (
        ("log", [line]),
        ("log", []),
        ("stats", [{"timestamp": 60, "series": [["1.10.d.n.k", 1.5]]}]),
        ("event", {"name": "startup"}),
    ):
        answer = agent.post(endpoint, value)
        assert (answer.status_code, answer.text) == (200, '"ok"')


@pytest.mark.parametrize("endpoint", ["result", "log", "stats", "event"])
@pytest.mark.parametrize("body", RUBBISH, ids=lambda body: repr(body[:12]))
def test_rubbish_is_refused_and_nothing_breaks(controller, endpoint, body) -> None:
    answer = plain().post(f"{controller.url}/1/10/{endpoint}", data=body, timeout=60)
    expected = {"result": "json error", "stats": "json error", "log": "error", "event": "Error"}[endpoint]
    assert (answer.status_code, answer.json()) == (500, expected)
    assert not any("internal error" in line for line in controller.said)
    assert plain().get(f"{controller.url}/1/10/ping", timeout=60).status_code == 200


def test_an_event_counts_as_contact_and_leaves_the_roles(controller) -> None:
    agent = Agent(controller, roles=["web"])
    agent.poll()
    agent.post("event", {"name": "startup"})
    [shown] = controller.get("agents")["agents"]
    assert shown["roles"] == ["web"]
    assert shown["live"]
    assert abs(shown["last_contact"] - time.time()) < 30


def test_bodies_over_the_limit_are_refused_unread(make_controller) -> None:
    controller = make_controller(Limits(result_body=1000, job_body=1000))
    answer = plain().post(f"{controller.url}/1/10/result", data=b"x" * 2000, timeout=60)
    assert answer.status_code == 413
    assert controller.post("jobs", {"data": "x" * 2000}).status_code == 413
    answer = plain().post(f"{controller.url}/1/10/result", data=iter([b"x" * 600] * 4), timeout=60)
    assert answer.status_code == 413


def test_a_body_of_a_hundred_megabytes_is_refused_at_once(controller) -> None:
    with socket.create_connection(("127.0.0.1", int(controller.url.rpartition(":")[2]))) as connection:
        connection.sendall(b"POST /1/10/result HTTP/1.1\r\nHost: x\r\nContent-Length: 104857600\r\n\r\n")
        assert b"413" in connection.recv(1000).split(b"\r\n")[0]


def test_a_body_that_ends_early_is_a_body_error(controller) -> None:
    with socket.create_connection(("127.0.0.1", int(controller.url.rpartition(":")[2]))) as connection:
        connection.sendall(b"POST /1/10/result HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{}")
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(1000)
    assert answer.split(b" ")[1] == b"500"
    assert answer.endswith(b'"body error"')


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"GET /1/10/cmd HTTP/9.9\r\n\r\n",
        b"GET " + b"/a" * 10_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /1/10/result HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /1/10/result HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /1/10/result HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /1/10/cmd HTTP/1\r\n\r\n",
        b"GET /1/10/cmd HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 101 + b"\r\n",
        b"GET /1/10/cmd HTTP/1.1\r\nHost: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET /1/10/cmd HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /1/10/cmd HTTP/1.1\r\n: empty\r\n folded\r\n\r\n",
        b"GET /1/10/cmd HTTP/1.1\r\n\xff\xfe: \x00\r\n\x0b: x\r\n\r\n",
        b"GET http://[::1/1/10/cmd HTTP/1.1\r\nHost: [\r\n\r\n",
        b"GET \x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=range(16),
)
@pytest.mark.parametrize("ends", ["shut down", "reset"])
def test_broken_http_breaks_nothing(controller, request_bytes, ends, capfd) -> None:
    for _ in range(1 if ends == "shut down" else 5):
        with socket.create_connection(("127.0.0.1", int(controller.url.rpartition(":")[2]))) as connection:
            try:
                connection.sendall(request_bytes)
                if ends == "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    continue
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1000):
                    pass
            except ConnectionError:
                pass  # answered and closed before all was read
    url = f"{controller.url}/9/9/ping"
    assert plain().get(url, headers={"Connection": "close"}, timeout=60).status_code == 200
    wait_until(lambda: not len(controller.controller._server.pool), what="the connections to be over")
    assert [agent["nid"] for agent in controller.get("agents")["agents"] if agent["nid"] != 10] == []
    assert capfd.readouterr() == ("", "")
    assert not controller.said


def test_scripts_are_served_by_hash(controller, agent) -> None:
    content = "def action():\n    return 'é'\n"
    digest = hashlib.md5(content.encode()).hexdigest()
    answer = controller.post("scripts", {"content": content})
    assert (answer.status_code, answer.json()) == (201, {"hash": digest})
    served = plain().get(f"{agent.url}/script", params={"hash": digest}, timeout=60)
    assert served.content == content.encode()
    missing = plain().get(f"{agent.url}/script", timeout=60)
    assert (missing.status_code, missing.text) == (400, "Missing 'hash' param")
    unknown = plain().get(f"{agent.url}/script", params={"hash": "0" * 32}, timeout=60)
    assert unknown.status_code == 404
    assert "0" * 32 in unknown.text


def test_jumpscript_content_is_sent_by_hash(controller, agent) -> None:
    poll = agent.poll()
    content = "def action(a):\n    return a\n"
    data = json.dumps({"content": content, "args": {"a": 1}})
    controller.submit(cmd="jumpscript_content", gid=1, nid=10, data=data)
    command = poll.command()
    digest = hashlib.md5(content.encode()).hexdigest()
    assert json.loads(command["data"]) == {"args": {"a": 1}, "hash": digest}
    assert plain().get(f"{agent.url}/script", params={"hash": digest}, timeout=60).text == content
    answer = controller.post("jobs", {"cmd": "jumpscript_content", "gid": 1, "nid": 10, "data": "x"})
    assert answer.status_code == 400


@pytest.mark.local
def test_old_scripts_go(make_controller) -> None:
    controller = make_controller(Limits(script_age=0, script_bytes=10))
    digest = controller.post("scripts", {"content": "x"}).json()["hash"]
    controller.services.scripts.trim()
    assert plain().get(f"{controller.url}/1/10/script", params={"hash": digest}, timeout=60).status_code == 404


def test_neither_a_ping_nor_a_command_that_waits_makes_an_agent(controller) -> None:
    assert plain().get(f"{controller.url}/77/88/ping", timeout=60).text == '"ok"'
    controller.submit(id="w", gid=1, nid=31, wait_for_agent=30)
    assert controller.get("agents") == {"agents": []}
    agent = Agent(controller, nid=31)
    assert agent.poll().command()["id"] == "w", "it comes after all"


def test_a_web_page_cannot_take_commands(controller) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = plain().get(f"{controller.url}/1/10/cmd", headers=headers, timeout=60)
        assert answer.status_code == 403
    assert controller.get("agents") == {"agents": []}


@pytest.mark.parametrize(
    "headers",
    [{"User-Agent": "Mozilla/5.0 (X11)"}, {"Accept-Language": "en"}, {"Referer": "http://x/"}, {"Cookie": "a=b"}],
)
def test_a_page_opened_under_a_name_of_the_controllers_takes_no_commands(controller, headers) -> None:
    """As DNS rebinding does: neither Origin nor Sec-Fetch-Site is sent."""
    answer = plain().get(f"{controller.url}/1/10/ping", headers=headers, timeout=60)
    assert answer.status_code == 403


def test_connections_have_no_delay(controller, agent) -> None:
    """Nagle's algorithm and delayed acknowledgements would cost 40 ms for each of these, on any machine."""
    session = plain()
    body = json.dumps({"name": "startup", "data": "x" * 2000})
    took = []
    for _ in range(100):
        began = time.monotonic()
        session.post(f"{agent.url}/event", data=body, timeout=60)
        took.append(time.monotonic() - began)
    assert sorted(took)[10] < 0.035, "a tenth of them, that no other program held up"


def test_five_hundred_parked_polls_are_each_woken_by_their_own_command(make_controller) -> None:
    controller = make_controller(Limits(poll=300))
    port = int(controller.url.rpartition(":")[2])
    connections = {}
    for nid in range(1, 501):
        connections[nid] = socket.create_connection(("127.0.0.1", port))
        connections[nid].sendall(b"GET /1/%d/cmd?role=all HTTP/1.1\r\nHost: x\r\n\r\n" % nid)
    agents = controller.services.agents
    wait_until(lambda: len(agents.live(_everybody())) == 500, what="500 polls", timeout=20)
    assert len(controller.submit(id="f", roles=["all"], fanout=True)["agents"]) == 500

    def read(connection: socket.socket) -> bytes:
        received = b""
        while b'"id": "f"' not in received:
            chunk = connection.recv(65536)
            assert chunk, controller.said
            received += chunk
        return received

    readers = [gevent.spawn(read, connection) for connection in connections.values()]
    gevent.joinall(readers, timeout=60, raise_error=True)
    assert all(reader.successful() for reader in readers)
    for connection in connections.values():
        connection.close()
    wait_until(lambda: not any(agent.open_polls for agent in agents.all()), what="all polls to be over")


def _everybody():
    from greenagent.controller.model import AgentKey, Target

    return Target(AgentKey(0, 0), ("all",), True)


@pytest.mark.parametrize("with_state", [False, True], ids=["memory", "state"])
def test_a_stop_while_agents_poll_on_kept_connections_is_silent(tmp_path, with_state) -> None:
    options = ("--state", str(tmp_path / "state.db")) if with_state else ()
    process = ControllerProcess(tmp_path, *options)
    answers: list[tuple[int, str, str]] = []

    def poll_again_and_again(nid: int) -> None:
        session = plain()
        try:
            while True:
                answer = session.get(f"{process.url}/1/{nid}/cmd", timeout=75)
                answers.append((answer.status_code, answer.text, answer.headers.get("Connection", "")))
        except requests.ConnectionError:
            session.close()

    pollers = [gevent.spawn(poll_again_and_again, nid) for nid in range(1, 6)]
    idle = plain()

    def all_live() -> bool:
        return sum(one["live"] for one in idle.get(f"{process.url}/api/agents", timeout=60).json()["agents"]) == 5

    try:
        wait_until(all_live, what="the agents to poll")
        assert process.stop() == 0
    finally:
        process.stop()
        gevent.joinall(pollers, timeout=60)
    assert process.said == []
    assert all(poller.successful() for poller in pollers)
    assert answers == [(200, "", "close")] * 5
