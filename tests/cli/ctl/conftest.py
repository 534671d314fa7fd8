"""A controller for each test that asks for one, and agents that answer on their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.ctl import AnsweringAgent
from tests.support.local_controller import controller, make_controller  # noqa: F401


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
