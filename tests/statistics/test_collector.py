"""Series are shared by domain and name, keyed by the agent's own identity, and flushed at aligned stamps."""

import gevent
import pytest

from greenagent.statistics.collector import FlushedObject, Statistics
from greenagent.statistics.meter import ProcessUsage
from greenagent.statistics.own import AgentMetrics, EventLoopLag
from tests.support.waiting import wait_until


class Collected:
    """A sink that keeps what came, as {stamp: {full key: value}} per object."""

    def __init__(self) -> None:
        self.objects: list[tuple[int, dict[str, float]]] = []

    def add(self, objects: list[FlushedObject]) -> None:
        for item in objects:
            self.objects.append((item.stamp, {item.prefix + key: value for key, value in item.points.items()}))


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make(layout: str = "seed", interval: int = 60, now: float = 1_000_000_000.0, **more):
    sink, clock = Collected(), Clock(now)
    return Statistics(4, 7, layout, interval, sink, clock=clock, **more), sink, clock


def feed(statistics: Statistics, text: str, interval: float | None = None) -> None:
    """A short job."""
    handle = statistics.open("execute", "d", "n", interval)
    handle.feed(text)
    handle.close()


def test_ten_short_jobs_in_one_interval_are_one_point() -> None:
    statistics, sink, clock = make(now=1_000_000_020)  # stamp 1_000_000_020 is a multiple of 60
    for number in range(10):
        handle = statistics.open("execute", "web", "nginx", None)
        handle.feed(f"hits:2|c\nu:same|s\nt:{number}|ms")
        handle.add_usage(ProcessUsage(rss=100, pids=(number,)))
        handle.close()
        clock.now += 5
        statistics.flush_due()
    assert sink.objects == []
    clock.now = 1_000_000_080
    statistics.flush_due()
    [(stamp, points)] = sink.objects
    assert stamp == 1_000_000_020
    assert points["4.7.web.nginx.hits"] == 20
    assert points["4.7.web.nginx.u"] == 1
    assert points["4.7.web.nginx.t"] == 4.5
    assert points["4.7.web.nginx.t.count"] == 10
    assert points["4.7.web.nginx.rss"] == 1000
    clock.now += 60
    statistics.flush_due()
    assert len(sink.objects) == 1  # the jobs are over: the series is forgotten


def test_idle_keys_are_flushed_while_a_job_lives() -> None:
    statistics, sink, clock = make(interval=10)
    handle = statistics.open("execute", "d", "n")
    handle.feed("c:1|c")
    for _ in range(3):
        clock.now += 10
        statistics.flush_due()
    assert sink.objects == [
        (1_000_000_000, {"4.7.d.n.c": 1}),
        (1_000_000_010, {"4.7.d.n.c": 0}),
        (1_000_000_020, {"4.7.d.n.c": 0}),
    ]


@pytest.mark.parametrize(
    ("layout", "key"),
    [("seed", "4.7.my_domain.a_py.disk./var"), ("later", "4.7.my_cmd.my_domain.a_py.disk./var")],
)
def test_the_key_layout(layout: str, key: str) -> None:
    statistics, sink, _ = make(layout)
    statistics.open("my.cmd", "my.domain", "a.py").feed("disk./var:1|g")
    statistics.flush_all()
    assert [list(points) for _, points in sink.objects] == [[key]]


def test_a_missing_domain_and_name_are_empty() -> None:
    statistics, sink, _ = make()
    statistics.open("execute", "", "").feed("k:1|g")
    statistics.flush_all()
    assert sink.objects[0][1] == {"4.7...k": 1}


@pytest.mark.parametrize("interval", [float("inf"), 1e300, float("nan")])
def test_an_interval_that_is_no_number_of_seconds_does_no_harm(interval: float) -> None:
    statistics, sink, _ = make()
    statistics.open("execute", "d", "n", interval).feed("c:1|c")
    statistics.flush_due()
    statistics.flush_all()
    assert len(sink.objects) == 1


