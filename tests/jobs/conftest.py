"""Real agents in the test's own process, with a controller that they poll."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.inside import InsideAgent, StartInside
from tests.support.recording_controller import RecordingController


@pytest.fixture
def controller() -> Iterator[RecordingController]:
    with RecordingController() as controller:
        yield controller


@pytest.fixture
def inside(tmp_path: Path, controller: RecordingController) -> Iterator[InsideAgent]:
    with InsideAgent(tmp_path, {"main": controller.url}, kill_grace=0.5) as inside:
        yield inside


@pytest.fixture
def start_agent(
    tmp_path: Path, controller: RecordingController, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StartInside]:
    """Starts agents on ``controller``, in folders of their own where they also run; stops them after the test.

    An error of the agent's own, which it would log with a request to report it, fails the test.
    """
    agents: list[InsideAgent] = []
    with ExitStack() as running:

        def start(folder: Path | None = None, **more: Any) -> InsideAgent:
            place = folder or tmp_path / f"agent{len(agents) + 1}"
            place.mkdir(exist_ok=True)
            monkeypatch.chdir(place)
            agents.append(InsideAgent(place, {"main": controller.url}, **more))
            return running.enter_context(agents[-1])

        yield start
    assert [line for agent in agents for line in agent.agent_log.lines if "internal error" in line] == []
