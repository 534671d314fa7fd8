"""Flushed statistics wait in the outbox until every controller has them, within a cap (design, section 5 "Uploads")."""

from __future__ import annotations

import json
import math
from typing import Any

import gevent

from greenagent.spool.schema import Waiting
from greenagent.spool.spool import Spool
from greenagent.statistics.collector import FlushedObject, Statistics
from greenagent.statistics.outbox import StatisticsOutbox
from greenagent.statistics.own import AgentMetrics
from greenagent.uplink.sources import STATISTICS_BATCH, StatisticsSource
from greenagent.uplink.uploader import Uploader
from tests.spool.support import fill_disk, locked, rows, write_back
from tests.support.agent_logs import RecordedLog
from tests.support.recording_controller import RecordingController
from tests.support.uplink import Uplink, running
from tests.support.waiting import wait_until


def make(
    spool: Spool, *controllers: str, max_bytes: int = 1 << 26, log: RecordedLog | None = None
) -> tuple[StatisticsOutbox, RecordedLog]:
    log = log or RecordedLog()
    return StatisticsOutbox(spool, controllers or ("main",), max_bytes, log), log


def counter(stamp: int, value: float, prefix: str = "1.1.d.n.") -> FlushedObject:
    return FlushedObject(stamp, prefix, {"c": value})


def bulky(stamp: int) -> FlushedObject:
    return counter(stamp, 1, "1.1.d." + "n" * 20_000 + ".")


def waiting(spool: Spool, controller: str = "main") -> list[dict[str, Any]]:
    return [json.loads(one.body)[0] for one in spool.pending(controller, 10_000, 0, "stats")]


def count(spool: Spool, controller: str = "main") -> int:
    return spool.waiting().get(controller, Waiting()).statistics


def size(spool: Spool) -> int:
    return sum(one.statistics_bytes for one in spool.waiting().values())


def deliver(spool: Spool, controller: str, number: int = 10_000) -> None:
    found = spool.pending(controller, number, 0, "stats")
    spool.delivered(controller, [one.row for one in found], "stats")


def test_the_payload_of_an_object(spool: Spool) -> None:
    outbox, _ = make(spool)
    outbox.add([counter(60, 1.5)])
    assert waiting(spool) == [{"timestamp": 60, "series": [["1.1.d.n.c", 1.5]]}]


def test_a_number_that_json_does_not_know_does_not_spoil_the_batch(spool: Spool) -> None:
    outbox, _ = make(spool)
    outbox.add([counter(60, math.nan), counter(120, math.inf), counter(180, 2)])
    assert [item["series"] for item in waiting(spool)] == [
        [["1.1.d.n.c", None]],
        [["1.1.d.n.c", None]],
        [["1.1.d.n.c", 2]],
    ]


def test_each_controller_gets_everything_and_a_row_goes_when_it_has_it(spool: Spool) -> None:
    outbox, _ = make(spool, "a", "b")
    outbox.add([counter(60, 1), counter(120, 2)])
    deliver(spool, "a")
    assert (waiting(spool, "a"), count(spool, "b")) == ([], 2)
    assert size(spool) > 0
    deliver(spool, "b", 1)
    assert [item["timestamp"] for item in waiting(spool, "b")] == [120]
    deliver(spool, "b")
    assert size(spool) == 0
    assert rows(spool, "SELECT * FROM outcome") == []


def test_the_oldest_come_first_and_no_more_than_asked(spool: Spool) -> None:
    outbox, _ = make(spool)
    outbox.add([counter(60 * number, number) for number in range(5)])
    found = spool.pending("main", 3, 0, "stats")
    assert [json.loads(one.body)[0]["timestamp"] for one in found] == [0, 60, 120]


def test_what_was_not_posted_survives_a_restart(spool: Spool) -> None:
    outbox, _ = make(spool)
    outbox.add([counter(60, 1)])
    waiting(spool)
    spool.stop()
    spool.start()
    _, log = make(spool)
    assert waiting(spool) == [{"timestamp": 60, "series": [["1.1.d.n.c", 1]]}]
    assert log.lines == []


