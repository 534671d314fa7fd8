"""What jobs have begun to print goes to controllers that take it, each change once, and to no others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from greenagent.logs.lines import OpenLine, Owner
from greenagent.logs.write.open_lines import Marked, OpenTexts
from greenagent.uplink import changes
from greenagent.uplink.changes import OPEN_TEXT
from greenagent.uplink.open_text import OpenTextReporter
from tests.support.commands import built_in
from tests.support.recording_controller import RecordingController, status
from tests.support.uplink import Uplink, running
from tests.support.waiting import wait_until

OWNER = Owner("j", "d", "n")
PLACE = {"jobid": "j", "stream": 1}


def marked(text: str, marks: int = 1) -> Marked:
    return Marked(marks, OpenLine(OWNER, 1, 5.25, 1, text, len(text)))


class Reporting:
    """A reporter at work."""

    def __init__(self, controller: RecordingController) -> None:
        self.texts = OpenTexts()
        self.uplink = Uplink(controller.url)
        self.uplink.health.takes = frozenset({OPEN_TEXT})
        self._controller = controller
        reporter = OpenTextReporter(self.texts, 5, self.uplink.client(), self.uplink.health)
        self.greenlet = gevent.spawn(reporter.run)
        gevent.sleep(0)  # it waits for a change from here on

    @property
    def posted(self) -> list[Any]:
        return [post.value for post in self._controller.posts if post.endpoint == "open_text"]

    def await_posts(self, count: int) -> list[Any]:
        wait_until(lambda: len(self.posted) >= count, what=f"{count} posts of open text")
        return self.posted


@pytest.fixture
def controller() -> Iterator[RecordingController]:
    with RecordingController() as running:
        yield running


@pytest.fixture
def reporting(controller: RecordingController, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reporting]:
    monkeypatch.setattr(changes, "EVERY", 0.01)
    found = Reporting(controller)
    yield found
    found.greenlet.kill()


def test_each_change_goes_out_once_and_the_end_is_told(reporting: Reporting) -> None:
    whole = {**PLACE, "domain": "d", "name": "n", "level": 1, "epoch_ms": 5250}
    reporting.texts.update([marked("10%")])
    assert reporting.await_posts(1) == [[{**whole, "data": "10%"}]]
    reporting.texts.update([marked("10%")])
    reporting.texts.update([marked("x" * 5000)])
    assert reporting.await_posts(2)[1] == [{**whole, "data": "x" * 4096}]
    reporting.texts.update([])
    assert reporting.await_posts(3)[2] == [PLACE]


def test_only_what_its_loggers_want_goes_to_a_controller(reporting: Reporting) -> None:
    reporting.texts.update([marked("for others", marks=2)])
    gevent.sleep(0.05)
    reporting.texts.update([marked("for this one", marks=4)])
    [[posted]] = reporting.await_posts(1)
    assert posted["data"] == "for this one"


def test_a_controller_that_refuses_hears_no_more_until_it_says_that_it_takes_it(
    reporting: Reporting, controller: RecordingController
) -> None:
    controller.misbehave("open_text", status(404), times=1)
    reporting.texts.update([marked("10%")])
    wait_until(lambda: not reporting.uplink.health.takes, what="the refusal to be noticed")
    reporting.texts.update([marked("20%")])
    gevent.sleep(0.05)
    assert reporting.posted == []
    reporting.uplink.health.takes = frozenset({OPEN_TEXT})
    reporting.texts.update([marked("30%")])
    assert reporting.await_posts(1)[0][0]["data"] == "30%"
    assert reporting.uplink.said == []


def test_all_is_sent_again_after_a_while(
    controller: RecordingController, reporting: Reporting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller may have been restarted."""
    monkeypatch.setattr(changes, "REFRESH", 0.02)
    reporting.texts.update([marked("10%")])
    first, again, *_ = reporting.await_posts(2)
    assert first == again


@pytest.mark.parametrize("is_ours", [False, True])
def test_a_poll_tells_whether_the_controller_takes_it(is_ours: bool) -> None:
    with RecordingController(hand_over=is_ours) as controller:
        uplink = Uplink(controller.url)
        uplink.health.takes = frozenset() if is_ours else frozenset({OPEN_TEXT})
        poller, _ = uplink.poller()
        controller.push(built_in("p", "ping"))
        with running(poller):
            wait_until(lambda: (OPEN_TEXT in uplink.health.takes) == is_ours, what="the answer")
