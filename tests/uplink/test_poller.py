"""The poll loop against a real HTTP server (protocol 1.3)."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from gevent.event import Event

from greenagent.uplink.health import Backoff
from greenagent.uplink.sources import ResultSource
from greenagent.uplink.uploader import Uploader
from greenagent.values.command import read_early_id
from tests.support import recording_controller as behaviour
from tests.support.recording_controller import RecordingController, status
from tests.support.uplink import MemoryOutbox, Sink, Uplink, running
from tests.support.waiting import wait_until


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
            controller.wait_for_poll(3)
        assert [taken.id for taken in got.commands] == ["one", "two"]
        assert controller.events == [{"name": "startup"}]
        first = controller.polls[0]
        assert (first.gid, first.nid, first.roles) == (1, 10, ["web", "db"])
        assert first.headers["User-Agent"].startswith("greenagent/")
        assert first.headers["Greenagent-Acknowledge"] == ""
        assert first.headers["Greenagent-Free-Slots"] == "7"
        assert poller.metrics.polls == len(controller.polls)
        assert poller.state == "stopped"
        assert poller.health.last_contact is not None


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
        assert poller.metrics.poll_errors == 4


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


@pytest.mark.parametrize(
    "trouble",
    [status(401), status(500), behaviour.redirect("/"), behaviour.close_at_once(), behaviour.close_half_way(),
     behaviour.rubbish(), behaviour.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n<html>no</html>")],
    ids=["401", "500", "redirect", "closed", "half-way", "rubbish", "page"],
)  # fmt: skip
def test_polling_goes_on_after_any_kind_of_trouble_which_is_said_once(trouble):
    with RecordingController() as controller:
        uplink = Uplink(controller.url)
        poller, got = uplink.poller()
        controller.misbehave("cmd", trouble, times=5)
        controller.push(command())
        with running(poller):
            wait_until(lambda: got.commands, what="the command")
        assert len(controller.polls) >= 6
        assert len(uplink.said) == 2, uplink.said
        assert "answers again" in uplink.said[1]


def test_retry_after_is_honoured():
    with RecordingController() as controller:
        poller, got = Uplink(controller.url).poller()
        controller.misbehave("cmd", status(429, {"Retry-After": "1"}), times=1)
        controller.push(command())
        with running(poller):
            wait_until(lambda: got.commands, what="the command")
        assert controller.polls[1].at - controller.polls[0].at >= 1


def test_the_startup_event_comes_again_after_an_outage_behind_a_gateway():
    """A front server that answers for a controller that is away: 502, 503 or 504 instead of a refused connection."""
    with RecordingController() as controller:
        poller, got = Uplink(controller.url).poller()
        controller.misbehave("cmd", status(503, {"Retry-After": "0"}), times=3)
        controller.push(command())
        with running(poller):
            wait_until(lambda: got.commands, what="the command")
            wait_until(lambda: len(controller.events) == 2, what="the second startup event")
        assert [event["name"] for event in controller.events] == ["startup", "startup"]


def test_a_controller_that_does_not_hold_polls_is_not_asked_in_a_busy_loop():
    with RecordingController(park=0) as controller:
        poller, got = Uplink(controller.url).poller()
        with running(poller):
            controller.wait_for_poll(7)
            # Four pauses, drawn up to 0.25, 0.5, 1 and 2 s; asked without a pause, four polls take milliseconds.
            assert controller.polls[6].at - controller.polls[2].at > 0.1
            controller.push(command())
            wait_until(lambda: got.commands, what="the command")


def test_what_cannot_be_understood_is_refused_with_its_id_and_does_not_stop_the_next():
    with RecordingController() as controller:
        uplink = Uplink(controller.url)
        poller, got = uplink.poller()
        controller.push({"id": "wrong", "cmd": "execute", "data": 5})
        controller.push(b"[1, 2")
        controller.push(command())
        with running(poller):
            wait_until(lambda: got.commands, what="the good command")
        assert got.refused[0].command_id == "wrong"
        assert got.refused[0].reason == "'data' must be text, not a number"
        assert got.refused[1].command_id is None
        assert uplink.metrics.commands_refused == 2
        assert uplink.metrics.commands == 1


def test_a_command_is_acknowledged_once_it_was_accepted_and_not_before():
    accepted = Event()
    with RecordingController(hand_over=True) as controller:
        taken: list[object] = []

        class Waiting(Sink):
            def accept(self, commands: Sequence[object], controller: str) -> None:
                super().accept(commands, controller)
                accepted.wait()

        poller, _ = Uplink(controller.url).poller(sink=Waiting(taken, []))
        with running(poller):
            controller.push(command("one"))
            wait_until(lambda: taken, what="the command")
            assert poller.state == "accepting"
            assert controller.waiting_commands == 1
            assert len(controller.polls) == 1
            accepted.set()
            controller.wait_for_poll(2)
            wait_until(lambda: controller.waiting_commands == 0, what="the acknowledgement")
        assert [poll.headers["Greenagent-Acknowledge"] for poll in controller.polls] == ["", "token-1"]


def test_a_command_whose_acceptance_failed_is_not_acknowledged_and_comes_again():
    with RecordingController(hand_over=True) as controller:
        tries: list[object] = []

        class Failing(Sink):
            def accept(self, commands: Sequence[object], controller: str) -> None:
                super().accept(commands, controller)
                if len(tries) == 1:
                    raise OSError("no spool")

        poller, _ = Uplink(controller.url).poller(sink=Failing(tries, []))
        controller.push(command("one"))
        with pytest.raises(OSError, match="no spool"):
            poller.run()
        with running(poller):
            wait_until(lambda: controller.waiting_commands == 0, what="the acknowledgement")
        assert len(tries) == 2


def test_a_command_that_is_too_large_is_refused_by_its_id_and_acknowledged():
    with RecordingController(hand_over=True) as controller:
        uplink = Uplink(controller.url, command_limit=100_000)
        poller, got = uplink.poller()
        controller.push({**command("large"), "data": "x" * 1_000_000})
        controller.push(command("small"))
        with running(poller):
            wait_until(lambda: got.commands, what="the small command")
        assert got.refused[0].command_id == "large"
        assert "larger than 100000 bytes" in got.refused[0].reason
        assert [taken.id for taken in got.commands] == ["small"]


def test_stopping_ends_an_open_poll_at_once():
    with RecordingController() as controller:
        poller, _ = Uplink(controller.url).poller()
        with running(poller) as greenlet:
            controller.wait_for_poll()
            poller.stop()
            greenlet.join(20)
            assert greenlet.dead
        wait_until(lambda: not controller.open_connections, what="the poll to be given up")


def test_stopping_ends_the_wait_of_a_backoff():
    with RecordingController() as controller:
        controller.misbehave("cmd", status(503, {"Retry-After": "300"}))
        poller, _ = Uplink(controller.url).poller()
        with running(poller) as greenlet:
            wait_until(lambda: poller.state == "waiting", what="the backoff")
            poller.stop()
            greenlet.join(20)
            assert greenlet.dead


@pytest.mark.parametrize("trouble", [behaviour.close_at_once(), status(503)], ids=["closed", "503"])
def test_an_acceptance_of_anything_ends_the_wait_for_the_next_poll(trouble):
    with RecordingController() as controller:
        controller.misbehave("cmd", trouble)
        uplink = Uplink(controller.url)
        poller, _ = uplink.poller(backoff=Backoff(first=1000, longest=1000, draw=lambda: 0.9))
        poller._failing_since = -1e9  # long ago
        with running(poller):
            wait_until(lambda: poller.state == "waiting", what="the backoff")
            controller.behave()
            before = len(controller.polls)
            outbox = MemoryOutbox()
            outbox.add("a", b'{"id": "a"}')
            with running(Uploader(ResultSource(uplink.key, outbox, uplink.metrics), uplink.client, uplink.health)):
                wait_until(lambda: len(controller.polls) > before, what="the next poll")
        assert [result["id"] for result in controller.results] == ["a"]


def test_polls_are_not_far_apart_in_the_first_minute_of_an_outage():
    delays = Backoff(first=1000, longest=1000, draw=lambda: 0.99)
    with RecordingController() as controller:
        controller.misbehave("cmd", status(503))
        poller, _ = Uplink(controller.url).poller(backoff=delays)
        with running(poller):
            wait_until(lambda: poller.state == "waiting", what="the backoff")
        assert poller._delay(True) < 5
        poller._failing_since -= 60
        assert poller._delay(True) == 990


def test_roles_and_free_slots_are_asked_for_every_poll():
    with RecordingController(park=0) as controller:
        roles, free = [["a"], ["b"]], iter(range(10, 100))
        poller, _ = Uplink(controller.url).poller(
            roles=lambda: roles[min(len(controller.polls), 1)], free_slots=lambda: next(free)
        )
        with running(poller):
            controller.wait_for_poll(2)
        assert [poll.roles for poll in controller.polls[:2]] == [["a"], ["b"]]
        assert [poll.headers["Greenagent-Free-Slots"] for poll in controller.polls[:2]] == ["10", "11"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"id": "one", "data": "xxx', "one"),
        ('{"gid": 1, "args": {"id": "inner"}, "id": "one", "data": "xxx', "one"),
        ('  {"data": "id", "id" : "one"', "one"),
        ('{"data": "never ends', None),
        ('{"id": 5, "data": "xxx', "5"),
        ('{"id": 5', None),
        ('{"id": true, "data": "xxx', None),
        ('{"gid": ' + "9" * 5000 + ', "id": "one", "data": "xxx', "one"),
        ('{"data": "a\tb", "id": "one", "tags": "xxx', "one"),
        ('["id", "one"', None),
        ("<html>", None),
        ("", None),
        ('{"a":' + "[" * 100_000, None),
    ],
)
def test_the_id_of_a_command_cut_short_is_read_only_at_the_top_level(text, expected):
    assert read_early_id(text.encode()) == expected


def test_the_id_of_what_is_no_command_is_looked_for_at_its_beginning_only() -> None:
    members = '"a": 1, ' * 10_000
    assert read_early_id('{"id": "early", ' + members) == "early"
    assert read_early_id("{" + members + '"id": "late", ') is None


def test_a_rejected_hand_over_token_is_not_sent_back():
    with RecordingController() as controller:
        poller, _ = Uplink(controller.url).poller()
        body = json.dumps(command()).encode()
        head = f"HTTP/1.1 200 OK\r\nGreenagent-Delivery: {'x' * 300}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        controller.misbehave("cmd", behaviour.raw(head + body), times=1)
        with running(poller):
            controller.wait_for_poll(2)
        assert controller.polls[1].headers["Greenagent-Acknowledge"] == ""


def test_a_controller_that_cuts_off_every_event_still_hands_out_commands():
    with RecordingController() as controller:
        uplink = Uplink(controller.url)
        poller, got = uplink.poller()
        controller.misbehave("event", behaviour.close_at_once())
        controller.push(command())
        with running(poller):
            wait_until(lambda: got.commands, what="the command")
            controller.behave()
            controller.push(command("two"))
            wait_until(lambda: controller.events, what="the event that was owed")
        assert len([line for line in uplink.said if "startup event" in line]) == 1


def test_stopping_ends_a_startup_event_that_hangs():
    with RecordingController() as controller:
        controller.misbehave("event", behaviour.hang())
        poller, _ = Uplink(controller.url).poller()
        with running(poller) as greenlet:
            wait_until(lambda: controller.refused_posts, what="the event")
            poller.stop()
            greenlet.join(20)
            assert greenlet.dead
        assert controller.polls == []


def test_a_controller_that_is_back_is_said_before_its_first_poll_ends() -> None:
    """A poll is held for a minute; the answer to the startup event shows enough."""
    with RecordingController(park=60) as controller:
        uplink = Uplink(controller.url)
        poller, _ = uplink.poller()
        with running(poller):
            controller.wait_for_poll()
            controller.stop()
            wait_until(lambda: uplink.said, what="the outage")
            controller.start()
            wait_until(lambda: "answers again" in uplink.said[-1], what="the relief")
    assert len([line for line in uplink.said if "answers again" in line]) == 1


def test_a_controller_that_comes_back_between_event_and_poll_is_said_and_told_at_once() -> None:
    """The event found nobody, the poll after it would be held: both relief and event would wait a minute."""
    with RecordingController(park=60) as controller:
        uplink = Uplink(controller.url)
        poller, _ = uplink.poller()
        with running(poller):
            controller.wait_for_poll()
            started = Event()

            def start_when_nobody_was_there(level: int, text: str) -> None:
                if "refuses the connection" in text and not started.is_set():
                    controller.start()
                    started.set()

            uplink.agent_log.attach(start_when_nobody_was_there)
            controller.stop()
            wait_until(started.is_set, what="the outage")
            wait_until(lambda: len(controller.events) == 2, what="the second startup event")
            wait_until(lambda: any("answers again" in line for line in uplink.said), what="the relief")


def test_the_relief_comes_in_whatever_order_the_parts_find_out() -> None:
    for order in (("reached", "worked"), ("worked", "reached")):
        uplink = Uplink("http://127.0.0.1:9")
        health = uplink.health
        health.failed("poll", "it refuses the connection", unreached=True)
        health.failed("statistics", "it refuses the connection")
        for step in order:
            assert "answers again" not in uplink.said[-1]
            assert health.problem
            health.reached() if step == "reached" else health.worked("statistics")
        assert "answers again" in uplink.said[-1]
        assert health.problem == ""
        health.failed("poll", "it does not answer", unreached=False)
        assert health.problem == "it does not answer"
