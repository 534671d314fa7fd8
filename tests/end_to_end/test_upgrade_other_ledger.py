"""A replacement in place whose configuration names another ledger, or another nid: there the jobs would be others'."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.agents import StartAgent
from tests.support.commands import execute, shell
from tests.support.packages import change_package, copy_package
from tests.support.recording_controller import RecordingController
from tests.support.upgrade import replace
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
    agent.await_said(f"main.ledger_file has changed from {was} to {now}: stop and start the agent")
    assert not now.exists()
    agent.config.write_text(good)
    replace(agent, 1)
    gate.touch()
    for job_id in ("running", "waiting"):
        assert controller.wait_for_result(job_id)["state"] == "SUCCESS"


def test_under_another_nid_the_agent_is_not_replaced_and_loses_no_job(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent()
    gate, up = tmp_path / "gate", tmp_path / "up"
    controller.push(shell("running", f"touch {up}; while [ ! -e {gate} ]; do sleep 0.02; done"))
    wait_until(up.exists, what="the job")
    agent.config.write_text(agent.config.read_text().replace("nid = 10", "nid = 11"))
    os.kill(agent.pid, signal.SIGUSR2)
    wait_until(lambda: "not replaced, the agent goes on as it is" in agent.stderr, 30, "the refusal")
    agent.await_said("main.gid and main.nid have changed from 1:10 to 1:11: stop and start the agent")
    gate.touch()
    result = controller.wait_for_result("running")
    assert (result["state"], result["nid"]) == ("SUCCESS", 10)


def test_from_an_image_that_asks_nothing_about_it_the_jobs_go_on_in_their_ledger(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    package = copy_package(tmp_path / "installed")
    telling = "    environment[LEDGER_VARIABLE] = os.path.realpath(ledger_file)\n"
    change_package(package, "agent/upgrade.py", telling, "")
    agent = start_agent(python_path=str(package))
    gate, up = tmp_path / "gate", tmp_path / "up"
    controller.push(shell("running", f"touch {up}; while [ ! -e {gate} ]; do sleep 0.02; done"))
    wait_until(up.exists, what="the job")
    text = agent.config.read_text()
    agent.config.write_text(text.replace("[main]\n", f'[main]\nledger_file = "{agent.folder}/other.db"\n'))
    replace(agent, 1)
    agent.await_said("not applied, needs a restart: main.ledger_file")
    assert not (agent.folder / "other.db").exists()
    gate.touch()
    assert controller.wait_for_result("running")["state"] == "SUCCESS"


def test_files_may_be_spelled_otherwise_after_a_replacement(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent()
    text = agent.config.read_text()
    agent.config.write_text(text.replace(f"{agent.folder}/", ""))
    replace(agent, 1)
    agent.config.write_text(text)
    replace(agent, 2)
    controller.push(execute("job", "true"))
    assert controller.wait_for_result("job")["state"] == "SUCCESS"
