"""Results wait until their controller answers 2xx (design, section 5 "Uploads")."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from typing import Any

import pytest

from greenagent.uplink import sources
from greenagent.uplink import uploader as uploader_module
from greenagent.uplink.sources import ResultSource
from greenagent.uplink.uploader import Uploader
from greenagent.values.result import PendingBody
from tests.support import recording_controller as behaviour
from tests.support.recording_controller import RecordingController, accept_after, status
from tests.support.uplink import MemoryOutbox, Uplink, quick_backoff, running
from tests.support.waiting import wait_until


def uploader(uplink: Uplink, outbox: MemoryOutbox) -> Uploader:
    source = ResultSource(uplink.key, outbox, uplink.metrics, doubt_backoff=(0.01, 0.05))
    return Uploader(source, uplink.client, uplink.health, backoff=quick_backoff())


def add(outbox: MemoryOutbox, *jobs: str) -> None:
    for job in jobs:
        outbox.add(job, json.dumps({"id": job}).encode())


def test_results_arrive_in_order_and_are_ticked_off():
    outbox = MemoryOutbox()
    with RecordingController() as controller:
        uplink = Uplink(controller.url)
        with running(uploader(uplink, outbox)):
            add(outbox, "a", "b", "c")
            wait_until(lambda: not outbox.rows, what="delivery")
            add(outbox, "d")
            wait_until(lambda: not outbox.rows, what="the late one")
        assert [result["id"] for result in controller.results] == ["a", "b", "c", "d"]
        assert controller.connections == 1
        assert uplink.metrics.results_sent == 4


@pytest.mark.parametrize(
    "trouble",
    [
        status(401),
        status(403),
        status(404),
        status(429, {"Retry-After": "0"}),
        status(503),
        behaviour.redirect("/1/10/elsewhere"),
        behaviour.close_at_once(),
        behaviour.rubbish(),
        status(500),
    ],
    ids=["401", "403", "404", "429", "503", "redirect", "closed", "rubbish", "500"],
)
def test_a_controller_in_trouble_loses_no_result(trouble):
    outbox = MemoryOutbox()
    with RecordingController() as controller:
        controller.misbehave("result", trouble, times=7)
        uplink = Uplink(controller.url)
        with running(uploader(uplink, outbox)):
            add(outbox, "a", "b")
            wait_until(lambda: not outbox.rows, what="delivery")
        assert Counter(result["id"] for result in controller.results) == {"a": 1, "b": 1}
        assert outbox.aside == []
        assert len(controller.refused_posts) == 7
        assert len(uplink.said) <= 3, uplink.said


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_result_whose_body_is_refused_is_set_aside_and_the_next_goes_out(code):
    outbox = MemoryOutbox()
    with RecordingController() as controller:
        controller.reject('"bad"', code)
        uplink = Uplink(controller.url)
        with running(uploader(uplink, outbox)):
            add(outbox, "bad", "good")
            wait_until(lambda: not outbox.rows, what="an empty outbox")
        assert [result["id"] for result in controller.results] == ["good"]
        ((row, refused_with, answer),) = outbox.aside
        assert (row.id, refused_with, answer) == ("bad", code, '"no"')
        assert any("bad" in line and str(code) in line for line in uplink.said)


def test_a_dead_letter_that_is_refused_again_is_told_under_its_jobs_id():
    outbox = MemoryOutbox()
    with RecordingController() as controller:
        controller.reject('"bad"', 422)
        uplink = Uplink(controller.url)
        outbox.add("set aside 12", b'{"id": "bad"}')  # as the spool names it
        with running(uploader(uplink, outbox)):
            wait_until(lambda: outbox.aside, what="the refusal")
        assert any("it refuses the result of job bad (status 422)" in line for line in uplink.said)


def test_a_result_answered_500_is_set_aside_only_once_another_is_accepted():
    outbox = MemoryOutbox()
    with RecordingController() as controller:
        controller.reject('"bad"', 500)
        with running(uploader(Uplink(controller.url), outbox)):
            add(outbox, "bad")
            wait_until(lambda: len(controller.refused_posts) >= 8, what="repeated posts")
            assert outbox.aside == []
            assert [row.id for row in outbox.rows.values()] == ["bad"]
            add(outbox, "good")
            wait_until(lambda: not outbox.rows, what="an empty outbox")
        assert [row.id for row, _, _ in outbox.aside] == ["bad"]
        assert [result["id"] for result in controller.results] == ["good"]


def test_many_results_answered_500_do_not_hide_a_good_one_behind_them():
    outbox = MemoryOutbox()
    with RecordingController() as controller:
        controller.reject('"bad', 500)
        add(outbox, *(f"bad{number}" for number in range(25)), "good")
        with running(uploader(Uplink(controller.url), outbox)):
            wait_until(lambda: not outbox.rows, 30, what="an empty outbox")
        assert len(outbox.aside) == 25
        assert [result["id"] for result in controller.results] == ["good"]


def test_an_answer_closed_half_way_after_a_2xx_is_an_acceptance():
    outbox = MemoryOutbox()
    with RecordingController() as controller:
        controller.misbehave("result", behaviour.close_half_way())
        with running(uploader(Uplink(controller.url), outbox)):
            add(outbox, "a")
            wait_until(lambda: not outbox.rows, what="delivery")
        assert len(controller.refused_posts) == 1


def test_an_outbox_that_cannot_be_read_is_logged_once_and_read_again():
    class Unreadable(MemoryOutbox):
        tries = 0

        def pending(self, *arguments: Any, **options: Any) -> list[PendingBody]:
            self.tries += 1
            if self.tries < 4:
                raise sqlite3.DatabaseError("database disk image is malformed")
            return super().pending(*arguments, **options)

    outbox = Unreadable()
    with RecordingController() as controller:
        uplink = Uplink(controller.url)
        add(outbox, "a")
        with running(uploader(uplink, outbox)):
            wait_until(lambda: not outbox.rows, what="delivery")
        assert len([line for line in uplink.said if "nothing can be sent: database disk image" in line]) == 1
        assert uplink.metrics.result_errors == 3


def test_stopping_sends_what_waits():
    outbox = MemoryOutbox()
    with RecordingController() as controller:
        part = uploader(Uplink(controller.url), outbox)
        with running(part):
            wait_until(lambda: outbox.is_waited_for, what="the sender to wait")
            add(outbox, *(f"job{number}" for number in range(120)))
            part.stop(drain_timeout=60)
            assert outbox.rows == {}
        assert len(controller.results) == 120


def test_stopping_gives_up_on_a_controller_that_hangs_and_keeps_the_result():
    outbox = MemoryOutbox()
    with RecordingController() as controller:
        controller.misbehave("result", behaviour.hang())
        part = uploader(Uplink(controller.url), outbox)
        with running(part) as greenlet:
            add(outbox, "a")
            wait_until(lambda: controller.refused_posts, what="the post")
            part.stop(drain_timeout=0.1)
            greenlet.join(30)
            assert greenlet.dead
        assert [row.id for row in outbox.rows.values()] == ["a"]


def test_stopping_does_not_wait_for_a_controller_that_is_away():
    outbox = MemoryOutbox()
    controller = RecordingController()
    controller.start()
    controller.stop()
    add(outbox, "a")
    uplink = Uplink(controller.url)
    part = uploader(uplink, outbox)
    with running(part) as greenlet:
        wait_until(lambda: uplink.metrics.result_errors, what="the first failure")
        part.stop(drain_timeout=60)
        greenlet.join(40)
        assert greenlet.dead
    assert list(outbox.rows) == [1]


def test_a_record_that_was_set_aside_goes_to_its_own_path_when_it_is_tried_again():
    outbox = MemoryOutbox()
    with RecordingController() as controller:
        outbox.add("", b'[{"data": "again"}]', path="log")
        with running(uploader(Uplink(controller.url), outbox)):
            wait_until(lambda: not outbox.rows, what="delivery")
        assert controller.logs == [{"data": "again"}]


def test_what_is_accepted_slowly_is_noted_at_once_and_what_comes_at_once_in_one_go(monkeypatch):
    """A kill -9 delivers once more what is not noted; a note for each would slow short jobs down."""
    notes = []
    for seconds, every in ((0.1, sources.SETTLE_EVERY), (0.0, 30)):  # "at once" as a slow machine has it
        monkeypatch.setattr(sources, "SETTLE_EVERY", every)
        outbox = MemoryOutbox()
        with RecordingController() as controller:
            controller.misbehave("result", accept_after(seconds))
            add(outbox, *(f"job{number}" for number in range(5)))
            with running(uploader(Uplink(controller.url), outbox)):
                wait_until(lambda outbox=outbox: not outbox.rows, what="delivery")
        notes.append(outbox.delivered_calls)
    assert notes[0] == [[1], [2], [3], [4], [5]]
    assert len(notes[1]) < 5


def test_a_large_result_goes_out_over_a_slow_connection():
    """A write of the whole body at once would have the connect timeout for all of it."""
    outbox = MemoryOutbox()
    body = json.dumps({"id": "a", "data": "x" * 3_000_000}).encode()
    with RecordingController() as controller:
        controller.slow_down = 0.05
        uplink = Uplink(controller.url, connect_timeout=1.5)
        with running(uploader(uplink, outbox)):
            outbox.add("a", body)
            wait_until(lambda: not outbox.rows, 30, what="delivery")
        assert uplink.said == []
        assert controller.results[0]["data"] == "x" * 3_000_000


def test_a_backlog_goes_over_more_connections_where_each_answer_takes_its_time():
    outbox = MemoryOutbox()
    with RecordingController() as controller:
        controller.misbehave("result", accept_after(0.02))
        for number in range(200):
            outbox.add(f"job{number % 150}", json.dumps({"id": f"job{number % 150}", "number": number}).encode())
        with running(uploader(Uplink(controller.url), outbox)):
            wait_until(lambda: not outbox.rows, 30, what="delivery")
        got = [result["number"] for result in controller.results]
        assert sorted(got) == list(range(200))
        assert controller.most_at_once == 4
        for first in range(50):
            assert got.index(first) < got.index(first + 150), "those of one job in their order"
        wait_until(lambda: controller.open_connections <= 1, what="the others to be given back")


def test_where_answers_come_at_once_one_connection_does(monkeypatch):
    monkeypatch.setattr(uploader_module, "SLOW_ANSWER", 5)  # "at once" as a slow machine has it
    outbox = MemoryOutbox()
    with RecordingController() as controller:
        add(outbox, *(f"job{number}" for number in range(200)))
        with running(uploader(Uplink(controller.url), outbox)):
            wait_until(lambda: not outbox.rows, 30, what="delivery")
        assert controller.most_at_once == 1


def test_after_trouble_results_go_one_at_a_time_until_enough_are_accepted():
    outbox = MemoryOutbox()
    with RecordingController() as controller:
        controller.misbehave("result", accept_after(0.02))
        add(outbox, *(f"job{number}" for number in range(60)))
        with running(uploader(Uplink(controller.url), outbox)):
            wait_until(lambda: controller.most_at_once == 4, what="four at a time")
            controller.behave("result")
            controller.misbehave("result", status(503))
            wait_until(lambda: len(controller.refused_posts) >= 10, what="refusals")
            # Those that were under way together; afterwards one at a time.
            assert controller.most_at_once <= 4
            controller.most_at_once = 0
            count = len(controller.refused_posts)
            wait_until(lambda: len(controller.refused_posts) >= count + 5, what="more refusals")
            assert controller.most_at_once == 1
            controller.behave("result")
            controller.misbehave("result", accept_after(0.02))
            wait_until(lambda: not outbox.rows, 30, what="delivery")
        assert Counter(result["id"] for result in controller.results) == {f"job{number}": 1 for number in range(60)}


def test_stopping_ends_all_connections_in_time():
    outbox = MemoryOutbox()
    with RecordingController() as controller:
        controller.misbehave("result", accept_after(0.02))
        add(outbox, *(f"job{number}" for number in range(60)))
        part = uploader(Uplink(controller.url), outbox)
        with running(part):
            wait_until(lambda: controller.most_at_once == 4, what="four at a time")
            controller.behave("result")
            controller.misbehave("result", behaviour.hang())
            wait_until(lambda: controller.at_once == 4, what="four hanging")
            part.stop(drain_timeout=0.1)
        left = Counter(row.id for row in outbox.rows.values())
        assert left + Counter(result["id"] for result in controller.results) == Counter(
            f"job{number}" for number in range(60)
        )
