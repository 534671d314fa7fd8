"""Requests to controllers of every kind, also hostile ones: each ends in time, with one reason."""

from __future__ import annotations

import gc
import gzip
import io
import itertools
import resource
import socket
import time
import weakref
from collections.abc import Callable

import gevent
import pytest
from gevent.pool import Group
from gevent.server import StreamServer

from greenagent.uplink import http as http_module
from greenagent.uplink.answer import TransportError
from greenagent.uplink.connection import BoundedResponse, read_plain
from greenagent.uplink.health import ControllerHealth
from greenagent.uplink.http import HttpClient
from greenagent.uplink.proxy import proxy_variable
from tests.support import recording_controller as behaviour
from tests.support.agent_logs import RecordedLog
from tests.support.certificates import security, server_context, write_authority
from tests.support.floods import STALL, endless_server, longest_stall
from tests.support.recording_controller import RecordingController, status
from tests.support.uplink import Uplink
from tests.support.waiting import wait_until

BODY = b'{"a": 1}'
HEAD = b"HTTP/1.1 200 OK\r\n"
OPTIONS = ("KEEPIDLE", "KEEPINTVL", "KEEPCNT", "USER_TIMEOUT", "NODELAY")


def fresh(controller: RecordingController, **options: object) -> HttpClient:
    """A client whose next request opens the connection."""
    return Uplink(controller.url, **options).client()


def answered(controller: RecordingController, **options: object) -> HttpClient:
    """A client whose next request goes over a connection on which an answer came before."""
    client = fresh(controller, **options)
    controller.push(BODY)
    assert client.get("cmd").body == BODY
    assert client._connection is not None
    assert client._connection.is_usable
    return client


EXCHANGES = pytest.mark.parametrize("open_client", [fresh, answered], ids=["first", "next"])


@pytest.mark.parametrize(
    ("order", "kind", "reason"),
    [
        (behaviour.close_at_once(), "closed", "it closed the connection without an answer"),
        (behaviour.close_half_way(), "closed", "it closed the connection in the middle of an answer"),
        (behaviour.rubbish(), "rubbish", "its answer is not HTTP"),
        (behaviour.raw(b"HTTP/1.1 999999 \xff\r\n\r\n"), "rubbish", "its answer is not HTTP"),
        (behaviour.raw(HEAD + b"X: y\r\n" * 500 + b"\r\n"), "rubbish", "its answer is not HTTP"),
        (behaviour.raw(HEAD + b"X: " + b"y" * 100_000), "rubbish", "its answer is not HTTP"),
        (
            behaviour.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
            "closed",
            "it closed the connection in the middle of an answer",
        ),
        (
            behaviour.raw(HEAD + b"Content-Length: 40\r\n\r\nabcd"),
            "closed",
            "it closed the connection in the middle of an answer",
        ),
        (
            behaviour.raw(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"),
            "rubbish",
            "its answer is not HTTP",
        ),
        (behaviour.hang(), "timeout", "it did not answer in time"),
        (behaviour.dribble(head=True), "timeout", "it did not answer in time"),
        (behaviour.dribble(), "timeout", "it did not answer in time"),
        (behaviour.huge(50_000_000), "too-large", "its answer is larger than 1000000 bytes"),
    ],
    ids=[
        "closed", "half-way", "rubbish", "status", "headers", "header", "chunk", "short", "gzip", "hang",
        "dribbled-head", "dribbled-body", "huge",
    ],
)  # fmt: skip
@EXCHANGES
def test_a_poll_ends_in_time_with_one_reason_whatever_comes_back(order, kind, reason, open_client):
    with RecordingController() as controller:
        # A short time only where time is what ends it: elsewhere a machine that stands still would decide.
        patience = 0.3 if kind == "timeout" else 60
        poller = open_client(controller, body_grace=patience, command_limit=1_000_000)
        controller.misbehave("cmd", order)
        with pytest.raises(TransportError) as caught, gevent.Timeout(60):
            poller.get("cmd", timeout=patience)
        assert (caught.value.kind, caught.value.reason) == (kind, reason)
        controller.behave()
        controller.push(b"{}")
        assert poller.get("cmd").body == b"{}", "the next request works"
    assert controller.errors == []


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"Content-Length: 8\r\n\r\n" + BODY,
        HEAD + b"Content-Length:8\r\nConnection: Keep-Alive\r\n\r\n" + BODY,
        HEAD + b"CONTENT-LENGTH: 8\r\nX-Long: a\r\n b\r\n\r\n" + BODY,
        HEAD + b"Content-Length: 8\r\nContent-Length: 8\r\n\r\n" + BODY,
        HEAD + b"Content-Length: 8\r\nConnection: close\r\n\r\n" + BODY,
        HEAD.replace(b"\r", b"") + b"Content-Length: 8\n\n" + BODY,
        b"HTTP/1.0 200 OK\r\nContent-Length: 8\r\n\r\n" + BODY,
        b"HTTP/1.1 200\r\nContent-Length: 8\r\n\r\n" + BODY,
        b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"Content-Length: 8\r\n\r\n" + BODY,
        HEAD + b"\r\n" + BODY,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\n" + BODY[:4] + b"\r\n4;x=y\r\n" + BODY[4:] + b"\r\n0\r\n\r\n",
        HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(BODY),
    ],
    ids=[
        "plain", "keep-alive", "folded", "twice", "close", "line-feeds", "1.0", "no-reason", "continue",
        "until-closed", "chunked", "gzip",
    ],
)  # fmt: skip
@pytest.mark.parametrize("bytewise", [False, True], ids=["at-once", "bytewise"])
@EXCHANGES
def test_every_form_of_an_answer_means_the_same(answer, bytewise, open_client):
    with RecordingController() as controller:
        poller = open_client(controller)
        pieces = [answer[at : at + 1] for at in range(len(answer))] if bytewise else [answer]
        controller.misbehave("cmd", behaviour.raw(*pieces, pause=0.0001 if bytewise else 0))
        assert poller.get("cmd").body == BODY
        wait_until(lambda: not controller.open_connections, what="the controller to close")
        controller.behave()
        controller.push(b"{}")
        assert poller.get("cmd").body == b"{}", "the next request works"
    assert controller.errors == []


