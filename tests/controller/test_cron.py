"""When schedules are due: expressions as the originals read them, and daylight saving."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from itertools import product
from zoneinfo import ZoneInfo

import pytest
from hypothesis import strategies as st

from greenagent.controller.schedules.cron import CronError, parse_cron, with_seconds
from greenagent.controller.schedules.zones import Zone, ZoneError
from tests.support.properties import example, given, settings

START = "2026-01-01T00:00:00"
"""A Thursday."""


def moment(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def due(cron: str, zone: str, after: float, count: int) -> list[float]:
    expression = parse_cron(cron, Zone(zone), after)
    found = [after]
    for _ in range(count):
        found.append(expression.following(found[-1]))
    return found[1:]


def shown(cron: str, count: int, zone: str = "UTC", after: str = START) -> list[str]:
    moments = due(cron, zone, moment(after, zone), count)
    return [datetime.fromtimestamp(one, ZoneInfo(zone)).isoformat() for one in moments]


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("30 * * * * *", ["2026-01-01T00:00:30", "2026-01-01T00:01:30"]),
        ("*/40 * * * * *", ["2026-01-01T00:00:40", "2026-01-01T00:01:00"]),
        ("0 15 6 * *", ["2026-01-01T06:15:00", "2026-01-02T06:15:00"]),  # five fields: no day of the week
        ("0 0 0 13 * FRI", ["2026-01-02T00:00:00", "2026-01-09T00:00:00", "2026-01-13T00:00:00"]),  # one or the other
        ("0 0 0 13 * ?", ["2026-01-13T00:00:00", "2026-02-13T00:00:00"]),
        ("0 0 0 ? JAN-feb mon", ["2026-01-05T00:00:00", "2026-01-12T00:00:00"]),
        ("0 0 0 */10 * 1", ["2026-05-11T00:00:00", "2026-06-01T00:00:00"]),  # a star: both
        ("0 0 20/2 * * *", ["2026-01-01T20:00:00", "2026-01-01T22:00:00", "2026-01-02T20:00:00"]),
        ("0 0 0 * * 3/2", ["2026-01-02T00:00:00", "2026-01-07T00:00:00"]),  # no Sunday
        ("0 0 0 * * 0", ["2026-01-04T00:00:00", "2026-01-11T00:00:00"]),
        ("0 0 0 29 2 *", ["2028-02-29T00:00:00", "2032-02-29T00:00:00"]),
        ("@hourly", ["2026-01-01T01:00:00", "2026-01-01T02:00:00"]),
        ("@daily", ["2026-01-02T00:00:00", "2026-01-03T00:00:00"]),
        ("@midnight", ["2026-01-02T00:00:00", "2026-01-03T00:00:00"]),
        ("@weekly", ["2026-01-04T00:00:00", "2026-01-11T00:00:00"]),
        ("@monthly", ["2026-02-01T00:00:00", "2026-03-01T00:00:00"]),
        ("@yearly", ["2027-01-01T00:00:00", "2028-01-01T00:00:00"]),
        ("@annually", ["2027-01-01T00:00:00", "2028-01-01T00:00:00"]),
        ("@every 1h30m", ["2026-01-01T01:30:00", "2026-01-01T03:00:00"]),
        ("@every 1.5s", ["2026-01-01T00:00:01", "2026-01-01T00:00:02"]),  # whole seconds
        ("@every 10ms", ["2026-01-01T00:00:01", "2026-01-01T00:00:02"]),  # one at least
    ],
)
def test_the_forms_of_the_originals(cron: str, expected: list[str]) -> None:
    assert shown(cron, len(expected)) == [f"{one}+00:00" for one in expected]


def test_people_write_five_fields_that_begin_with_the_minute() -> None:
    assert shown(with_seconds("15 6 * * MON"), 2) == ["2026-01-05T06:15:00+00:00", "2026-01-12T06:15:00+00:00"]
    assert with_seconds(" 1 2 3 4 5 6 ") == "1 2 3 4 5 6"
    assert with_seconds("@daily") == "@daily"


@pytest.mark.parametrize(
    "cron",
    [
        *("", "x", "* * * *", "* * * * * * *", "60 * * * * *", "0 0 24 * * *", "0 0 0 0 * *", "0 0 0 * 13 *"),
        *("0 0 0 * * 8", "*/0 * * * * *", "0 0 0 31 2 *", "0 0 0 5-1 * *", "0 0 0 * * MON#1/2", "0 0 0 * * X"),
        *("@reboot", "@every", "@every 5", "@every 1d", "@every -1s", "@every 1s2", "@every 1000000h", "1" * 300),
    ],
)
def test_what_says_no_time_is_refused(cron: str) -> None:
    with pytest.raises(CronError):
        parse_cron(cron, Zone(""), 0.0)


def test_zones_that_nobody_knows_are_refused() -> None:
    for name in ("Europe", "Europe/Nowhere", "../../etc/passwd", "a\0b", "/etc/localtime", "x" * 1000):
        with pytest.raises(ZoneError):
            Zone(name)


def test_a_certain_time_that_daylight_saving_leaves_out_is_the_moment_of_the_change() -> None:
    assert shown("0 30 2 * * *", 3, "Europe/Berlin", "2026-03-28T02:30:00") == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:30:00+02:00",
        "2026-03-31T02:30:00+02:00",
    ]
    assert shown("0 0,30 2 * * *", 2, "Europe/Berlin", "2026-03-28T02:30:00") == [  # both are that one
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:00:00+02:00",
    ]


def test_a_certain_time_that_there_is_twice_is_the_first_of_them() -> None:
    assert shown("0 30 2 * * *", 2, "Europe/Berlin", "2026-10-24T12:00:00") == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
    ]
    between = moment("2026-10-25T02:10:00", "Europe/Berlin", fold=1)  # the second time that it is ten past two
    assert due("0 30 2 * * *", "Europe/Berlin", between, 1) == [moment("2026-10-26T02:30:00", "Europe/Berlin")]


def test_steps_are_even_through_daylight_saving() -> None:
    before = moment("2026-10-25T01:45:00", "Europe/Berlin")
    assert due("0 */15 * * * *", "Europe/Berlin", before, 12) == [before + 900 * number for number in range(1, 13)]
    before = moment("2026-03-29T01:45:00", "Europe/Berlin")
    assert due("0 */15 * * * *", "Europe/Berlin", before, 4) == [before + 900 * number for number in range(1, 5)]


def test_the_zone_of_the_machine(monkeypatch) -> None:
    try:
        with monkeypatch.context() as environment:
            environment.setenv("TZ", "America/New_York")
            time.tzset()
            after = moment("2026-11-01T00:30:00", "America/New_York")
            assert due("0 30 1 * * *", "", after, 2) == [
                moment("2026-11-01T01:30:00", "America/New_York"),
                moment("2026-11-02T01:30:00", "America/New_York"),
            ]
    finally:
        time.tzset()


# Of half an hour, at midnight, westward over a day, and none.
CHANGES = {
    "Europe/Berlin": ["2026-03-29", "2026-10-25"],
    "Australia/Lord_Howe": ["2026-04-05", "2026-10-04"],
    "Africa/Cairo": ["2026-04-24", "2026-10-30"],
    "Pacific/Apia": ["2011-12-30"],
    "Asia/Kolkata": ["2026-06-01"],
}
zone_and_day = st.sampled_from([(zone, day) for zone, days in CHANGES.items() for day in days])


def some(values: range, text: str) -> st.SearchStrategy[tuple[str, set[int]]]:
    """A field and what it stands for: a star, a step, or some numbers."""
    numbers = st.sets(st.sampled_from(values), min_size=1, max_size=3)
    listed = numbers.map(lambda found: (",".join(map(str, sorted(found))), found))
    steps = st.sampled_from([2, 5, 7]).map(lambda step: (f"*/{step}", set(values[::step])))
    return st.one_of(st.just((text, set(values))), steps, listed)


@lru_cache
def shown_minutes(zone: str, day: str) -> list[tuple[datetime, float]]:
    """What the clock shows in each minute around a day, and when that is."""
    began = datetime.fromisoformat(day).replace(tzinfo=timezone.utc) - timedelta(days=2)
    moments = [began + timedelta(minutes=number) for number in range(6 * 24 * 60)]
    return [(one.astimezone(ZoneInfo(zone)).replace(tzinfo=None), one.timestamp()) for one in moments]


@settings(max_examples=200)
@given(zone_and_day, some(range(60), "*"), some(range(24), "*"), st.integers(-24 * 60, 36 * 60))
@example(("Europe/Berlin", "2026-03-29"), ("30", {30}), ("2", {2}), -600)
@example(("Africa/Cairo", "2026-04-24"), ("0,30", {0, 30}), ("0", {0}), -600)
@example(("Pacific/Apia", "2011-12-30"), ("0", {0}), ("12", {12}), -600)
def test_every_due_minute_is_found_and_no_other(where, minutes, hours, start: int) -> None:
    zone, day = where
    clock = shown_minutes(zone, day)
    (minute_text, minute_set), (hour_text, hour_set) = minutes, hours
    is_fixed = not minute_text.startswith("*") and not hour_text.startswith("*")
    first: dict[datetime, float] = {}
    for one, at in clock:
        first.setdefault(one, at)
    if is_fixed:
        days = {one.date() for one, _ in clock} | {datetime.fromisoformat(day).date()}
        wanted = [
            datetime(one.year, one.month, one.day, hour, minute)
            for one, hour, minute in product(days, hour_set, minute_set)
        ]
        # What the clock never shows is due when it first shows something later.
        expected = {first.get(one) or min((at for shown, at in clock if shown > one), default=0.0) for one in wanted}
    else:
        expected = {at for one, at in clock if one.minute in minute_set and one.hour in hour_set}
    after = moment(f"{day}T00:00:00") + 60 * start
    until = after + 30 * 3600
    expression = parse_cron(f"0 {minute_text} {hour_text} * * *", Zone(zone), after)
    found = []
    at = after
    while (at := expression.following(at)) < until:
        found.append(at)
    assert found == sorted(one for one in expected if after < one < until)
