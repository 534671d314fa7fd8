"""An agent and a controller of ours: commands go out, and results come in, several at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import shell
from tests.support.inside import InsideAgent
from tests.support.local_controller import LocalController
from tests.support.waiting import wait_until

JOBS = 40


@pytest.fixture
def controller() -> Iterator[LocalController]:
    controller = LocalController()
    yield controller
    controller.stop()


def test_what_waits_for_an_agent_comes_with_its_first_poll(tmp_path: Path, controller: LocalController) -> None:
    gate = tmp_path / "gate"
    for number in range(JOBS):
        script = f"while [ ! -e {gate} ]; do sleep 0.1; done; echo {number}"
        controller.submit(**shell(f"j{number}", script), wait_for_agent=600)
    with InsideAgent(tmp_path, {"main": controller.url}, max_jobs=2 * JOBS):
        wait_until(lambda: controller.state(f"j{JOBS - 1}") == "RUNNING", what="all to be handed over")
        assert controller.asked.count("/1/10/cmd") <= 2  # the first brought all of them
        gate.touch()
        for number in range(JOBS):
            [result] = controller.results(f"j{number}", wait=60)
            assert (result["state"], result["streams"][0]) == ("SUCCESS", f"{number}\n")
