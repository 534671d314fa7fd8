"""Connections that a relay on the way forgets without a word (design, section 5 "Uploads")."""

from __future__ import annotations

import time

import gevent
import pytest

from greenagent.uplink.answer import TransportError
from tests.support.recording_controller import RecordingController
from tests.support.relay import Relay
from tests.support.uplink import Uplink


def test_where_one_connection_is_found_dead_no_other_that_rested_is_trusted():
    """Each of them would wait for a minute of its own: a result, its lines, the statistics, the poll."""
    with RecordingController(park=0) as controller, Relay(controller.port) as relay:
        uplink = Uplink(relay.url)
        results, logs, polls = uplink.client(), uplink.client(), uplink.client()
        for client in (results, logs):
            assert client.post("event", b"{}").ok
        assert polls.get("cmd").ok
        relay.forget()
        with pytest.raises(TransportError, match="did not answer in time"):
            results.post("event", b"1", timeout=0.3)
        began = time.monotonic()
        assert logs.post("event", b"2", timeout=60).ok
        assert polls.get("cmd", timeout=60).ok
        assert results.post("event", b"3", timeout=60).ok
        assert time.monotonic() - began < 30
        assert controller.events == [{}, {}, 2, 3]
        assert relay.opened == 6


def test_a_request_that_is_under_way_is_left_alone_where_another_connection_is_found_dead():
    """It may be a poll that is answered with a command at this very moment."""
    with RecordingController() as controller, Relay(controller.port) as relay:
        uplink = Uplink(relay.url)
        results, polls = uplink.client(), uplink.client()
        assert results.post("event", b"{}").ok
        relay.forget()
        poll = gevent.spawn(polls.get, "cmd")
        controller.wait_for_poll()
        with pytest.raises(TransportError, match="did not answer in time"):
            results.post("event", b"1", timeout=0.3)
        controller.push(b'{"a": 1}')
        assert poll.get(timeout=60).body == b'{"a": 1}'
