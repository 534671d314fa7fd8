"""A controller for each test that asks for one, and agents that answer on their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from greenagent.cli.ctl import kill
from tests.support.ctl import AnsweringAgent, PausesAlone
from tests.support.local_controller import backend, controller, make_controller  # noqa: F401


@pytest.fixture
def brief_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for in vain takes a tenth of its time: nothing but this process can bring it."""
    monkeypatch.setattr(PausesAlone, "pace", 0.1)


@pytest.fixture
def awaits_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """``kill`` waits as long as it takes for the result of a job that is gone."""
    monkeypatch.setattr(kill, "_RESULT_WAIT", 60.0)


@pytest.fixture
def answering() -> Iterator[Callable[..., AnsweringAgent]]:
    """Starts agents that answer on their own."""
    started: list[AnsweringAgent] = []

    def start(*args: Any, **options: Any) -> AnsweringAgent:
        started.append(AnsweringAgent(*args, **options))
        return started[-1]

    yield start
    for one in started:
        one.stop()
