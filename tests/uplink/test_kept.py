"""Requests over a connection that answered before mean and fail as the first one on it does."""

from __future__ import annotations

import gzip

import gevent
import pytest

from greenagent.uplink.transport import Transport, TransportError
from tests.support import recording_controller as behaviour
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until
from tests.uplink.support import Uplink

BODY = b'{"a": 1}'
HEAD = b"HTTP/1.1 200 OK\r\n"


def kept(controller: RecordingController, **options: object) -> Transport:
    """A transport whose next request goes over a connection that is open."""
    transport = Uplink(controller.url, **options).transport()
    controller.push(BODY)
    assert transport.get("cmd").body == BODY
    assert transport._kept is not None
    assert transport._kept.is_usable
    return transport


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
def test_a_poll_ends_in_time_with_one_reason_whatever_comes_back(order, kind, reason):
    with RecordingController() as controller:
        poller = kept(controller, connect_timeout=0.3, body_grace=0.3, command_limit=1_000_000)
        controller.misbehave("cmd", order)
        with pytest.raises(TransportError) as caught, gevent.Timeout(10):
            poller.get("cmd", timeout=0.3)
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
def test_every_form_of_an_answer_means_the_same(answer, bytewise):
    with RecordingController() as controller:
        poller = kept(controller)
        pieces = [answer[at : at + 1] for at in range(len(answer))] if bytewise else [answer]
        controller.misbehave("cmd", behaviour.raw(*pieces, pause=0.0001 if bytewise else 0))
        assert poller.get("cmd").body == BODY
        wait_until(lambda: not controller.open_connections, what="the controller to close")
        controller.behave()
        controller.push(b"{}")
        assert poller.get("cmd").body == b"{}", "the next request works"
    assert controller.errors == []


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 1_000_000])
def test_bodies_of_every_size_arrive_whole_both_ways(size):
    with RecordingController() as controller:
        both = kept(controller)
        text = b'"' + b"x" * size + b'"'
        controller.push(text)
        assert both.get("cmd").body == text
        assert both.post("event", text).ok
        assert controller.events == ["x" * size]
        assert controller.connections == 1


def test_what_says_that_it_closes_is_not_used_again():
    with RecordingController() as controller:
        poller = kept(controller)
        controller.misbehave(
            "cmd", behaviour.raw(HEAD + b"Connection: close\r\nContent-Length: 8\r\n\r\n" + BODY, b"", pause=0.2)
        )
        poller.get("cmd")
        assert poller._kept is not None
        assert not poller._kept.is_usable
        controller.behave()
        controller.push(b"{}")
        assert poller.get("cmd").body == b"{}"
        assert controller.connections == 2
