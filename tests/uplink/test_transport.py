"""Requests to controllers of every kind, also hostile ones: each ends in time, with one reason."""

from __future__ import annotations

import gc
import socket
import time
import weakref
from collections.abc import Callable

import gevent
import pytest
from gevent.pool import Group
from gevent.server import StreamServer

from greenagent.uplink.transport import Transport, TransportError
from tests.support import recording_controller as behaviour
from tests.support.certificates import security, server_context, write_authority
from tests.support.recording_controller import RecordingController, status
from tests.support.waiting import wait_until
from tests.uplink.support import Uplink


def transport(controller: RecordingController, **options: object) -> Transport:
    return Uplink(controller.url, **options).transport()


@pytest.mark.parametrize(
    ("order", "kind", "reason"),
    [
        (behaviour.close_at_once(), "closed", "it closed the connection without an answer"),
        (behaviour.close_half_way(), "closed", "it closed the connection in the middle of an answer"),
        (behaviour.rubbish(), "rubbish", "its answer is not HTTP"),
        (behaviour.raw(b"HTTP/1.1 999999 \xff\r\n\r\n"), "rubbish", "its answer is not HTTP"),
        (behaviour.raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n"), "rubbish", "its answer is not HTTP"),
        (behaviour.raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000), "rubbish", "its answer is not HTTP"),
        (
            behaviour.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
            "closed",
            "it closed the connection in the middle of an answer",
        ),
        (
            behaviour.raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"),
            "rubbish",
            "its answer is not HTTP",
        ),
        (behaviour.hang(), "timeout", "it did not answer in time"),
        (behaviour.dribble(head=True), "timeout", "it did not answer in time"),
        (behaviour.dribble(), "timeout", "it did not answer in time"),
        (behaviour.huge(50_000_000), "too-large", "its answer is larger than 1000000 bytes"),
    ],
    ids=[
        "closed", "half-way", "rubbish", "status", "headers", "header", "chunk", "gzip", "hang",
        "dribbled-head", "dribbled-body", "huge",
    ],
)  # fmt: skip
def test_a_poll_ends_in_time_with_one_reason_whatever_comes_back(order, kind, reason):
    with RecordingController() as controller:
        controller.misbehave("cmd", order)
        poller = transport(controller, connect_timeout=0.3, body_grace=0.3, command_limit=1_000_000)
        with pytest.raises(TransportError) as caught, gevent.Timeout(10):
            poller.get("cmd", timeout=0.3)
        assert (caught.value.kind, caught.value.reason) == (kind, reason)
        controller.behave()
        controller.push(b"{}")
        assert poller.get("cmd").body == b"{}", "the next request works"
    assert controller.errors == []


def test_a_host_that_refuses_and_a_name_that_does_not_exist():
    with RecordingController() as controller:
        pass
    with pytest.raises(TransportError, match="refuses the connection") as caught:
        transport(controller).get("cmd")
    assert caught.value.kind == "refused"
    with pytest.raises(TransportError, match="cannot be resolved") as caught:
        Uplink("http://does-not-exist.invalid:1").transport().get("cmd")
    assert caught.value.kind == "name"


def test_redirects_are_an_answer_and_are_not_followed():
    with RecordingController() as controller:
        controller.misbehave("cmd", behaviour.redirect(controller.url + "/1/10/event"))
        assert transport(controller).get("cmd").status == 302
        assert controller.posts == []


def test_an_endless_answer_to_a_post_does_not_change_what_its_status_said():
    with RecordingController() as controller:
        controller.misbehave("result", behaviour.huge(1 << 30))
        sender = transport(controller)
        assert sender.post("result", b"{}").ok
        controller.behave()
        assert sender.post("result", b"{}").ok


def test_a_base_url_may_carry_a_path_and_a_slash_at_its_end():
    with RecordingController() as controller:
        Uplink(controller.url + "/some/where/").transport().post("event", b"{}")
        assert controller.events == [{}]


def test_roles_are_repeated_in_the_query_and_escaped():
    with RecordingController(park=0) as controller:
        poller = transport(controller)
        for roles in ([], ["a", "b & c", "ü"]):
            poller.get("cmd", [("role", role) for role in roles])
            assert controller.polls[-1].roles == roles


