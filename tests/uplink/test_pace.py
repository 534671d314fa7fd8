"""How long is waited, and what is said about it."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenagent.runtime.agent_log import AgentLog
from greenagent.uplink import health as health_module
from greenagent.uplink.backoff import Backoff, parse_retry_after
from greenagent.uplink.health import ControllerHealth


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


class Said:
    def __init__(self, url: str = "http://somewhere") -> None:
        self.lines: list[str] = []
        agent_log = AgentLog(None)
        agent_log.attach(lambda level, text: self.lines.append(text))
        self.health = ControllerHealth("main", url, agent_log)


def test_a_reason_is_said_once_for_all_parts_and_again_when_it_changes():
    said = Said()
    for part in ("poll", "results", "poll", "logs"):
        said.health.failed(part, "it refuses the connection")
    assert said.lines == ["controller main (http://somewhere): poll: it refuses the connection; will be tried again"]
    said.health.failed("poll", "it does not let us in (status 403)")
    assert len(said.lines) == 2
    for part in ("poll", "results"):
        said.health.worked(part)
    assert len(said.lines) == 2, "the logs are still in trouble"
    said.health.worked("logs")
    assert said.lines[2] == "controller main (http://somewhere) answers again"
    said.health.worked("logs")
    assert len(said.lines) == 3


def test_a_controller_that_flaps_does_not_fill_the_log(monkeypatch):
    said = Said()
    for _ in range(100):
        said.health.failed("poll", "it answers with status 503")
        said.health.worked("poll")
    assert len(said.lines) == 2
    monkeypatch.setattr(health_module, "REPEAT_AFTER", 0.0)
    said.health.failed("poll", "it answers with status 503")
    assert len(said.lines) == 3


def test_a_password_in_the_address_is_not_said():
    said = Said("https://me:secret@somewhere:1/x")
    said.health.failed("poll", "it refuses the connection")
    assert "secret" not in said.lines[0]
    assert "https://somewhere:1/x" in said.lines[0]