def test_over_the_cap_the_oldest_go_first_counted_and_said_once(spool: Spool) -> None:
    outbox, log = make(spool, max_bytes=2000)
    for number in range(40):
        outbox.add([counter(60 * number, number)])
    left = [item["timestamp"] // 60 for item in waiting(spool)]
    assert left == list(range(40 - len(left), 40))
    assert outbox.dropped == 40 - len(left)
    assert outbox.dropped > 0
    assert size(spool) <= 2000
    assert len(log.lines) == 1
    assert "stats.max_backlog" in log.lines[0]


def test_a_cap_of_0_is_none(spool: Spool) -> None:
    """It dropped all statistics at once, even while the controller was there."""
    outbox, log = make(spool, max_bytes=0)
    for number in range(40):
        outbox.add([counter(60 * number, number)])
    assert [item["timestamp"] // 60 for item in waiting(spool)] == list(range(40))
    assert (outbox.dropped, log.lines) == (0, [])


def test_what_only_a_removed_controller_wanted_is_dropped_and_said(spool: Spool) -> None:
    outbox, log = make(spool, "a", "b")
    outbox.add([counter(60, 1)])
    deliver(spool, "a")
    outbox.set_controllers(["a"])
    assert size(spool) == 0
    assert outbox.dropped == 1
    assert len(log.lines) == 1
    assert "no longer configured" in log.lines[0]


def test_results_and_statistics_do_not_stand_in_each_others_way(spool: Spool) -> None:
    outbox, _ = make(spool)
    outbox.add([counter(60, 1)])
    assert spool.pending("main", 10) == []
    assert spool.waiting() == {"main": Waiting(0, 1, size(spool))}
    arrived = gevent.spawn(spool.wait, "main", 10, "stats")
    gevent.sleep(0)
    outbox.add([counter(120, 1)])
    assert arrived.get(timeout=60) is True
    assert spool.wait("main", 0.01) is False


def test_a_refused_object_is_set_aside_and_comes_back_as_one(spool: Spool) -> None:
    outbox, _ = make(spool)
    outbox.add([counter(60, 1)])
    [one] = spool.pending("main", 10, 0, "stats")
    spool.make_dead_letter("main", one.row, 400, "no")
    assert waiting(spool) == []
    assert rows(spool, "SELECT path, body FROM aside") == [("stats", one.body.decode())]
    spool.database.run(lambda connection: connection.execute("UPDATE aside SET due = 1"))
    upkeep = gevent.spawn(spool.keep_up, lambda: ["main"], 0.01)
    wait_until(lambda: count(spool) == 1, what="the object again")
    upkeep.kill()
    assert [item["timestamp"] for item in waiting(spool)] == [60]


def test_what_a_controller_has_is_not_given_again_while_that_cannot_be_written(
    spool: Spool, agent_log: RecordedLog
) -> None:
    """Another program holds the file locked: a point that was sent twice would count twice."""
    outbox, _ = make(spool, "a", "b")
    outbox.add([counter(60, 1), counter(120, 2)])
    with locked(spool):
        deliver(spool, "a", 1)
        assert [item["timestamp"] for item in waiting(spool, "a")] == [120]
        assert (count(spool, "a"), count(spool, "b")) == (1, 2)
        deliver(spool, "a")
        assert (waiting(spool, "a"), count(spool, "a")) == ([], 0)
        outbox.set_controllers(["a", "b", "c"])
        assert [item["timestamp"] for item in waiting(spool, "b")] == [60, 120]
        outbox.add([counter(180, 3)])
    assert (count(spool, "a"), count(spool, "b"), count(spool, "c")) == (1, 3, 1)
    assert len(rows(spool, "SELECT row FROM outcome WHERE controller = 'a'")) == 1
    assert sum("cannot be written" in line for line in agent_log.lines) == 1
    assert sum("can be written again" in line for line in agent_log.lines) == 1


def test_on_a_full_disk_they_are_held_in_memory_and_written_later(spool: Spool, agent_log: RecordedLog) -> None:
    outbox, _ = make(spool)
    fill_disk(spool, True)
    outbox.add([bulky(60)])
    outbox.add([bulky(120)])
    assert sum("cannot be written" in line for line in agent_log.lines) == 1
    assert size(spool) > 0
    fill_disk(spool, False)
    outbox.add([bulky(180)])
    write_back(spool)
    assert [item["timestamp"] for item in waiting(spool)] == [60, 120, 180]
    assert len(rows(spool, "SELECT row FROM outcome")) == 3
    assert len(agent_log.lines) == 2


def test_the_cap_holds_in_memory_too(spool: Spool) -> None:
    outbox, log = make(spool, max_bytes=100_000)
    fill_disk(spool, True)
    for number in range(40):
        outbox.add([bulky(60 * number)])
    assert 0 < size(spool) <= 100_000
    assert any("were dropped" in line for line in log.lines)
    fill_disk(spool, False)
    write_back(spool)
    outbox.add([bulky(6000)])
    assert outbox.dropped + count(spool) == 41


def test_without_a_cap_memory_has_one_all_the_same(spool: Spool, agent_log: RecordedLog) -> None:
    spool.database.max_memory = 4_000_000
    outbox, _ = make(spool, max_bytes=0)
    fill_disk(spool, True)
    for number in range(10):
        outbox.add([counter(60 * number, 1, "n" * 1_000_000)])
    assert 0 < size(spool) <= 4_000_000
    assert spool.database.lost == 10 - count(spool)
    fill_disk(spool, False)
    write_back(spool)
    wait_until(
        lambda: sum("could not be written too long" in line for line in agent_log.lines) == 1, what="the loss, once"
    )


def test_large_objects_come_in_smaller_batches(spool: Spool) -> None:
    outbox, _ = make(spool)
    points = {f"key{number}" + "x" * 100: number for number in range(10_000)}
    outbox.add([FlushedObject(60 * number, "1.1.d.n.", points) for number in range(6)])
    found = waiting(spool)
    assert 0 < len(found) < 6
    deliver(spool, "main")
    assert len(waiting(spool)) > 0


def test_a_thousand_jobs_of_one_name_come_as_one_point(spool: Spool) -> None:
    outbox, _ = make(spool)
    statistics = Statistics(1, 2, "seed", 60, outbox, clock=lambda: 1_000_000_000.0)
    for _ in range(1000):
        handle = statistics.open("execute", "d", "n")
        handle.feed("c:1|c")
        handle.close()
    statistics.flush_all()
    [body] = waiting(spool)
    assert body["series"] == [["1.2.d.n.c", 1000]]


def test_a_backlog_goes_in_posts_of_a_thousand_objects(spool: Spool) -> None:
    """Protocol 8.4: however much has piled up while the controller was away."""
    outbox, _ = make(spool)
    number = 2 * STATISTICS_BATCH + 500
    outbox.add([counter(60 * index, index) for index in range(number)])
    with RecordingController() as controller:
        uplink = Uplink(controller.url)
        uploader = Uploader(StatisticsSource("main", spool, uplink.metrics), uplink.client, uplink.health)
        with running(uploader):
            wait_until(lambda: not count(spool), what="everything to be sent")
        posts = [post.value for post in controller.posts if post.endpoint == "stats"]
    assert [len(post) for post in posts] == [STATISTICS_BATCH, STATISTICS_BATCH, 500]
    assert [body["timestamp"] for post in posts for body in post] == [60 * index for index in range(number)]
    assert uplink.metrics.set_aside == 0


def test_dropped_objects_are_counted_in_the_agents_own_metrics(spool: Spool) -> None:
    metrics = AgentMetrics()
    outbox = StatisticsOutbox(spool, ["main"], 500, RecordedLog(), metrics)
    outbox.add([counter(60 * number, 1) for number in range(10)])
    assert metrics.total("statistics_dropped") == outbox.dropped > 0
