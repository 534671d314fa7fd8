"""The poll loop against a real HTTP server (protocol 1.3)."""

from __future__ import annotations

import gevent

from tests.support.recording_controller import RecordingController, status
from tests.support.waiting import wait_until
from tests.uplink.support import Uplink, running


def command(command_id: str = "one") -> dict[str, object]:
    return {"id": command_id, "gid": 1, "nid": 10, "cmd": "execute", "args": {"name": "true"}}


def test_a_poller_says_it_is_there_and_takes_commands_one_after_the_other():
    with RecordingController() as controller:
        poller, got = Uplink(controller.url).poller()
        with running(poller):
            controller.wait_for_poll()
            controller.push(command("one"))
            controller.push(command("two"))
            wait_until(lambda: len(got.commands) == 2, what="both commands")
        assert [taken.id for taken in got.commands] == ["one", "two"]
        assert controller.events == [{"name": "startup"}]
        first = controller.polls[0]
        assert (first.gid, first.nid, first.roles) == (1, 10, ["web", "db"])
        assert first.headers["User-Agent"].startswith("greenagent/")
        assert first.headers["Greenagent-Acknowledge"] == ""
        assert first.headers["Greenagent-Free-Slots"] == "7"
        assert poller.polls == len(controller.polls)
        assert poller.state == "stopped"
        assert poller.last_contact is not None


def test_polls_of_one_poller_share_a_connection():
    with RecordingController(park=0.6) as controller, running(Uplink(controller.url).poller()[0]):
        controller.wait_for_poll(3)
        assert controller.connections == 1


def test_a_refused_poll_is_tried_again_and_the_reason_said_once():
    with RecordingController() as controller:
        uplink = Uplink(controller.url)
        poller, got = uplink.poller()
        controller.misbehave("cmd", status(503), times=4)
        with running(poller):
            controller.wait_for_poll(4)
            controller.push(command())
            wait_until(lambda: got.commands, what="the command")
        assert len([line for line in uplink.said if "503" in line]) == 1
        assert poller.errors == 4


def test_the_startup_event_is_sent_again_after_an_outage():
    with RecordingController() as controller:
        poller, got = Uplink(controller.url).poller()
        with running(poller):
            controller.wait_for_poll()
            controller.stop()
            wait_until(lambda: poller.state == "waiting", what="the outage")
            controller.start()
            wait_until(lambda: len(controller.events) == 2, what="the second startup event")
            controller.push(command())
            wait_until(lambda: got.commands, what="the command")
            gevent.sleep(0)
