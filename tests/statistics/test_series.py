"""Every type within an interval and across jobs (protocol 8.2, design, section 5 "Statistics")."""

import math

import pytest

from greenagent.statistics import metrics
from greenagent.statistics.meter import ProcessUsage
from greenagent.statistics.series import MAX_KEYS, Series, feed_text


def flushed(series: Series) -> dict[str, float]:
    return series.flush(lambda: None)


def fed(*lines: str) -> Series:
    series = Series()
    for line in lines:
        assert feed_text(series, line) == (len(line.splitlines()), [])
    return series


@pytest.mark.parametrize(
    ("lines", "first", "second"),
    [
        (["a:1|c", "a:2.5|c"], {"a": 3.5}, {"a": 0}),
        (["a:1|c|@0.1"], {"a": 10}, {"a": 0}),
        (["a:-3|c"], {"a": -3}, {"a": 0}),
        (["a:6|kv", "a:4|kv"], {"a": 4}, {"a": 0}),
        (["a:100|g", "a:-5|g", "a:+2|g"], {"a": 97}, {"a": 97}),
        (["a:-7|g"], {"a": -7}, {"a": -7}),
        (["a:+7|g", "a:1|g"], {"a": 1}, {"a": 1}),
        (["a:x|s", "a:y|s", "a:x|s", "a:|s"], {"a": 3}, {"a": 0}),
        (
            ["a:1|ms", "a:2|ms", "a:3|ms", "a:10|ms"],
            {"a": 4, "a.count": 4, "a.min": 1, "a.max": 10, "a.median": 2.5, "a.p95": 10},
            {"a": 0, "a.count": 0},
        ),
        (
            ["a:5|ms|@0.5"],
            {"a": 5, "a.count": 2, "a.min": 5, "a.max": 5, "a.median": 5, "a.p95": 5},
            {"a": 0, "a.count": 0},
        ),
    ],
)
def test_a_type_within_two_intervals(lines: list[str], first: dict, second: dict) -> None:
    series = fed(*lines)
    assert flushed(series) == first
    assert flushed(series) == second


def test_a_scrape_sees_the_last_key_value_until_the_series_ends() -> None:
    series = fed("ver:7|kv")
    for _ in range(2):
        assert [(shown.key, shown.kind, shown.value) for shown in series.shown()] == [("ver", "gauge", 7.0)]
        flushed(series)


def test_p95_of_a_hundred() -> None:
    series = fed(*(f"t:{number}|ms" for number in range(1, 101)))
    assert flushed(series)["t.p95"] == 95


def test_a_type_change_is_refused_for_that_line_only() -> None:
    series = fed("a:1|c")
    taken, refused = feed_text(series, "a:1|g\nb:2|c\na:3|c")
    assert taken == 2
    assert refused == ["key 'a': the key is of type c, not g"]
    assert flushed(series) == {"a": 4, "b": 2}


@pytest.mark.parametrize(
    "lines",
    [
        ["a:1e308|c", "a:1e308|c"],
        ["a:1e308|c|@0.001"],
        ["a:1|c|@1e-320"],
        ["a:1e308|g", "a:+1e308|g"],
        ["a:1e308|ms", "a:-1e308|ms"],
        ["a:1|ms|@1e-320"],
    ],
)
def test_what_would_become_infinite_is_refused(lines: list[str]) -> None:
    series = Series()
    refused = [reason for line in lines for reason in feed_text(series, line)[1]]
    assert len(refused) == 1
    assert "too large" in refused[0]
    assert all(math.isfinite(value) for value in flushed(series).values())


def test_the_median_of_huge_samples_is_finite() -> None:
    series = fed("a:8e307|ms", "a:8e307|ms")
    assert flushed(series)["a.median"] == 8e307


def test_keys_of_a_series_are_capped() -> None:
    series = fed(*(f"k{number}:1|c" for number in range(MAX_KEYS)))
    assert feed_text(series, "one.more:1|c")[1] == [f"key 'one.more': the series holds {MAX_KEYS} keys already"]
    assert feed_text(series, "k0:1|c") == (1, [])


def test_members_of_a_set_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_MEMBERS", 3)
    series = fed("s:a|s", "s:" + "b" * 1000 + "|s", "s:" + "b" * 1000 + "|s", "s:c|s")
    assert "members already" in feed_text(series, "s:d|s")[1][0]
    assert flushed(series) == {"s": 3}
    assert feed_text(series, "s:d|s") == (1, [])


def test_many_samples_keep_count_and_extremes_exact() -> None:
    series = fed(*(f"t:{number}|ms" for number in range(10_000)))
    points = flushed(series)
    assert points["t.count"] == 10_000
    assert points["t.min"] == 0
    assert points["t.max"] == 9999
    assert points["t"] == pytest.approx(4999.5)
    assert 8500 < points["t.p95"] < 9999


def test_readings_of_jobs_add_up_and_the_last_of_an_ended_one_counts() -> None:
    series = Series()
    series.take_usage("one", ProcessUsage(cpu=1.5, rss=10, threads=1, pids=(1,)))
    series.take_usage("two", ProcessUsage(cpu=2, rss=20, threads=2, pids=(2, 3)))
    series.take_usage("one", ProcessUsage(cpu=3, rss=30, threads=1, pids=(1,)))
    series.end_job("one")
    assert flushed(series) == {
        "cpu": 5,
        "rss": 50,
        "vms": 0,
        "swap": 0,
        "threads": 3,
        "fds": 0,
        "read_bytes": 0,
        "write_bytes": 0,
    }
    assert flushed(series)["rss"] == 20
    series.end_job("two")
    assert flushed(series)["rss"] == 20
    assert flushed(series) == {}


def test_a_key_of_the_jobs_own_goes_before_ours() -> None:
    series = fed("threads:7|g", "t:3|ms", "t.count:99|c")
    series.take_usage("one", ProcessUsage(threads=1))
    points = flushed(series)
    assert points["threads"] == 7
    assert points["t.count"] == 99


def test_a_scrape_sees_totals_that_a_flush_does_not_reset() -> None:
    series = fed("c:2|c", "t:4|ms", "s:x|s", "g:-1|g")
    flushed(series)
    feed_text(series, "c:3|c\nt:5|ms")
    assert {(shown.key, shown.kind): shown.value for shown in series.shown()} == {
        ("c", "counter"): 5,
        ("t", "timer_count"): 2,
        ("t", "timer_sum"): 9,
        ("s", "set"): 0,
        ("g", "gauge"): -1,
    }


def test_the_rate_of_lines_is_of_the_time_they_were_counted_in() -> None:
    now = [100.0]
    series = Series(lambda: now[0])

    def rate(lines: int, at: float) -> float:
        series.count_lines(lines)
        now[0] = at
        return series.flush(lambda: None, seconds=1)["lines_per_second"]

    assert rate(25, 100.5) == 25, "the first interval counts whole: the series began within it"
    assert rate(75, 102.0) == 50, "a second that is flushed half a second late"
    assert rate(25, 102.5) == 50, "the one behind it is shorter by that"
    assert rate(50, 103.5) == 50
    assert rate(1, 103.501) == 10, "a moment is not divided by: one line of it would be thousands a second"


def test_lines_that_come_while_a_flush_gives_way_count_with_their_time() -> None:
    now = [100.0]
    series = Series(lambda: now[0])
    feed_text(series, "a:1|c")
    series.count_lines(0)
    series.flush(lambda: None, seconds=1)

    def others_run() -> None:
        now[0] += 1
        series.count_lines(10)

    now[0] = 101.0
    assert series.flush(others_run, seconds=1)["lines_per_second"] == 5
