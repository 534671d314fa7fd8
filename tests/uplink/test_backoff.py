"""How long is waited before the next try."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import strategies as st

from greenagent.uplink.answer import parse_retry_after
from greenagent.uplink.health import Backoff
from tests.support.properties import given


def test_delays_double_up_to_the_longest_and_start_again():
    backoff = Backoff(draw=lambda: 1.0)
    assert [backoff.next() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    backoff.reset()
    assert backoff.next() == 0.5


def test_the_first_retry_is_already_spread_over_its_whole_range():
    delays = sorted(Backoff().next() for _ in range(2000))
    assert delays[0] < 0.05
    assert delays[-1] > 0.45
    assert 0.2 < sum(delays) / len(delays) < 0.3


def test_what_a_controller_asks_for_is_the_least_and_jitter_is_added():
    assert Backoff(draw=lambda: 0.0).next(retry_after=10) == 10
    assert Backoff(draw=lambda: 1.0).next(retry_after=10) == 15
    assert Backoff(draw=lambda: 0.0).next(retry_after=100_000) == 300
    assert Backoff(draw=lambda: 0.5).next(retry_after=0) == 0.25
    asked_for_nothing = Backoff(draw=lambda: 1.0)
    assert [asked_for_nothing.next(retry_after=0) for _ in range(5)] == [0.5, 1, 2, 4, 8], "it goes on growing"


@given(st.integers(0, 5000))
def test_no_number_of_failures_is_too_many(failures):
    backoff = Backoff(draw=lambda: 1.0)
    backoff._failures = failures
    assert 0 < backoff.next() <= 30


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 5), ("0", 0), ("-3", 0), ("1e9", 300), ("2.5", 2.5), ("soon", None), ("", None), ("nan", None)],
)
def test_retry_after_in_seconds(text, seconds):
    assert parse_retry_after({"retry-after": text}) == seconds


def test_retry_after_as_a_date():
    waits = parse_retry_after({"retry-after": formatdate(time.time() + 60, usegmt=True)})
    assert waits is not None
    assert 50 < waits <= 61
    assert parse_retry_after({"retry-after": formatdate(0, usegmt=True)}) == 0
    assert parse_retry_after({}) is None
