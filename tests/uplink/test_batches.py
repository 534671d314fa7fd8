"""Several commands in one answer, several results in one post: with controllers that say that they take them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from greenagent.uplink.changes import RESULTS
from greenagent.uplink.sources import ResultSource
from greenagent.uplink.uploader import Uploader
from tests.support.recording_controller import Behaviour, RecordingController, status
from tests.support.uplink import MemoryOutbox, Sink, Uplink, quick_backoff, running
from tests.support.waiting import wait_until


def commands(*names: str) -> bytes:
    return b"\n".join(json.dumps({"id": name, "cmd": "execute"}).encode() for name in names)


def test_several_commands_are_accepted_in_one_go_and_acknowledged_by_one_token() -> None:
    taken: list[list[str]] = []

    class Counting(Sink):
        def accept(self, commands: Sequence[Any], controller: str) -> None:
            super().accept(commands, controller)
            taken.append([command.id for command in commands])

    with RecordingController() as controller:
        uplink = Uplink(controller.url)
        poller, _ = uplink.poller(sink=Counting([], refused := []))
        bodies = commands("a", "b") + b'\n{"id": "bad", "cmd": 5}\n' + commands("c")
        headers = {"Greenagent-Commands": "4", "Greenagent-Delivery": "token"}
        controller.misbehave("cmd", status(200, headers, bodies), times=1)
        with running(poller):
            controller.wait_for_poll(2)
        assert taken == [["a", "b", "c"]]
        assert [error.command_id for error in refused] == ["bad"]
        assert controller.polls[1].headers["Greenagent-Acknowledge"] == "token"
        assert (uplink.metrics.commands, uplink.metrics.commands_refused) == (3, 1)


@pytest.mark.parametrize(("free", "told"), [(-3, "1"), (0, "1"), (1, "1"), (99, "99"), (5000, "100")])
def test_a_poll_tells_how_many_commands_the_answer_may_hold(free, told) -> None:
    with RecordingController() as controller:
        poller, _ = Uplink(controller.url).poller(free_slots=lambda: free)
        with running(poller):
            assert controller.wait_for_poll().headers["Greenagent-Commands"] == told


def test_an_answer_without_the_header_is_one_command_whatever_its_lines() -> None:
    """As an original may write it."""
    with RecordingController() as controller:
        poller, got = Uplink(controller.url).poller()
        controller.push(b'{"id": "a",\n "cmd":\n "execute"}\n')
        with running(poller):
            wait_until(lambda: got.commands, what="the command")
        assert [command.id for command in got.commands] == ["a"]


# -- results


def accepting(*refused: dict[str, Any], times: int | None = None) -> Behaviour:
    """As a controller of ours, which refuses some of the list."""
    behaviour = status(200, {}, json.dumps({"refused": list(refused)}).encode())
    behaviour.times = times
    return behaviour


def uploader(uplink: Uplink, outbox: MemoryOutbox) -> Uploader:
    uplink.health.takes = frozenset({RESULTS})
    source = ResultSource(
        uplink.key,
        outbox,
        uplink.metrics,
        takes_lists=lambda: RESULTS in uplink.health.takes,
        doubt_backoff=(0.01, 0.05),
    )
    return Uploader(source, uplink.client, uplink.health, backoff=quick_backoff())


def fill(*names: str) -> MemoryOutbox:
    outbox = MemoryOutbox()
    for name in names:
        outbox.add(name, json.dumps({"id": name}).encode())
    return outbox


def deliver(controller: RecordingController, outbox: MemoryOutbox) -> Uplink:
    uplink = Uplink(controller.url)
    with running(uploader(uplink, outbox)):
        wait_until(lambda: not outbox.rows, what="all results to be delivered or dead letters")
    return uplink


def posted(controller: RecordingController) -> list[Any]:
    """The ids of what was accepted, a list for each post of several."""
    return [
        [one["id"] for one in post.value] if post.endpoint == "results" else post.value["id"]
        for post in controller.posts
    ]


def test_what_waits_goes_out_in_one_post() -> None:
    outbox = fill("a", "b", "c")
    with RecordingController() as controller:
        controller.misbehave("results", accepting())
        uplink = deliver(controller, outbox)
        assert posted(controller) == [["a", "b", "c"]]
        assert uplink.metrics.results_sent == 3


def test_a_single_result_is_posted_as_ever() -> None:
    outbox = fill("a")
    with RecordingController() as controller:
        deliver(controller, outbox)
        assert posted(controller) == ["a"]


def test_one_that_is_refused_becomes_a_dead_letter_and_no_other() -> None:
    outbox = fill("a", "b", "c")
    with RecordingController() as controller:
        controller.misbehave("results", accepting({"index": 1, "status": 400, "reason": "no good"}))
        uplink = deliver(controller, outbox)
        assert [(one.id, code, text) for one, code, text in outbox.aside] == [("b", 400, "no good")]
        assert posted(controller) == [["a", "b", "c"]]
        assert (uplink.metrics.results_sent, uplink.metrics.set_aside) == (2, 1)


def test_one_that_is_answered_500_is_tried_again_by_itself() -> None:
    outbox = fill("a", "b", "c")
    with RecordingController() as controller:
        controller.misbehave("results", accepting({"index": 0, "status": 500, "reason": "?"}, times=1))
        deliver(controller, outbox)
        assert posted(controller) == [["a", "b", "c"], "a"]
        assert not outbox.aside


def test_one_that_the_controller_cannot_store_keeps_the_rest_waiting() -> None:
    outbox = fill("a", "b", "c")
    with RecordingController() as controller:
        controller.misbehave("results", accepting({"index": 1, "status": 503, "reason": "full"}), times=1)
        controller.misbehave("results", accepting())
        deliver(controller, outbox)
        assert posted(controller) == [["a", "b", "c"], ["b", "c"]]


@pytest.mark.parametrize(
    "answer",
    [
        status(404),
        status(405),
        status(400),
        status(413),
        status(500),
        status(200, {}, b'"ok"'),
        status(200, {}, b"no JSON"),
        status(200, {}, b'{"refused": [{"index": 7, "status": 400, "reason": ""}]}'),
        status(200, {}, b'{"refused": [{"index": 0, "status": 200, "reason": ""}]}'),
        status(200, {}, b'{"refused": [{"index": "0", "status": 400, "reason": ""}]}'),
        status(200, {}, b'{"refused": [{"index": [], "status": 400, "reason": ""}]}'),
    ],
    ids=["404", "405", "400", "413", "500", "ok", "rubbish", "index", "status", "text", "unhashable"],
)
def test_a_controller_that_takes_no_lists_after_all_gets_them_one_by_one(answer) -> None:
    """It was replaced by an earlier version, or something in front of it does not let them through."""
    outbox = fill("a", "b")
    with RecordingController() as controller:
        controller.misbehave("results", answer)
        uplink = deliver(controller, outbox)
        assert [one["id"] for one in controller.results] == ["a", "b"]
        assert RESULTS not in uplink.health.takes
        assert not outbox.aside


@pytest.mark.parametrize("code", [401, 429, 503])
def test_a_controller_in_trouble_gets_them_again_as_a_list(code) -> None:
    outbox = fill("a", "b")
    with RecordingController() as controller:
        controller.misbehave("results", status(code, {"Retry-After": "0"}), times=2)
        controller.misbehave("results", accepting())
        deliver(controller, outbox)
        assert posted(controller) == [["a", "b"]]


def test_a_list_is_no_longer_than_a_body_may_be(monkeypatch) -> None:
    outbox = fill("a", "b", "c")
    monkeypatch.setattr("greenagent.uplink.delivery.MAX_BODY", 30)
    with RecordingController() as controller:
        controller.misbehave("results", accepting())
        deliver(controller, outbox)
        assert posted(controller) == [["a", "b"], "c"]
