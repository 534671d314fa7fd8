"""A controller for each test that asks for one."""

from __future__ import annotations

import pytest

from tests.support.local_controller import Agent, LocalController, controller, make_controller  # noqa: F401


@pytest.fixture
def agent(controller: LocalController) -> Agent:  # noqa: F811
    return Agent(controller)
