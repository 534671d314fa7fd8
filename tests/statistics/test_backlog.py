"""Flushed statistics survive until every controller has them, within a cap."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.database import NativeDatabase
from greenagent.statistics.backlog import BATCH, HELD_BYTES, Backlog
from greenagent.statistics.backlog_table import SCHEMA
from greenagent.statistics.collector import FlushedObject, Statistics
from greenagent.statistics.gauges import add_controller_gauges, add_own_gauges
from greenagent.statistics.merging import merge
from greenagent.statistics.meter import Meter
from greenagent.statistics.own import AgentMetrics, EventLoopLag
from greenagent.statistics.series import FlushedPoint
from greenagent.uplink.statistics import StatisticsUploader
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until
from tests.uplink.support import Uplink, running


@pytest.fixture
def database(tmp_path: Path) -> Iterator[NativeDatabase]:
    database = NativeDatabase(tmp_path / "ledger.db", SCHEMA)
    database.start()
    yield database
    database.stop()


class Said:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.agent_log = AgentLog(None)
        self.agent_log.attach(lambda level, text: self.lines.append(text))


def make(database: NativeDatabase, *controllers: str, max_bytes: int = 1 << 26) -> tuple[Backlog, Said]:
    said = Said()
    backlog = Backlog(database, controllers or ("main",), max_bytes, said.agent_log)
    backlog.start()
    return backlog, said


def counter(stamp: int, value: float, prefix: str = "1.1.d.n.") -> FlushedObject:
    return FlushedObject(stamp, prefix, [FlushedPoint("c", value, "sum")])


def bodies(backlog: Backlog, controller: str = "main") -> list[dict]:
    return [body for _, body in backlog.peek(controller)]


def test_the_payload_of_an_object(database: NativeDatabase) -> None:
    backlog, _ = make(database)
    backlog.add([counter(60, 1.5)])
    assert bodies(backlog) == [{"timestamp": 60, "series": [["1.1.d.n.c", 1.5]]}]


def test_each_controller_gets_everything_and_a_row_goes_when_all_have_it(database: NativeDatabase) -> None:
    backlog, _ = make(database, "a", "b")
    backlog.add([counter(60, 1), counter(120, 2)])
    rows = [row for row, _ in backlog.peek("a")]
    backlog.remove("a", rows)
    assert backlog.peek("a") == []
    assert backlog.waiting("b") == 2
    assert backlog.bytes > 0
    backlog.remove("b", [rows[0]])
    assert [row for row, _ in backlog.peek("b")] == [rows[1]]
    backlog.remove("b", rows)
    assert backlog.bytes == 0


def test_peek_gives_the_oldest_first_and_no_more_than_asked(database: NativeDatabase) -> None:
    backlog, _ = make(database)
    backlog.add([counter(60 * number, number) for number in range(5)])
    assert [body["timestamp"] for _, body in backlog.peek("main", 3)] == [0, 60, 120]


def test_what_was_not_posted_survives_a_restart(database: NativeDatabase) -> None:
    backlog, _ = make(database)
    backlog.add([counter(60, 1)])
    backlog.peek("main")
    again, said = make(database)
    assert bodies(again) == [{"timestamp": 60, "series": [["1.1.d.n.c", 1]]}]
    again.wait("main", 1000, 0)
    assert said.lines == []


def test_equal_key_and_stamp_are_merged_until_somebody_was_given_them(database: NativeDatabase) -> None:
    backlog, _ = make(database)
    backlog.add([counter(60, 1)])
    backlog.add([counter(60, 2), counter(60, 4, "1.1.other.n.")])
    assert bodies(backlog) == [
        {"timestamp": 60, "series": [["1.1.d.n.c", 3]]},
        {"timestamp": 60, "series": [["1.1.other.n.c", 4]]},
    ]
    backlog.add([counter(60, 8)])
    assert [body["series"][0][1] for body in bodies(backlog)] == [3, 4, 8]


def test_nothing_is_merged_into_what_one_controller_has_already(database: NativeDatabase) -> None:
    backlog, _ = make(database, "a", "b")
    backlog.add([counter(60, 1)])
    backlog.remove("a", [row for row, _ in backlog.peek("a")])
    restarted, _ = make(database, "a", "b")
    restarted.add([counter(60, 2)])
    assert [body["series"][0][1] for body in bodies(restarted, "a")] == [2]
    assert [body["series"][0][1] for body in bodies(restarted, "b")] == [1, 2]


def test_how_points_unite() -> None:
    old = [
        FlushedPoint("c", 1, "sum"),
        FlushedPoint("g", 5, "last"),
        FlushedPoint("s", 5, "max"),
        FlushedPoint("t", 10, "mean"),
        FlushedPoint("t.count", 1, "sum"),
        FlushedPoint("t.min", 10, "min"),
        FlushedPoint("only", 1, "last"),
    ]
    new = [
        FlushedPoint("c", 2, "sum"),
        FlushedPoint("g", 3, "last"),
        FlushedPoint("s", 4, "max"),
        FlushedPoint("t", 2, "mean"),
        FlushedPoint("t.count", 3, "sum"),
        FlushedPoint("t.min", 2, "min"),
    ]
    assert {point.key: point.value for point in merge(old, new)} == {
        "c": 3,
        "g": 3,
        "s": 5,
        "t": 4,
        "t.count": 4,
        "t.min": 2,
        "only": 1,
    }


def test_over_the_cap_the_oldest_go_first_counted_and_said_once(database: NativeDatabase) -> None:
    backlog, said = make(database, max_bytes=2000)
    for number in range(40):
        backlog.add([counter(60 * number, number)])
    waiting = [body["timestamp"] // 60 for body in bodies(backlog)]
    assert waiting == list(range(40 - len(waiting), 40))
    assert backlog.dropped == 40 - len(waiting)
    assert backlog.dropped > 0
    assert backlog.bytes <= 2000
    assert len(said.lines) == 1
    assert "stats.max_backlog" in said.lines[0]


def test_a_cap_of_0_is_none(database: NativeDatabase) -> None:
    """It dropped all statistics at once, even while the controller was there."""
    backlog, said = make(database, max_bytes=0)
    for number in range(40):
        backlog.add([counter(60 * number, number)])
    assert [body["timestamp"] // 60 for body in bodies(backlog)] == list(range(40))
    assert (backlog.dropped, said.lines) == (0, [])


def test_what_only_a_removed_controller_wanted_is_dropped_and_said(database: NativeDatabase) -> None:
    backlog, said = make(database, "a", "b")
    backlog.add([counter(60, 1)])
    backlog.remove("a", [row for row, _ in backlog.peek("a")])
    backlog.set_controllers(["a"])
    assert backlog.bytes == 0
    assert backlog.dropped == 1
    assert len(said.lines) == 1
    assert "no longer configured" in said.lines[0]


def test_what_a_controller_has_is_not_given_again_while_that_cannot_be_written(
    database: NativeDatabase, tmp_path: Path
) -> None:
    """Another program holds the file locked: a point that was sent twice would count twice."""
    backlog, said = make(database, "a", "b")
    backlog.add([counter(60, 1), counter(120, 2)])
    lock = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    [first, second] = [row for row, _ in backlog.peek("a")]
    backlog.remove("a", [first])
    assert [row for row, _ in backlog.peek("a", 1)] == [second]
    assert (backlog.waiting("a"), backlog.waiting("b")) == (1, 2)
    backlog.remove("a", [second])
    assert (backlog.peek("a"), backlog.waiting("a")) == ([], 0)
    backlog.set_controllers(["a", "b", "c"])
    assert [row for row, _ in backlog.peek("b")] == [first, second]
    lock.execute("ROLLBACK")
    lock.close()
    backlog.add([counter(180, 3)])
    assert (backlog.waiting("a"), backlog.waiting("b"), backlog.waiting("c")) == (1, 3, 1)
    rows = database.run(lambda connection: connection.execute("SELECT row FROM stats_waiting WHERE controller = 'a'"))
    assert len(rows.fetchall()) == 1
    assert sum("cannot be written" in line for line in said.lines) == 1
    assert sum("written to" in line for line in said.lines) == 1


def fill_disk(database: NativeDatabase, full: bool) -> None:
    """sqlite answers as on a full disk: no page more than it has."""
    pages = 1 if full else 1_000_000  # sqlite raises 1 to the present size
    database.run(lambda connection: connection.execute(f"PRAGMA max_page_count={pages}").fetchall())


def bulky(stamp: int) -> FlushedObject:
    return counter(stamp, 1, "1.1.d." + "n" * 20_000 + ".")


def test_on_a_full_disk_they_are_held_in_memory_and_written_later(database: NativeDatabase) -> None:
    backlog, said = make(database)
    fill_disk(database, True)
    backlog.add([bulky(60)])
    backlog.add([bulky(120)])
    assert len(said.lines) == 1
    assert "cannot be written" in said.lines[0]
    assert backlog.bytes > 0
    fill_disk(database, False)
    backlog.add([bulky(180)])
    assert [body["timestamp"] for body in bodies(backlog)] == [60, 120, 180]
    assert len(said.lines) == 2


def test_what_is_held_in_memory_is_capped(database: NativeDatabase) -> None:
    backlog, said = make(database, max_bytes=100_000)
    fill_disk(database, True)
    for number in range(40):
        backlog.add([bulky(60 * number)])
    assert 0 < backlog.bytes <= 100_000
    assert any("were dropped" in line for line in said.lines)
    fill_disk(database, False)
    backlog.add([bulky(6000)])
    assert backlog.dropped + backlog.waiting("main") == 41


def test_without_a_cap_memory_has_one_all_the_same(database: NativeDatabase) -> None:
    backlog, said = make(database, max_bytes=0)
    fill_disk(database, True)
    prefix = "n" * (16 << 20)
    for number in range(6):
        backlog.add([counter(60 * number, 1, prefix)])
    assert backlog.dropped == 3
    assert HELD_BYTES / 2 < backlog.bytes <= HELD_BYTES
    assert any("were dropped" in line and "max_backlog" not in line for line in said.lines)


def test_wait_returns_when_enough_wait_or_the_oldest_waited_long_enough(database: NativeDatabase) -> None:
    backlog, _ = make(database)
    waiter = gevent.spawn(backlog.wait, "main", 2, 60)
    impatient = gevent.spawn(backlog.wait, "main", 2, 0.05)
    gevent.sleep(0.1)
    assert not waiter.ready()
    assert not impatient.ready()  # nothing has waited at all
    backlog.add([counter(60, 1)])
    impatient.get(timeout=5)
    assert not waiter.ready()
    backlog.add([counter(120, 1)])
    waiter.get(timeout=5)
    backlog.remove("main", [row for row, _ in backlog.peek("main")])
    assert backlog.waiting("main") == 0


def test_the_agents_own_metrics_tell_of_the_backlog(database: NativeDatabase) -> None:
    backlog, _ = make(database, "a", "b")
    metrics = AgentMetrics()
    add_own_gauges(metrics, Meter(2), EventLoopLag(), backlog)
    add_controller_gauges(metrics, backlog, ["a", "b", "gone"])
    backlog.add([counter(60, 1)])
    backlog.remove("a", [row for row, _ in backlog.peek("a")])
    points = {point.key: point.value for point in metrics.flush()}
    assert points["statistics_waiting.a"] == 0
    assert points["statistics_waiting.b"] == 1
    assert points["statistics_waiting.gone"] == 0
    assert points["statistics_backlog_bytes"] == backlog.bytes > 0
    assert points["agent_resident_bytes"] > 1_000_000
    assert points["agent_threads"] >= 1
    assert points["agent_descriptors"] >= 3


def test_large_objects_come_in_smaller_batches(database: NativeDatabase) -> None:
    backlog, _ = make(database)
    points = [FlushedPoint(f"key{number}" + "x" * 100, number, "last") for number in range(10_000)]
    backlog.add([FlushedObject(60 * number, "1.1.d.n.", points) for number in range(6)])
    rows = [row for row, _ in backlog.peek("main")]
    assert 0 < len(rows) < 6
    backlog.remove("main", rows)
    assert len(backlog.peek("main")) > 0


def test_a_thousand_jobs_of_one_name_come_as_one_point(database: NativeDatabase) -> None:
    backlog, _ = make(database)
    statistics = Statistics(1, 2, "seed", 60, backlog, clock=lambda: 1_000_000_000.0)
    for number in range(1000):
        handle = statistics.open("execute", "d", "n")
        handle.feed("c:1|c")
        handle.close()
        if number % 100 == 50:
            statistics.flush_all()
    statistics.flush_all()
    [body] = bodies(backlog)
    assert body["series"] == [["1.2.d.n.c", 1000]]


def test_a_broken_database_does_not_end_the_uploader(database: NativeDatabase) -> None:
    """It ended five times in a row, and the agent with it."""
    backlog, _ = make(database)
    database.run(lambda connection: connection.execute("DROP TABLE stats_waiting"))
    uplink = Uplink("http://127.0.0.1:9")
    uploader = StatisticsUploader("main", uplink.client(), backlog, uplink.health, lambda *record: None)
    with running(uploader):
        backlog._demands["main"].set(1000)
        wait_until(lambda: any("nothing can be sent" in line for line in uplink.said), what="the trouble")


def test_a_backlog_goes_in_posts_of_a_thousand_objects(database: NativeDatabase) -> None:
    """Protocol 8.4: however much has piled up while the controller was away."""
    backlog, _ = make(database)
    count = 2 * BATCH + 500
    backlog.add([counter(60 * number, number) for number in range(count)])
    with RecordingController() as controller:
        uplink = Uplink(controller.url)
        refused: list[object] = []
        uploader = StatisticsUploader(
            "main", uplink.client(), backlog, uplink.health, lambda *record: refused.append(record)
        )
        with running(uploader):
            wait_until(lambda: not bodies(backlog), what="everything to be sent")
        posts = [post.value for post in controller.posts if post.endpoint == "stats"]
    assert [len(post) for post in posts] == [BATCH, BATCH, 500]
    assert [body["timestamp"] for post in posts for body in post] == [60 * number for number in range(count)]
    assert refused == []
