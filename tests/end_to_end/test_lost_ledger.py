"""A ledger that goes while its agent is dead: what the agent's jobs left running is ended all the same."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.support.agents import AgentProcess, StartAgent
from tests.support.commands import shell
from tests.support.job_lives import running_pids, wait_for_words, words
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


def spoil(folder: Path, how: str) -> None:
    for path in sorted(folder.glob("history.db*")):
        if how == "removed":
            path.unlink()
        elif path.name.endswith("-wal") or (how == "emptied" and path.name == "history.db"):
            path.write_bytes(b"")


@pytest.mark.parametrize("how", ["emptied", "removed", "its log emptied"])
def test_no_process_of_an_earlier_run_outlives_a_lost_ledger(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path, how: str
) -> None:
    agent = start_agent()
    kept, plain, left = tmp_path / "kept", tmp_path / "plain", tmp_path / "left"
    controller.push(shell("kept", f"echo $$ >> {kept}; exec sleep 1000", max_time=-1))
    controller.push(shell("plain", f"echo $$ >> {plain}; exec sleep 1000"))
    controller.push(shell("left", f"setsid sh -c 'echo $$ >> {left}; exec sleep 1000' &", leave_children=True))
    for path in (kept, plain, left):
        wait_for_words(path, 1)
    assert controller.wait_for_result("left")["state"] == "SUCCESS"
    agent.kill()
    spoil(agent.folder, how)
    agent.start()
    new = wait_for_words(kept, 2)[-1]
    assert (running_pids(kept), running_pids(plain)) == ([int(new)], [])
    assert running_pids(left) == [int(words(left)[0])], "left on purpose"
    if how != "its log emptied":  # a checkpoint may have told that the job had ended
        agent.await_said(f"{words(left)[0]} (sleep) of job left")
    assert "what its jobs left running is not known" not in agent.stderr
    agent.kill()
    agent.start()
    assert len(wait_for_words(kept, 3)) == 3
    assert len(running_pids(kept)) == 1


def test_what_was_left_on_purpose_stays_where_the_ledger_went_back_to_its_run(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent()
    path, gate = tmp_path / "left", tmp_path / "gate"
    script = f"setsid sh -c 'echo $$ >> {path}; exec sleep 1000' & until [ -e {gate} ]; do sleep 0.05; done"
    controller.push(shell("left", script, leave_children=True))
    wait_for_words(path, 1)

    def is_in_the_file() -> bool:
        """Without its log: a checkpoint was made."""
        copy = tmp_path / "copy.db"
        shutil.copy(agent.folder / "history.db", copy)
        # No table, so far; or a copy of pages amid a checkpoint.
        with closing(sqlite3.connect(copy)) as database, suppress(sqlite3.DatabaseError):
            return database.execute("SELECT count(*) FROM job WHERE state = 'running'").fetchone() == (1,)
        return False

    wait_until(is_in_the_file, what="a checkpoint")
    gate.touch()
    assert controller.wait_for_result("left")["state"] == "SUCCESS"
    agent.kill()
    spoil(agent.folder, "its log emptied")
    agent.start()
    assert running_pids(path) == [int(words(path)[0])], "left on purpose"


def test_a_ledger_that_went_back_to_an_earlier_state_hides_no_process(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent()
    controller.push(shell("before", "true"))
    assert controller.wait_for_result("before")["state"] == "SUCCESS"
    assert agent.stop() == 0  # what it knows goes into the file itself
    agent.start()
    path = tmp_path / "pids"
    controller.push(shell("cut", f"echo $$ >> {path}; exec sleep 1000"))
    wait_for_words(path, 1)
    agent.kill()
    spoil(agent.folder, "its log emptied")
    agent.start()
    assert running_pids(path) == []


def test_a_copy_that_has_lost_its_ledger_leaves_the_first_agents_processes_alone(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    first = start_agent(folder=tmp_path / "first")
    path = tmp_path / "pids"
    controller.push(shell("running", f"echo $$ >> {path}; exec sleep 1000"))
    wait_for_words(path, 1)
    first.kill()
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    spoil(tmp_path / "second", "removed")
    second: AgentProcess = start_agent(folder=tmp_path / "second")
    assert len(running_pids(path)) == 1
    second.await_said("holds nothing of an earlier run")
    second.await_said("what its jobs left running is not known")