def test_a_poll_can_be_called_off_and_a_body_that_has_begun_cannot():
    with RecordingController() as controller:
        poller = transport(controller)
        poll = gevent.spawn(outcome, poller.get, "cmd")
        controller.wait_for_poll()
        assert poller.interrupt()
        error = poll.get(timeout=5)
        assert isinstance(error, TransportError)
        assert error.kind == "interrupted"
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
        controller.misbehave("cmd", behaviour.raw(answer, b'{"a"', b": 1}", b" ", pause=0.1))
        poll = gevent.spawn(poller.get, "cmd")
        wait_until(
            lambda: poller._adapter is not None and not poller._head._greenlet and not poll.ready(), what="a body"
        )
        assert not poller.interrupt()
        assert poll.get(timeout=5).body == b'{"a": 1} '


def outcome(function: Callable[..., object], *args: object) -> object:
    """What a call returns or raises."""
    try:
        return function(*args)
    except TransportError as error:
        return error


def test_calling_off_is_harmless_when_nothing_is_under_way():
    with RecordingController(park=0) as controller:
        poller = transport(controller)
        assert not poller.interrupt()
        assert not poller.abort()
        assert poller.get("cmd").ok
        assert not poller.interrupt()
        gevent.sleep(0.01)
        assert poller.get("cmd").ok


def test_a_post_can_be_aborted():
    with RecordingController() as controller:
        controller.misbehave("result", behaviour.hang())
        sender = transport(controller)
        post = gevent.spawn(outcome, sender.post, "result", b"{}")
        wait_until(lambda: controller.refused_posts, what="the post")
        assert not sender.interrupt(), "only polls are called off this way"
        assert sender.abort()
        assert isinstance(post.get(timeout=5), TransportError)


def test_a_time_limit_of_the_caller_stays_the_callers():
    with RecordingController() as controller:
        poller = transport(controller)
        with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.1) as ours:
            poller.get("cmd")
        assert caught.value is ours


def test_a_connection_the_server_has_closed_is_not_used_again():
    with RecordingController(park=0) as controller:
        sender = transport(controller)
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
            hanging.spawn(transport(bad).post, "event", b"{}")
        wait_until(lambda: len(bad.refused_posts) == 20, what="twenty hanging posts")
        sender = transport(good)
        with gevent.Timeout(5):
            for _ in range(20):
                assert sender.post("event", b"{}").ok
        hanging.kill()


def test_a_proxy_of_the_environment_is_used_and_its_failure_named(monkeypatch):
    with RecordingController(park=0) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert Uplink("http://controller.invalid:8966").transport().post("event", b"{}").ok
        assert proxy.events == [{}]
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with RecordingController() as direct:
            Uplink(direct.url).transport().post("event", b"{}")
            assert direct.events == [{}]
    with pytest.raises(TransportError, match="the proxy of the environment: it refuses") as caught:
        Uplink("http://controller.invalid:8966").transport().post("event", b"{}")
    assert caught.value.kind == "proxy"


def test_tls_through_a_proxy_trusts_what_the_configuration_says(monkeypatch, tmp_path):
    import trustme

    authority = trustme.CA()
    trusted = security(write_authority(authority, tmp_path / "ca"))
    with RecordingController(tls=server_context(authority.issue_cert("127.0.0.1"))) as controller:
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
            assert Uplink(controller.url, trusted).transport().post("event", b"{}").ok
            with pytest.raises(TransportError, match="issuer is unknown"):
                Uplink(controller.url).transport().post("event", b"{}")
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
        sender = transport(controller)
        began = time.process_time()
        for _ in range(200):
            sender.post("event", b"{}")
        assert controller.connections == 1
        print(f"{(time.process_time() - began) / 200 * 1000:.2f} ms of CPU for both sides of a post")
        controller.misbehave("event", status(503))
        sender.post("event", b"{}")
        sender.close()
        wait_until(lambda: not controller.open_connections, what="the connection to be closed")


def test_a_closed_transport_is_forgotten_by_the_certificates_it_used():
    """Each script that is fetched has a transport of its own: an agent that fetches many kept every one of them."""
    with RecordingController(park=0) as controller:
        uplink = Uplink(controller.url)
        sender = uplink.transport()
        sender.post("event", b"{}")
        sender.close()
        forgotten = weakref.ref(sender)
        del sender
        gc.collect()
        assert forgotten() is None
