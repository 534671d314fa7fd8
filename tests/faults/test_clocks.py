"""A wall clock that jumps by a day changes no timeout, interval or order."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from greenagent.logs.folder import LogFolder
from tests.support.agents import StartAgent, assert_well
from tests.support.clock import ShiftedClock
from tests.support.commands import execute, shell
from tests.support.recording_controller import RecordingController, status
from tests.support.waiting import wait_until

DAY = 86_400
FILL = "print(('x' * 99 + '\\n') * 30_000, end='')"


@pytest.mark.parametrize("jump", [-DAY, DAY], ids=["back", "forward"])
def test_a_clock_set_by_a_day_changes_no_timeout_interval_or_order(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path, jump: int
) -> None:
    clock = ShiftedClock(tmp_path)
    agent = start_agent(environment=clock.environment)
    beats = tmp_path / "beats"
    began = time.monotonic()
    controller.push(shell("timed", "echo before; sleep 1000", max_time=3))
    controller.push(shell("again", f"echo x >> {beats}; echo beat", recurring_period=1))
    controller.push(shell("restarted", "exit 1", max_restart=1))
    controller.misbehave("result", status(503), times=2)
    wait_until(lambda: beats.exists() and agent.rows("jobid = 'timed'"), what="the jobs")
    clock.set(jump)
    result = controller.wait_for_result("timed", 15)
    took = time.monotonic() - began
    assert result["state"] == "TIMEOUT"
    assert 3 <= took < 60, "the limit of three seconds still counts from the start"
    assert controller.wait_for_result("restarted", 15)["state"] == "ERROR"
    counted = len(beats.read_text().split())
    wait_until(lambda: len(beats.read_text().split()) >= counted + 2, 15, "the period goes on")
    clock.set(0)
    controller.push(execute("after", "sh", "-c", "echo late >&2"))
    controller.wait_for_result("after", 15)
    wait_until(lambda: any(record["data"] == "late" for record in controller.logs), 15, "the upload")
    assert_well(agent, controller)
    assert agent.stop() == 0
    connection = sqlite3.connect(agent.folder / "logs" / "current.db")
    rows = connection.execute("SELECT id, epoch FROM logs ORDER BY seq").fetchall()
    connection.close()
    ids = [number for number, _ in rows]
    assert ids == sorted(set(ids))
    assert any(abs(epoch - (time.time() + jump)) < 120 for _, epoch in rows), "the clock really jumped"
    assert any(abs(epoch - time.time()) < 120 for _, epoch in rows)


def test_a_command_delivered_again_after_the_clock_jumped_is_answered_not_run(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    """What is remembered for a day is remembered for a day, whatever the clock says meanwhile."""
    clock = ShiftedClock(tmp_path)
    agent = start_agent(environment=clock.environment)
    runs = tmp_path / "runs"
    command = shell("once", f"echo x >> {runs}")
    controller.push(command)
    controller.wait_for_result("once")
    for number, jump in enumerate((2 * DAY, -2 * DAY), 2):
        clock.set(jump)
        controller.push(command)
        wait_until(lambda n=number: len(controller.results_of("once")) == n, what="the stored result again")
    assert runs.read_text() == "x\n"
    assert_well(agent, controller)


def test_a_command_delivered_again_to_an_agent_that_starts_with_its_clock_ahead_is_not_run(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    clock = ShiftedClock(tmp_path)
    agent = start_agent(environment=clock.environment)
    runs = tmp_path / "runs"
    command = shell("once", f"echo x >> {runs}")
    controller.push(command)
    controller.wait_for_result("once")
    assert agent.stop() == 0
    clock.set(3650 * DAY)
    agent = start_agent(environment=clock.environment, folder=agent.folder)
    controller.push(command)
    wait_until(lambda: len(controller.results_of("once")) == 2, what="the stored result again")
    assert runs.read_text() == "x\n"
    assert_well(agent, controller)


def test_young_archives_stay_where_an_agent_is_replaced_or_starts_with_its_clock_ahead(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    clock = ShiftedClock(tmp_path)
    settings = {"environment": clock.environment, "logging": "max_db_size = 1048576\nmax_age = 3600"}
    agent = start_agent(**settings)

    def fill(job_id: str) -> None:
        """More than one database: what is too old goes with each that is begun."""
        controller.push(execute(job_id, "python3", "-c", FILL))
        assert controller.wait_for_result(job_id, 30)["state"] == "SUCCESS"

    def young() -> bool:
        return all(path.exists() for path in first)

    fill("first")
    folder = LogFolder(agent.folder / "logs")
    first = folder.archives()
    assert first
    clock.set(DAY)
    fill("ahead")
    os.kill(agent.pid, signal.SIGUSR2)
    wait_until(lambda: agent.stderr.count("is ready") == 2, what="the new image")
    fill("replaced")
    assert young()
    assert agent.stop() == 0
    clock.set(3650 * DAY)
    agent = start_agent(folder=agent.folder, **settings)
    fill("started")
    assert young()
    agent.kill()
    agent.start()
    fill("killed")
    assert young()