@EXCHANGES
def test_a_poll_has_no_body(open_client):
    """Not even an empty one, which would be sent in chunks."""
    with RecordingController() as controller:
        client = open_client(controller)
        controller.push(BODY)
        client.get("cmd")
        assert "Transfer-Encoding" not in controller.polls[-1].headers


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
TOO_MUCH = "its answer has more than 1048576 bytes beside its content"
ENDLESS = {
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", TOO_MUCH),
    "headers": (HEAD, b"a: b\r\n", "its answer is not HTTP"),
    "trailer": (CHUNKED + b"0\r\n", b"a: b\r\n", TOO_MUCH),
    "chunks of a byte": (CHUNKED, b"1\r\nx\r\n", "its answer is larger than 1000000 bytes"),
    "extensions": (CHUNKED, b"1;" + b"e" * 30_000 + b"\r\nx\r\n", TOO_MUCH),
    "body": (HEAD + b"\r\n", b"x" * 1000, "its answer is larger than 1000000 bytes"),
}


@pytest.mark.parametrize("ordinary", [0, 1], ids=["first", "next"])
@pytest.mark.parametrize("kind", ENDLESS)
def test_an_answer_without_end_ends_with_one_reason_and_holds_up_nobody(kind, ordinary):
    head, piece, reason = ENDLESS[kind]
    with endless_server(head, piece, ordinary) as url:
        client = Uplink(url, command_limit=1_000_000).client()
        for _ in range(ordinary):
            assert client.get("cmd").body == b'"ok"'
        with longest_stall() as stall, pytest.raises(TransportError) as caught, gevent.Timeout(60):
            client.get("cmd")
        assert caught.value.reason == reason
    assert stall[0] < STALL


@pytest.mark.parametrize("ordinary", [0, 1], ids=["first", "next"])
@pytest.mark.parametrize("kind", ENDLESS)
def test_a_post_that_is_answered_without_end_holds_up_nobody(kind, ordinary):
    """Once the status is there, it says all that counts."""
    head, piece, _ = ENDLESS[kind]
    with endless_server(head, piece, ordinary) as url:
        client = Uplink(url).client()
        for _ in range(ordinary):
            assert client.post("result", b"{}").ok
        with longest_stall() as stall, gevent.Timeout(60):
            if kind in ("continue", "headers"):
                with pytest.raises(TransportError):
                    client.post("result", b"{}")
            else:
                assert client.post("result", b"{}").ok
    assert stall[0] < STALL


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 1_000_000])
def test_bodies_of_every_size_arrive_whole_both_ways(size):
    with RecordingController() as controller:
        both = answered(controller)
        text = b'"' + b"x" * size + b'"'
        controller.push(text)
        assert both.get("cmd").body == text
        assert both.post("event", text).ok
        assert controller.events == ["x" * size]
        assert controller.connections == 1