def test_half_a_surrogate_pair_in_a_name_stays_visible() -> None:
    statistics, sink, _ = make()
    statistics.open("execute", "d\ud800", "n").feed("c:1|c")
    statistics.flush_all()
    assert list(sink.objects[0][1]) == ["4.7.d\\ud800.n.c"]


def test_only_the_later_layout_separates_commands() -> None:
    for layout, count in (("seed", 1), ("later", 2)):
        statistics, sink, _ = make(layout)
        statistics.open("execute", "d", "n").feed("c:1|c")
        statistics.open("bash", "d", "n").feed("c:1|c")
        statistics.flush_all()
        assert len(sink.objects) == count


def test_the_smallest_interval_of_the_jobs_counts_and_no_stamp_repeats() -> None:
    statistics, sink, clock = make(interval=60, now=1_000_000_020)
    slow = statistics.open("execute", "d", "n")
    slow.feed("c:1|c")
    clock.now += 25
    fast = statistics.open("execute", "d", "n", 10)
    fast.feed("c:1|c")
    clock.now = 1_000_000_050
    statistics.flush_due()
    clock.now = 1_000_000_060
    statistics.flush_due()
    fast.close()
    clock.now = 1_000_000_070
    statistics.flush_due()
    clock.now = 1_000_000_080
    statistics.flush_due()
    clock.now = 1_000_000_140
    statistics.flush_due()
    assert [stamp for stamp, _ in sink.objects] == [
        1_000_000_020,
        1_000_000_050,
        1_000_000_060,
        1_000_000_070,
        1_000_000_080,
    ]
    assert [points["4.7.d.n.c"] for _, points in sink.objects] == [2, 0, 0, 0, 0]


def test_no_stamp_of_an_earlier_life_is_used_again() -> None:
    """What both flushed for one interval would stand twice under one stamp, and nothing adds it up."""
    lives = []
    for now in (1_000_000_023.0, 1_000_000_041.5):
        statistics, sink, clock = make(now=now)
        feed(statistics, "c:1|c")
        clock.now = now + 5
        statistics.flush_all()
        lives += [stamp for stamp, _ in sink.objects]
    assert lives == [1_000_000_023, 1_000_000_042]
    clock.now = 1_000_000_085.0
    feed(statistics, "c:1|c")
    statistics.flush_all()
    assert sink.objects[-1][0] == 1_000_000_080


def test_no_stamp_of_a_series_that_is_over_is_used_again() -> None:
    statistics, sink, clock = make(now=1_000_000_020)
    feed(statistics, "c:1|c", interval=10)
    clock.now += 10
    statistics.flush_due()
    feed(statistics, "c:1|c")
    clock.now += 60
    statistics.flush_due()
    assert [stamp for stamp, _ in sink.objects] == [1_000_000_020, 1_000_000_030]


@pytest.mark.parametrize("interval", [0, -1, None, 0.5])
def test_an_interval_of_nothing_means_the_default(interval: float | None) -> None:
    statistics, sink, clock = make(interval=30, now=1_000_000_020)
    statistics.open("execute", "d", "n", interval).feed("c:1|c")
    clock.now += 29
    statistics.flush_due()
    assert sink.objects == []
    clock.now += 1
    statistics.flush_due()
    assert len(sink.objects) == 1


def test_a_clock_set_back_does_not_stop_the_flush() -> None:
    statistics, sink, clock = make(interval=10)
    statistics.open("execute", "d", "n").feed("c:1|c")
    clock.now -= 100_000
    statistics.flush_due()
    clock.now += 10
    statistics.flush_due()
    assert [points["4.7.d.n.c"] for _, points in sink.objects] == [1, 0]


def test_a_job_cannot_speak_for_the_agent_itself() -> None:
    metrics = AgentMetrics()
    metrics.count("lines", 5)
    statistics, sink, _ = make(metrics=metrics)
    statistics.open("execute", "greenagent", "agent").feed("lines:9|c")
    statistics.flush_all()
    keys = {key: value for _, points in sink.objects for key, value in points.items()}
    assert keys["4.7.greenagent.agent.lines"] == 5
    assert keys["4.7.greenagent_job.agent.lines"] == 9


