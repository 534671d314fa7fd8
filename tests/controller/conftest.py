"""A controller for each test that asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.controller.support import Agent, LocalController


@pytest.fixture
def make_controller() -> Iterator[Callable[..., LocalController]]:
    """Starts controllers with limits and options of the test's own."""
    started: list[LocalController] = []

    def make(*args: Any, **options: Any) -> LocalController:
        started.append(LocalController(*args, **options))
        return started[-1]

    yield make
    for one in started:
        one.stop()


@pytest.fixture
def controller(make_controller: Callable[..., LocalController]) -> LocalController:
    return make_controller()


@pytest.fixture
def agent(controller: LocalController) -> Agent:
    return Agent(controller)