def test_what_says_that_it_closes_is_not_used_again():
    with RecordingController() as controller:
        poller = answered(controller)
        controller.misbehave(
            "cmd", behaviour.raw(HEAD + b"Connection: close\r\nContent-Length: 8\r\n\r\n" + BODY, b"", pause=0.2)
        )
        poller.get("cmd")
        assert poller._connection is not None
        assert not poller._connection.is_usable
        controller.behave()
        controller.push(b"{}")
        assert poller.get("cmd").body == b"{}"
        assert controller.connections == 2


class Ended:
    """A connection on which nothing more comes."""

    def makefile(self, mode: str, buffering: int) -> io.BytesIO:
        return io.BytesIO()


PIECES = [
    b"\n", b"\r", b": ", b":", b" ", b"\t", b"X", b"abc", b"\xff\xe4", b"\x00", b"\x85", b"\x0b", b"\x1c", b"(", b"3",
    b"+3", b"Content-Length", b"content-length: 3", b"Connection: close", b"Connection: Keep-Alive",
    b"Transfer-Encoding: chunked",
]  # fmt: skip


def test_an_answer_that_is_read_by_hand_means_the_same_to_http_client():
    taken = 0
    lines = [b"".join(pieces) for count in (1, 2) for pieces in itertools.product(PIECES, repeat=count)]
    for line in lines:
        for head in (line, line + b"\r\nContent-Length: 3", b"Content-Length: 3\r\n" + line):
            received = b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\nabc"
            answer = read_plain(received, received.find(b"\r\n\r\n"))
            if answer is None:
                continue
            taken += 1
            parsed = BoundedResponse(Ended(), method="GET", received=received)
            parsed.begin()
            assert not parsed.will_close, head
            assert (parsed.status, parsed.read()) == (answer.status, answer.body), head
            headers = {name.lower(): value.strip(" \t") for name, value in parsed.msg.items()}
            assert headers == answer.headers, head
    assert 50 < taken < len(lines), "some are ordinary, most are not"


def test_a_host_that_refuses_and_a_name_that_does_not_exist():
    with RecordingController() as controller:
        pass
    with pytest.raises(TransportError, match="refuses the connection") as caught:
        fresh(controller).get("cmd")
    assert caught.value.kind == "refused"
    with pytest.raises(TransportError, match="cannot be resolved") as caught:
        Uplink("http://does-not-exist.invalid:1").client().get("cmd")
    assert caught.value.kind == "name"


def test_an_agent_without_a_free_descriptor_is_not_the_controllers_fault():
    with RecordingController() as controller:
        client = fresh(controller)
        client.post("event", b"{}")
        client.close()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(TransportError, match="could not be sent: Too many open files") as caught:
                client.post("event", b"{}")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert caught.value.kind == "local"


def test_redirects_are_an_answer_and_are_not_followed():
    with RecordingController() as controller:
        controller.misbehave("cmd", behaviour.redirect(controller.url + "/1/10/event"))
        assert fresh(controller).get("cmd").status == 302
        assert controller.posts == []


def test_an_endless_answer_to_a_post_does_not_change_what_its_status_said():
    with RecordingController() as controller:
        controller.misbehave("result", behaviour.huge(1 << 30))
        sender = fresh(controller)
        assert sender.post("result", b"{}").ok
        controller.behave()
        assert sender.post("result", b"{}").ok


def test_a_base_url_may_carry_a_path_and_a_slash_at_its_end():
    with RecordingController() as controller:
        Uplink(controller.url + "/some/where/").client().post("event", b"{}")
        assert controller.events == [{}]


def test_roles_are_repeated_in_the_query_and_escaped():
    with RecordingController(park=0) as controller:
        poller = fresh(controller)
        for roles in ([], ["a", "b & c", "ü"]):
            poller.get("cmd", [("role", role) for role in roles])
            assert controller.polls[-1].roles == roles


def test_a_poll_can_be_called_off_and_a_body_that_has_begun_cannot():
    with RecordingController() as controller:
        poller = fresh(controller)
        poll = gevent.spawn(outcome, poller.get, "cmd")
        controller.wait_for_poll()
        assert poller.interrupt()
        error = poll.get(timeout=60)
        assert isinstance(error, TransportError)
        assert error.kind == "interrupted"
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
        controller.misbehave("cmd", behaviour.raw(answer, b'{"a"', b": 1}", b" ", pause=0.1))
        poll = gevent.spawn(poller.get, "cmd")
        wait_until(lambda: not poller._may_be_called_off and not poll.ready(), what="a body")
        assert not poller.interrupt()
        assert poll.get(timeout=60).body == b'{"a": 1} '


