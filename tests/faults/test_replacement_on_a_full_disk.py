"""A replacement in place while nothing can be written: it is refused, since the new image could not start."""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path

import pytest

from tests.support.agents import StartAgent, assert_well, configuration
from tests.support.commands import shell
from tests.support.faults import fill
from tests.support.metrics import get, listening
from tests.support.ports import reserve_port
from tests.support.recording_controller import RecordingController
from tests.support.upgrade import replace
from tests.support.waiting import wait_until


@pytest.mark.parametrize("full", ["ledger", "logs"])
def test_on_a_full_disk_nothing_is_replaced_and_the_job_goes_on(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path, small_disk: Path, full: str
) -> None:
    """The agent had not noticed that the disk was full, and the new image exited: its jobs were nobody's."""
    folder = tmp_path / "agent"
    port = reserve_port()
    text = configuration(folder, {"main": controller.url}, more=listening(port))
    if full == "logs":
        text = text.replace(f"{folder}/logs", f"{small_disk}/logs")
    else:
        text = text.replace("[main]", f'[main]\nledger_file = "{small_disk}/history.db"')
    agent = start_agent(folder=folder, text=text)
    gate, up = tmp_path / "gate", tmp_path / "up"
    controller.push(shell("job", f"touch {up}; until [ -e {gate} ]; do sleep 0.02; done; echo 20::1"))
    wait_until(up.exists, what="the job")
    ballast = fill(small_disk)
    os.kill(agent.pid, signal.SIGUSR2)
    wait_until(lambda: "not replaced, the agent goes on as it is" in agent.stderr, 30, "the refusal")
    agent.await_said("is full")
    ballast.unlink()
    # It may have met the full disk by then, and tries again every 2 s.
    wait_until(lambda: get(port, "/healthz") == (200, "ok\n"), 30, "the end of the trouble")
    replace(agent, 1)
    gate.touch()
    assert controller.wait_for_result("job")["data"] == "1"
    assert_well(agent, controller)


def test_under_a_lock_that_nobody_met_yet_nothing_is_replaced(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    """What the agent would write before its replacement was lost, as it is when it ends under the lock."""
    agent = start_agent()
    gate, up = tmp_path / "gate", tmp_path / "up"
    controller.push(shell("job", f"touch {up}; until [ -e {gate} ]; do sleep 0.02; done; echo 20::1"))
    wait_until(up.exists, what="the job")
    lock = sqlite3.connect(agent.folder / "history.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    os.kill(agent.pid, signal.SIGUSR2)
    wait_until(lambda: "not replaced, the agent goes on as it is" in agent.stderr, 30, "the refusal")
    lock.execute("ROLLBACK")
    lock.close()
    wait_until(lambda: "can be written again" in agent.stderr, 30, "the end of the trouble")
    replace(agent, 1)
    gate.touch()
    assert controller.wait_for_result("job")["data"] == "1"
    assert_well(agent, controller)
