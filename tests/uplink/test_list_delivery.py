"""Logs and statistics: lists that get through whole or in parts (design, section 5 "Uploads")."""

from __future__ import annotations

import json

import pytest

from greenagent.uplink.sources import LogSource, StatisticsSource
from greenagent.uplink.uploader import Uploader
from tests.support import recording_controller as behaviour
from tests.support.recording_controller import RecordingController, status
from tests.support.uplink import Aside, MemoryLines, MemoryOutbox, Uplink, quick_backoff, running
from tests.support.waiting import wait_until


class Logs:
    """A log uploader with its store, against one recording controller."""

    def __init__(
        self, controller: RecordingController, batch_size: int = 100, store: MemoryLines | None = None
    ) -> None:
        self.store = store or MemoryLines()
        self.aside = Aside()
        self.uplink = Uplink(controller.url)
        source = LogSource("main", self.store, batch_size, 300, self.aside, self.uplink.metrics)
        self.uploader = Uploader(
            source, self.uplink.client, self.uplink.health, backoff=quick_backoff(), probe_pause=0.001
        )

    def set_aside_texts(self) -> list[str]:
        return [json.loads(body)[0]["data"] for _, _, body, _, _ in self.aside.records]

    def wait_delivered(self, timeout: float = 20) -> None:
        wait_until(lambda: self.store.cursor == len(self.store.records), timeout, "all lines dealt with")


def texts(controller: RecordingController) -> list[str]:
    return [record["data"] for record in controller.logs]


def lines(count: int) -> list[str]:
    return [f"line {number}" for number in range(count)]


def test_lines_go_out_in_batches_in_order():
    with RecordingController() as controller:
        logs = Logs(controller)
        logs.store.add(*lines(250))
        with running(logs.uploader):
            logs.wait_delivered()
        assert texts(controller) == lines(250)
        assert [len(batch) for batch in controller.log_batches] == [100, 100, 50]
        assert controller.logs[0] == {
            "id": 1, "jobid": "job", "domain": "d", "name": "n",
            "epoch": 1700000000, "epoch_ms": 1700000000500, "level": 2, "data": "line 0",
        }  # fmt: skip
        assert logs.uplink.metrics.log_lines_sent == 250


def test_nothing_is_posted_before_it_is_due():
    with RecordingController() as controller:
        logs = Logs(controller)
        with running(logs.uploader):
            wait_until(lambda: logs.store.is_waited_for, what="the uploader to wait")
            logs.store.add("a")
            logs.store.add("b")
            assert controller.log_batches == []
            logs.store.flush()
            logs.wait_delivered()
        assert len(controller.log_batches) == 1


@pytest.mark.parametrize(
    "trouble",
    [status(403), status(503), status(429, {"Retry-After": "0"}), behaviour.close_at_once(), status(500)],
    ids=["403", "503", "429", "closed", "500"],
)
def test_a_controller_in_trouble_loses_no_line(trouble):
    with RecordingController() as controller:
        logs = Logs(controller)
        controller.misbehave("log", trouble, times=4)
        logs.store.add(*lines(30))
        with running(logs.uploader):
            logs.wait_delivered()
        assert texts(controller) == lines(30)
        assert logs.aside.records == []
        assert len(controller.refused_posts) == 4


@pytest.mark.parametrize("code", [400, 413, 422, 500])
@pytest.mark.parametrize("bad", [[0], [29], [13, 14], [0, 7, 29]])
def test_the_lines_that_are_refused_are_set_aside_and_all_others_arrive_in_order(code, bad):
    with RecordingController() as controller:
        logs = Logs(controller)
        controller.reject("POISON", code)
        wanted = [f"POISON {number}" if number in bad else f"line {number}" for number in range(30)]
        logs.store.add(*wanted)
        with running(logs.uploader):
            logs.wait_delivered()
        assert texts(controller) == [text for text in wanted if "POISON" not in text]
        assert logs.set_aside_texts() == [f"POISON {number}" for number in bad]
        controller_key, path, _, refused_with, answer = logs.aside.records[0]
        assert (controller_key, path, refused_with, answer) == ("main", "log", code, '"no"')
        assert len([line for line in logs.uplink.said if "set aside" in line]) == 1


@pytest.mark.parametrize("code", [400, 500])
def test_one_refused_line_among_a_thousand_costs_few_posts(code):
    with RecordingController() as controller:
        logs = Logs(controller, batch_size=1000)
        controller.reject("POISON", code)
        logs.store.add(*lines(700), "POISON", *lines(299))
        with running(logs.uploader):
            logs.wait_delivered()
        assert texts(controller) == [*lines(700), *lines(299)]
        assert logs.set_aside_texts() == ["POISON"]
        assert len(controller.refused_posts) <= 40
        assert len(controller.posts) <= 30


