"""Entries of the history file that the agent did not write itself (protocol 5.7)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.commands import built_in, shell
from tests.support.inside import StartInside
from tests.support.job_lives import ask, words
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


@pytest.mark.parametrize("state", ["SUCCESS", "UNKNOWN_CMD"])
def test_an_entry_that_is_not_to_be_remembered_is_run_once_and_leaves_the_file(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path, state: str
) -> None:
    folder, runs = tmp_path / "one", tmp_path / "runs"
    folder.mkdir()
    history = folder / "history"
    entry = shell("foreign", f"echo x >> {runs}", max_time=7) if state == "SUCCESS" else built_in("foreign", "no_such")
    history.write_text(json.dumps([entry]))
    for _ in range(2):
        agent = start_agent(folder=folder)
        assert controller.wait_for_result("foreign")["state"] == state
        wait_until(lambda: json.loads(history.read_text()) == [], what="an empty history")
        ask(controller, "ping")
        assert agent.stop() == 0
    assert len(controller.results_of("foreign")) == 1
    assert words(runs) == (["x"] if state == "SUCCESS" else [])
