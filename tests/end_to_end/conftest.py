"""A recording controller and real agents for end-to-end tests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents import AgentProcess, StartAgent, configuration
from tests.support.recording_controller import RecordingController

numbers = itertools.count(1)


@pytest.fixture
def controller() -> Iterator[RecordingController]:
    with RecordingController() as controller:
        yield controller


@pytest.fixture
def start_agent(tmp_path: Path, controller: RecordingController) -> Iterator[StartAgent]:
    """Starts agents on ``controller`` (or on the ``controllers`` given); ends them after the test."""
    agents: list[AgentProcess] = []

    def start(
        *options: str,
        controllers: dict[str, str] | None = None,
        folder: Path | None = None,
        text: str | None = None,
        environment: dict[str, str] | None = None,
        python_path: str = "",
        wait: bool = True,
        **more: Any,
    ) -> AgentProcess:
        place = folder or tmp_path / f"agent{next(numbers)}"
        place.mkdir(exist_ok=True)
        known = controllers if controllers is not None else {"main": controller.url}
        settings = text or configuration(place, known, **more)
        agent = AgentProcess(place, settings, *options, environment=environment, python_path=python_path)
        agents.append(agent)
        return agent.start(wait)

    yield start
    for agent in agents:
        agent.clean_up()