def test_a_controller_that_answers_500_to_everything_gets_all_of_it_when_it_recovers():
    with RecordingController() as controller:
        logs = Logs(controller)
        controller.misbehave("log", status(500))
        logs.store.add(*lines(4))
        with running(logs.uploader):
            wait_until(lambda: any(b"line 3" in p.body and b"line 2" not in p.body for p in controller.refused_posts),
                       30, "every single line to be tried")  # fmt: skip
            assert logs.store.cursor == 0
            controller.behave()
            logs.wait_delivered()
        received = texts(controller)
        assert received[-4:] == lines(4), "in order, though some may have come before"
        assert logs.aside.records == []


def test_lines_are_kept_when_the_controller_breaks_down_while_they_are_tried_one_by_one():
    with RecordingController() as controller:
        logs = Logs(controller)
        controller.reject("line 3", 500)
        logs.store.add(*lines(40))
        with running(logs.uploader):
            wait_until(lambda: controller.logs, what="the first half to be accepted")
            controller.behave()
            controller.misbehave("log", status(500))
            wait_until(lambda: len(controller.refused_posts) > 60, what="many refusals")
            assert logs.aside.records == []
            controller.behave()
            logs.wait_delivered()
        assert logs.aside.records == []
        assert texts(controller)[-20:] == lines(40)[-20:]
        assert set(texts(controller)) == set(lines(40))


def test_400_is_about_the_controller_as_long_as_it_does_not_understand_polls_either():
    with RecordingController() as controller:
        controller.misbehave("*", status(400))
        logs = Logs(controller)
        poller, _ = logs.uplink.poller()
        logs.store.add(*lines(3))
        with running(poller), running(logs.uploader):
            wait_until(lambda: len(controller.refused_posts) > 5, what="refusals")
            assert logs.aside.records == []
            controller.behave()
            logs.wait_delivered()
        assert texts(controller) == lines(3)


def test_a_good_line_behind_many_refused_ones_is_found():
    with RecordingController() as controller:
        logs = Logs(controller)
        controller.reject("POISON", 500)
        logs.store.add(*(f"POISON {number}" for number in range(80)), "good")
        with running(logs.uploader):
            logs.wait_delivered(40)
        assert texts(controller) == ["good"]
        assert len(logs.aside.records) == 80


def test_a_body_limit_of_the_other_side_is_remembered():
    """A front server that answers 413 above 64 KiB must not cost a halving per batch for ever."""
    with RecordingController() as controller:
        logs = Logs(controller)
        controller.refuse_above = 100_000
        logs.store.add(*("x" * 1000 for _ in range(800)))
        with running(logs.uploader):
            logs.wait_delivered()
        assert len(controller.logs) == 800
        assert logs.aside.records == []
        assert len(controller.refused_posts) <= 2


def test_stopping_flushes_what_is_not_due_yet():
    with RecordingController() as controller:
        logs = Logs(controller)
        with running(logs.uploader):
            wait_until(lambda: logs.store.is_waited_for, what="the uploader to wait")
            logs.store.add(*lines(250))
            logs.uploader.stop(drain_timeout=60)
            assert texts(controller) == lines(250)


def test_a_killed_uploader_goes_on_behind_the_cursor():
    with RecordingController() as controller:
        logs = Logs(controller, batch_size=10)
        controller.misbehave("log", behaviour.hang(), times=None)
        logs.store.add(*lines(30))
        with running(logs.uploader) as greenlet:
            wait_until(lambda: controller.refused_posts, what="the first post")
            greenlet.kill()
        controller.behave()
        second = Logs(controller, batch_size=10, store=logs.store)
        with running(second.uploader):
            logs.wait_delivered()
        assert texts(controller) == lines(30)


def point(number: int) -> dict[str, object]:
    return {"timestamp": number, "series": [["1.10.d.n.cpu", float(number)]]}


class Statistics:
    def __init__(self, controller: RecordingController) -> None:
        self.outbox = MemoryOutbox()
        self.uplink = Uplink(controller.url)
        source = StatisticsSource("main", self.outbox, self.uplink.metrics, batch_size=10)
        self.uploader = Uploader(
            source, self.uplink.client, self.uplink.health, backoff=quick_backoff(), probe_pause=0.001
        )

    def add(self, count: int) -> None:
        for number in range(count):
            self.outbox.add("", json.dumps([point(number)], separators=(",", ":")).encode(), "stats")


def test_statistics_are_posted_in_lists_and_survive_an_outage():
    with RecordingController() as controller:
        statistics = Statistics(controller)
        controller.misbehave("stats", status(502), times=3)
        statistics.add(25)
        with running(statistics.uploader):
            wait_until(lambda: not statistics.outbox.rows, what="an empty outbox")
        assert controller.stats == [point(number) for number in range(25)]
        assert statistics.uplink.metrics.statistics_sent == 25


def test_a_refused_statistics_object_is_set_aside():
    with RecordingController() as controller:
        statistics = Statistics(controller)
        controller.reject('"timestamp":3,', 400)
        statistics.add(5)
        with running(statistics.uploader):
            wait_until(lambda: not statistics.outbox.rows, what="an empty outbox")
        assert controller.stats == [point(number) for number in (0, 1, 2, 4)]
        ((refused, _, _),) = statistics.outbox.aside
        assert (refused.path, json.loads(refused.body)) == ("stats", [point(3)])
