"""A replacement in place whose configuration names another ledger: the jobs' rows would be those of others."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.end_to_end.conftest import StartAgent, execute, shell
from tests.end_to_end.test_upgrade import replace
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


@pytest.mark.parametrize("changed", ["history_file", "ledger_file"])
def test_with_another_ledger_the_agent_is_not_replaced_and_loses_no_job(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path, changed: str
) -> None:
    agent = start_agent(max_jobs=1)
    gate, up = tmp_path / "gate", tmp_path / "up"
    controller.push(shell("running", f"touch {up}; while [ ! -e {gate} ]; do sleep 0.02; done"))
    wait_until(up.exists, what="the job")
    controller.push(execute("waiting", "true"))
    wait_until(lambda: controller.waiting_commands == 0, what="both commands handed out")
    good = agent.config.read_text()
    other = good.replace("[main]\n", f'[main]\nledger_file = "{agent.folder}/other.db"\n')
    if changed == "history_file":
        other = good.replace('/history"', '/other"')
    agent.config.write_text(other)
    os.kill(agent.pid, signal.SIGUSR2)
    wait_until(lambda: "not replaced, the agent goes on as it is" in agent.stderr, 30, "the refusal")
    was, now = agent.folder / "history.db", agent.folder / "other.db"
    assert f"main.ledger_file has changed from {was} to {now}: stop and start the agent" in agent.stderr
    assert not now.exists()
    agent.config.write_text(good)
    replace(agent, 1)
    gate.touch()
    for job_id in ("running", "waiting"):
        assert controller.wait_for_result(job_id)["state"] == "SUCCESS"