@pytest.mark.parametrize("way", ["opening", "open", "proxy"])
@pytest.mark.parametrize("comes", ["before", "just after"])
def test_an_answer_that_lies_unread_is_taken_when_the_poll_is_called_off(monkeypatch, way, comes):
    """The controller has handed the command over: closed now, it would be lost."""
    answer = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    called_off: list[bool] = []

    def serve(client: socket.socket, _: object) -> None:
        for _ in range(1 if way == "opening" else 2):
            called_off.clear()
            client.recv(4096)
            # Nobody has a turn between these.
            if comes == "before":
                client.sendall(answer)
            called_off.append(poller.interrupt())
            if comes == "just after":
                client.sendall(answer)
        client.recv(4096)

    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    url = f"http://127.0.0.1:{server.server_port}"
    if way == "proxy":
        monkeypatch.setenv("http_proxy", url)
        url = "http://controller.invalid:8966"
    poller = Uplink(url).client()
    for _ in range(1 if way == "opening" else 2):
        assert poller.get("cmd").body == BODY
    assert called_off == [comes == "just after"]
    poller.close()
    server.stop(timeout=0)


def test_a_poll_over_tls_can_be_called_off_from_its_beginning_on(tmp_path):
    """What a server sends of TLS itself lies there at times, and is no answer."""
    import trustme

    authority = trustme.CA()
    trusted = security(write_authority(authority, tmp_path / "ca"))
    with RecordingController(tls=server_context(authority.issue_cert("127.0.0.1"))) as controller:
        for _ in range(5):
            poller = fresh(controller, security=trusted)
            poll = gevent.spawn(outcome, poller.get, "cmd")
            wait_until(lambda poller=poller: poller._may_be_called_off, what="the request")
            poller.interrupt()
            error = poll.get(timeout=60)
            assert isinstance(error, TransportError)
            assert error.kind == "interrupted"


def test_a_poll_that_is_held_for_an_answer_can_still_be_aborted():
    """Half a head may be all that ever comes."""
    with RecordingController() as controller:
        controller.misbehave("cmd", behaviour.dribble(head=True))
        poller = fresh(controller)
        poll = gevent.spawn(outcome, poller.get, "cmd")
        controller.wait_for_poll()
        poller.interrupt()
        poller.abort()
        error = poll.get(timeout=60)
        assert isinstance(error, TransportError)
        assert error.kind == "interrupted"


def outcome(function: Callable[..., object], *args: object) -> object:
    """What a call returns or raises."""
    try:
        return function(*args)
    except TransportError as error:
        return error


def test_calling_off_is_harmless_when_nothing_is_under_way():
    with RecordingController(park=0) as controller:
        poller = fresh(controller)
        assert not poller.interrupt()
        assert not poller.abort()
        assert poller.get("cmd").ok
        assert not poller.interrupt()
        gevent.sleep(0.01)
        assert poller.get("cmd").ok


def test_a_post_can_be_aborted():
    with RecordingController() as controller:
        controller.misbehave("result", behaviour.hang())
        sender = fresh(controller)
        post = gevent.spawn(outcome, sender.post, "result", b"{}")
        wait_until(lambda: controller.refused_posts, what="the post")
        assert not sender.interrupt(), "only polls are called off this way"
        assert sender.abort()
        assert isinstance(post.get(timeout=60), TransportError)


def test_a_time_limit_of_the_caller_stays_the_callers():
    with RecordingController() as controller:
        poller = fresh(controller)
        with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.1) as ours:
            poller.get("cmd")
        assert caught.value is ours


def test_each_request_has_the_whole_of_its_time_limit():
    """They share a timer: the time that earlier ones took is not taken from it."""
    limits = http_module._TimeLimits()
    for _ in range(4):
        with limits.of(3.0):
            gevent.sleep(0.8)
    with pytest.raises(http_module._OutOfTime), limits.of(0.1):
        gevent.sleep(60)


def test_a_connection_the_server_has_closed_is_not_used_again():
    with RecordingController(park=0) as controller:
        sender = fresh(controller)
        sender.post("event", b"{}")
        controller.stop()
        controller.start()
        sender.post("event", b"{}")
        assert len(controller.events) == 2


def test_one_that_hangs_slows_no_other():
    with RecordingController() as bad, RecordingController(park=0) as good:
        bad.misbehave("*", behaviour.hang())
        hanging = Group()
        for _ in range(20):
            hanging.spawn(fresh(bad).post, "event", b"{}")
        wait_until(lambda: len(bad.refused_posts) == 20, what="twenty hanging posts")
        sender = fresh(good)
        with gevent.Timeout(9):  # one that hangs is given up after ten
            for _ in range(20):
                assert sender.post("event", b"{}").ok
        hanging.kill()