def test_refused_lines_are_returned_and_counted() -> None:
    metrics = AgentMetrics()
    statistics, _, _ = make(metrics=metrics)
    handle = statistics.open("execute", "d", "n")
    assert handle.feed("a:1|c\nb:1|zz\na:1|g") == [
        "'b:1|zz': unknown type 'zz' (known: c, d, g, h, kv, ms, s)",
        "key 'a': the key is of type c, not g",
    ]
    assert handle.refused == 2
    assert metrics.total("statsd_lines") == 1
    assert metrics.total("statsd_lines_refused") == 2


def test_a_handle_that_is_closed_takes_no_reading_and_closes_twice() -> None:
    statistics, sink, _ = make()
    handle = statistics.open("execute", "d", "n")
    handle.close()
    handle.close()
    handle.add_usage(ProcessUsage(rss=1))
    statistics.flush_all()
    assert sink.objects == []


def test_the_service_flushes_by_itself() -> None:
    sink = Collected()
    statistics = Statistics(1, 1, "seed", 1, sink)
    service = gevent.spawn(statistics.run)
    try:
        gevent.sleep(0)
        handle = statistics.open("execute", "d", "n")
        handle.feed("c:1|c")
        handle.close()
        wait_until(lambda: sink.objects, what="a flush at the interval's end")
        assert sink.objects[0][1] == {"1.1.d.n.c": 1}
    finally:
        service.kill()


def test_own_metrics_send_what_counters_rose_by() -> None:
    metrics = AgentMetrics()
    waiting: list[int] = [1, 2]
    metrics.count("jobs_done", state="SUCCESS")
    metrics.count("jobs_done", 2, state="ERROR")
    metrics.count("polls", controller="a.b")
    metrics.gauge("jobs_waiting", lambda: len(waiting))
    metrics.gauge("last_contact", lambda: None, controller="main")

    def points() -> dict[str, float]:
        return metrics.flush()

    assert points() == {"jobs_done.SUCCESS": 1, "jobs_done.ERROR": 2, "polls.a_b": 1, "jobs_waiting": 2}
    metrics.count("jobs_done", state="SUCCESS")
    waiting.clear()
    assert points() == {"jobs_done.SUCCESS": 1, "jobs_done.ERROR": 0, "polls.a_b": 0, "jobs_waiting": 0}
    assert metrics.total("jobs_done", state="SUCCESS") == 2
    for controller in ("kept", "gone"):
        metrics.gauge("results_waiting", lambda: 3, controller=controller)
        metrics.counter("log_posts", lambda: 4, controller=controller)
    metrics.forget(controller="gone")
    left = {key for key in points() if key.startswith(("results", "log", "jobs_waiting"))}
    assert left == {"results_waiting.kept", "log_posts.kept", "jobs_waiting"}


def test_the_stall_of_the_hub_is_the_worst_of_the_last_minutes() -> None:
    clock = Clock(0)
    stall = EventLoopLag(clock=clock)
    stall.note(0.5)
    stall.note(0.1)
    assert stall.recent == 0.5
    clock.now = 61
    assert stall.recent == 0.5
    stall.note(0.2)
    clock.now = 122
    assert stall.recent == 0.2
    clock.now = 400
    assert stall.recent == 0
    assert stall.worst_ever == 0.5


def test_the_ticker_sees_a_hub_that_was_deaf() -> None:
    from greenagent.runtime.native import native_sleep

    stall = EventLoopLag(period=0.01)
    service = gevent.spawn(stall.run)
    try:
        wait_until(lambda: stall.beats, what="the ticker's first turn")
        native_sleep(0.1)
        wait_until(lambda: stall.recent > 0.05, what="the stall to be seen")
    finally:
        service.kill()
