"""What an earlier life of the agent left is reported or run again, once (design, section 3)."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from greenagent.jobs.handover import HandedOver
from greenagent.jobs.run_records import CUT_OFF, HELD_UP
from greenagent.spool.schema import FROM_CONTROLLER, FROM_STARTUP, NewJob
from greenagent.values.command import parse_command
from tests.support.commands import shell
from tests.support.inside import InsideAgent
from tests.support.job_lives import words
from tests.support.recording_controller import RecordingController


@pytest.fixture
def left(tmp_path: Path, controller: RecordingController) -> Path:
    """The folder of an agent whose ledger says that ``running`` runs, ``waiting`` waits and ``kept`` is remembered."""
    folder, runs = tmp_path / "agent", tmp_path / "runs"
    folder.mkdir()
    with InsideAgent(folder, {}) as inside:
        spool = inside.agent.spool
        for name, more in (("running", {}), ("waiting", {}), ("kept", {"max_time": -1}), ("task", {})):
            command = parse_command(shell(name, f"echo {name} >> {runs}", **more))
            kind = FROM_STARTUP if name == "task" else FROM_CONTROLLER
            row = spool.accept([NewJob(command, None if name == "task" else "main", kind, waiting=True)])[0]
            assert row is not None
            if name in ("running", "kept"):
                spool.running(row, 1, 1_700_000_000_000)
            if name == "kept":
                inside.agent.history.add(command, "main", 1_700_000_000.0)
    with closing(sqlite3.connect(folder / "history.db")) as connection, connection:
        columns = "controller, kind, accepted, state, run, starttime"
        connection.execute(
            f"INSERT INTO job (id, command, {columns}) SELECT 'odd', '{{', {columns} FROM job WHERE id = 'waiting'"
        )
    return folder


def test_running_jobs_are_reported_and_the_others_run(
    left: Path, controller: RecordingController, tmp_path: Path
) -> None:
    with InsideAgent(left, {"main": controller.url}) as inside:
        for name in ("waiting", "kept"):
            assert controller.wait_for_result(name)["state"] == "SUCCESS"
        result = controller.wait_for_result("running")
        assert (result["state"], result["data"], result["starttime"]) == ("ERROR", CUT_OFF, 1_700_000_000_000)
        assert [line for line in inside.agent_log.lines if "job odd: its entry in the ledger cannot be read" in line]
        assert inside.agent.spool.unfinished() == []
    assert sorted(words(tmp_path / "runs")) == ["kept", "waiting"]
    assert json.loads((left / "history").read_text()) == []


def test_after_a_replacement_what_was_not_handed_over_had_held_it_up(
    left: Path, controller: RecordingController, tmp_path: Path
) -> None:
    inside = InsideAgent(left, {"main": controller.url})
    inside.agent.start(HandedOver())
    try:
        assert controller.wait_for_result("running")["data"] == HELD_UP
        for name in ("waiting", "kept"):
            assert controller.wait_for_result(name)["state"] == "SUCCESS"
    finally:
        inside.stop()
    assert sorted(words(tmp_path / "runs")) == ["kept", "task", "waiting"], "a startup task that waited runs yet"
