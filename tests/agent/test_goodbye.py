"""What the controller shows of an agent is so: at its stop, and of its slots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import shell
from tests.support.inside import InsideAgent
from tests.support.local_controller import LocalController
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


@pytest.fixture
def local() -> Iterator[LocalController]:
    controller = LocalController()
    yield controller
    controller.stop()


def shown(controller: LocalController) -> dict[str, Any]:
    found = controller.get("agents")["agents"]
    return found[0] if found else {"polling": False}


def test_an_agent_that_stops_is_shown_so_at_once_and_live_again_when_it_polls(
    tmp_path: Path, local: LocalController
) -> None:
    for _ in range(2):
        with InsideAgent(tmp_path, {"main": local.url}):
            wait_until(lambda: shown(local)["polling"], what="the poll")
            assert (shown(local)["live"], shown(local)["stopped"]) == (True, False)
        wait_until(lambda: shown(local)["stopped"], what="the goodbye")
        assert (shown(local)["live"], shown(local)["polling"]) == (False, False)


def test_free_slots_are_those_after_the_last_result(tmp_path: Path, local: LocalController) -> None:
    with InsideAgent(tmp_path, {"main": local.url}, max_jobs=3):
        wait_until(lambda: shown(local)["polling"], what="the poll")
        gate = tmp_path / "gate"
        command = shell("j", f"while [ ! -e {gate} ]; do sleep 0.02; done")
        local.submit(**command)
        wait_until(lambda: shown(local)["free_slots"] == 2, what="the poll while it runs")
        gate.touch()
        wait_until(lambda: shown(local)["free_slots"] == 3, what="the result")


def test_an_original_controller_is_told_nothing_it_does_not_know(tmp_path: Path) -> None:
    with RecordingController() as controller:
        with InsideAgent(tmp_path, {"main": controller.url}):
            wait_until(lambda: controller.polls, what="a poll")
        assert [post.value["name"] for post in controller.posts if post.endpoint == "event"] == ["startup"]
