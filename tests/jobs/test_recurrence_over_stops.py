"""A recurring job goes on after the agent's end, with its next run when that is due."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from greenagent.jobs.job import Job, Stage
from greenagent.jobs.run_records import CUT_OFF
from tests.support.commands import built_in, shell
from tests.support.inside import InsideAgent, StartInside
from tests.support.job_lives import ask, kill, states_of, wait_for_words, words
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

PERIOD = 1000


def set_row(folder: Path, changes: str) -> None:
    """Changes what the ledger of a stopped agent says of its one job."""
    with closing(sqlite3.connect(folder / "history.db")) as connection, connection:
        connection.execute(f"UPDATE job SET {changes} WHERE id = 'r'")


def due(folder: Path) -> Any:
    with closing(sqlite3.connect(folder / "history.db")) as connection:
        return connection.execute("SELECT due FROM job WHERE id = 'r'").fetchone()[0]


def remembered(folder: Path) -> list[str]:
    return [entry["id"] for entry in json.loads((folder / "history").read_text())]


def job_of(agent: InsideAgent) -> Job:
    return agent.agent.admission.live["r"]


def wait_for_pause(agent: InsideAgent) -> None:
    wait_until(lambda: "r" in agent.agent.admission.live and job_of(agent).stage is Stage.SLEEPING, what="the pause")


def test_it_sleeps_on_until_its_next_run_is_due_and_a_kill_ends_it_for_good(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    folder, runs = tmp_path / "one", tmp_path / "runs"
    agent = start_agent(folder=folder)
    controller.push(shell("r", f"echo x >> {runs}", recurring_period=PERIOD))
    wait_for_pause(agent)
    agent.stop()
    assert remembered(folder) == ["r"]
    before = due(folder)
    assert 0 < before - time.time() <= PERIOD

    agent = start_agent(folder=folder)
    wait_for_pause(agent)
    assert job_of(agent).due == pytest.approx(before)
    assert agent.agent.monitoring.status.status()["jobs"]["live"][0]["due"] == pytest.approx(before, abs=0.01)
    agent.stop()
    assert (due(folder), words(runs), controller.results) == (pytest.approx(before), ["x"], [])

    agent = start_agent(folder=folder)
    wait_for_pause(agent)
    kill(controller, "r")
    result = controller.wait_for_result("r")
    assert (result["state"], result["data"]) == ("KILLED", "killed between its runs")
    agent.stop()
    assert remembered(folder) == []
    agent = start_agent(folder=folder)
    assert ask(controller, "ping")["state"] == "SUCCESS"
    assert words(runs) == ["x"]


@pytest.mark.parametrize(
    ("period", "changes"),
    [(PERIOD, "due = due - 5000"), (1, "due = due + 86400 * 3650")],
    ids=["missed", "a clock that was ahead"],
)
def test_a_run_that_was_missed_begins_at_the_start_and_none_waits_longer_than_a_period(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path, period: int, changes: str
) -> None:
    folder, runs, gate = tmp_path / "one", tmp_path / "runs", tmp_path / "gate"
    agent = start_agent(folder=folder)
    controller.push(shell("r", f"echo x >> {runs}; [ ! -e {gate} ] || sleep 1000", recurring_period=period))
    wait_for_pause(agent)
    gate.touch()
    agent.stop()
    count = len(words(runs))
    set_row(folder, f"{changes}")
    start_agent(folder=folder)
    assert len(wait_for_words(runs, count + 1)) == count + 1, "once, however many runs were missed"


def test_a_run_that_the_stop_cut_off_has_failed_and_the_period_goes_on(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    folder, runs = tmp_path / "one", tmp_path / "runs"
    agent = start_agent(folder=folder)
    controller.push(shell("r", f"echo x >> {runs}; sleep 1000", recurring_period=PERIOD))
    wait_for_words(runs, 1)
    agent.stop()
    result = controller.wait_for_result("r")
    assert (result["state"], result["data"], result["signal"]) == ("ERROR", CUT_OFF, "SIGTERM")
    agent = start_agent(folder=folder)
    wait_for_pause(agent)
    assert (words(runs), states_of(controller, "r")) == (["x"], ["ERROR"])


@pytest.mark.parametrize("crash", [False, True])
def test_a_run_that_was_cut_off_is_restarted_first_where_that_was_asked_for(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path, crash: bool
) -> None:
    folder, runs = tmp_path / "one", tmp_path / "runs"
    agent = start_agent(folder=folder)
    controller.push(shell("r", f"echo x >> {runs}; sleep 1000", recurring_period=PERIOD, max_restart=1))
    wait_for_words(runs, 1)
    agent.stop()
    if crash:
        set_row(folder, "due = NULL")
    start_agent(folder=folder)
    wait_for_words(runs, 2)
    assert controller.results == []


def test_a_run_that_a_crash_cut_off_is_reported_once_and_the_period_goes_on(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    folder, runs = tmp_path / "one", tmp_path / "runs"
    agent = start_agent(folder=folder)
    controller.push(shell("r", f"echo x >> {runs}", recurring_period=PERIOD))
    wait_for_pause(agent)
    agent.stop()
    set_row(folder, "due = NULL, starttime = 1700000000000")  # as kill -9 leaves it in the midst of a run
    for _ in range(2):
        agent = start_agent(folder=folder)
        wait_for_pause(agent)
        wait_until(lambda: due(folder) is not None, what="the time of the next run in the ledger")
        assert 0 < due(folder) - time.time() <= PERIOD
        agent.stop()
    [result] = controller.results
    assert (result["state"], result["data"], result["starttime"]) == ("ERROR", CUT_OFF, 1_700_000_000_000)
    assert (words(runs), remembered(folder)) == (["x"], ["r"])


def test_a_recurring_built_in_goes_on_too(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    folder = tmp_path / "one"
    agent = start_agent(folder=folder)
    controller.push(built_in("r", "ping", args={"recurring_period": PERIOD}))
    controller.wait_for_result("r")
    wait_for_pause(agent)
    agent.stop()
    set_row(folder, "due = due - 5000")
    start_agent(folder=folder)
    wait_until(lambda: states_of(controller, "r") == ["SUCCESS", "SUCCESS"], what="the next run")


def test_one_whose_controller_was_removed_goes_on_and_another_controller_ends_it(
    controller: RecordingController, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    with InsideAgent(tmp_path, {"old": "http://127.0.0.1:9"}) as first:
        assert first.accept(shell("r", f"echo x >> {runs}", recurring_period=PERIOD), "old") is not None
        wait_for_pause(first)
    set_row(tmp_path, "due = due - 5000")
    with InsideAgent(tmp_path, {"main": controller.url}) as second:
        wait_for_words(runs, 2)
        second.await_said("job r goes on, though its controller 'old' is not configured any more")
        kill(controller, "r")
        assert not second.agent.admission.live
    assert remembered(tmp_path) == []