def test_a_connection_finds_out_within_a_minute_that_the_other_side_is_gone():
    with RecordingController(park=0) as controller:
        sender = fresh(controller)
        assert sender.post("event", b"{}").ok
        sock = sender._connection._connection.sock
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        tcp = [sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}")) for name in OPTIONS]
        assert tcp == [30, 10, 3, 30_000, 1]


def test_a_proxy_of_the_environment_is_used_and_its_failure_named(monkeypatch):
    with RecordingController(park=0) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert Uplink("http://controller.invalid:8966").client().post("event", b"{}").ok
        assert proxy.events == [{}]
    with pytest.raises(TransportError, match="the proxy of the environment: it refuses") as caught:
        Uplink("http://controller.invalid:8966").client().post("event", b"{}")
    assert caught.value.kind == "proxy"


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_a_controller_on_this_machine_is_never_asked_through_a_proxy(monkeypatch, name, variable):
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with RecordingController() as direct:
        Uplink(f"http://{name}:{direct.port}").client().post("event", b"{}")
        assert direct.events == [{}]


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
def test_what_is_said_of_a_controller_names_the_variable_of_its_proxy(monkeypatch, variable):
    monkeypatch.setenv(variable, "http://proxy:3128")
    assert proxy_variable("https://controller.invalid") == variable
    log = RecordedLog()
    ControllerHealth("main", "https://controller.invalid", log).failed("results", "it does not let us in (status 403)")
    assert f"(https://controller.invalid, through the proxy of {variable})" in "\n".join(log.lines)
    monkeypatch.setenv("no_proxy", "controller.invalid")
    assert proxy_variable("https://controller.invalid") == ""


def test_tls_through_a_proxy_trusts_what_the_configuration_says(monkeypatch, tmp_path):
    import trustme

    authority = trustme.CA()
    trusted = security(write_authority(authority, tmp_path / "ca"))
    with RecordingController(tls=server_context(authority.issue_cert("controller.test"))) as controller:
        tunnels: list[bytes] = []

        def tunnel(client: socket.socket, _: object) -> None:
            request = b""
            while b"\r\n\r\n" not in request:
                request += client.recv(4096)
            tunnels.append(request.split()[0])
            server = socket.create_connection(("127.0.0.1", controller.port))
            client.sendall(b"HTTP/1.1 200 tunnel\r\n\r\n")
            gevent.joinall([gevent.spawn(copy, client, server), gevent.spawn(copy, server, client)])

        proxy = StreamServer(("127.0.0.1", 0), tunnel)
        proxy.start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.server_port}")
        try:
            url = f"https://controller.test:{controller.port}"
            assert Uplink(url, trusted).client().post("event", b"{}").ok
            with pytest.raises(TransportError, match="issuer is unknown"):
                Uplink(url).client().post("event", b"{}")
        finally:
            proxy.stop(timeout=0)
        assert tunnels == [b"CONNECT", b"CONNECT"]


def copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def test_many_requests_use_one_connection_and_leave_nothing_open():
    with RecordingController(park=0) as controller:
        sender = fresh(controller)
        began = time.process_time()
        for _ in range(200):
            sender.post("event", b"{}")
        assert controller.connections == 1
        print(f"{(time.process_time() - began) / 200 * 1000:.2f} ms of CPU for both sides of a post")
        controller.misbehave("event", status(503))
        sender.post("event", b"{}")
        sender.close()
        wait_until(lambda: not controller.open_connections, what="the connection to be closed")


def test_a_closed_client_is_forgotten_by_the_certificates_it_used():
    """Each script that is fetched has a client of its own: an agent that fetches many kept every one of them."""
    with RecordingController(park=0) as controller:
        uplink = Uplink(controller.url)
        sender = uplink.client()
        sender.post("event", b"{}")
        uplink.end(sender)
        forgotten = weakref.ref(sender)
        del sender
        gc.collect()
        assert forgotten() is None


def test_a_connection_that_was_idle_for_long_is_opened_anew(monkeypatch):
    with RecordingController(park=0) as controller:
        client = answered(controller)
        before = client._connection
        client.get("cmd")
        assert client._connection is before
        monkeypatch.setattr(http_module, "MAX_IDLE", -1.0)
        client.get("cmd")
        assert client._connection is not before


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\nA: b\r\nContent-Length: 0", b'HTTP/1.1 200 OK\r\nContent"Length: 1\r\nContent-Length: 0'],
)
def test_a_head_that_is_not_well_formed_is_left_to_the_parser_of_the_first_answer(head):
    assert read_plain(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 34) is not None
    assert read_plain(head + b"\r\n\r\n", len(head)) is None
