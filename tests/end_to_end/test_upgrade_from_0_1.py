"""greenagent 0.1 is replaced in place by this version under running jobs; the way back is refused."""

from __future__ import annotations

import os
import shutil
import signal
import zipfile
from pathlib import Path
from typing import Any

from tests.support.agents import AgentProcess, StartAgent
from tests.support.commands import shell
from tests.support.packages import copy_package
from tests.support.processes import ROOT
from tests.support.recording_controller import RecordingController
from tests.support.upgrade import replace
from tests.support.waiting import wait_until

WHEEL = ROOT / "tests" / "data" / "greenagent-0.1.0-py3-none-any.whl"


def install(folder: Path, *, old: bool) -> str:
    """Puts 0.1 or this version into ``folder``; returns it as a PYTHONPATH."""
    shutil.rmtree(folder, ignore_errors=True)
    if old:
        with zipfile.ZipFile(WHEEL) as wheel:
            wheel.extractall(folder)
    else:
        copy_package(folder)
    return str(folder)


def told(agent: AgentProcess, job: str) -> list[str]:
    return [data for _, _, level, data in agent.rows("jobid = ?", job) if level == 1]


def test_jobs_of_0_1_survive_the_replacement_by_this_version_and_the_way_back_is_refused(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    installed, gate, runs = tmp_path / "installed", tmp_path / "gate", tmp_path / "runs"
    wait = f"while [ ! -e {gate} ]; do sleep 0.02; done"
    more = f"""
[startup.first]
name = "execute"
[startup.first.args]
name = "sh"
args = ["-c", "echo startup >> {runs}; exec sleep 1000"]
"""
    known_to_it: dict[str, Any] = {"max_jobs": 5, "more": more, "stats": "local_intake = true", "controller": ""}
    agent = start_agent(python_path=install(installed, old=True), **known_to_it)
    controller.push(shell("count", f"n=0; until [ -e {gate} ]; do n=$((n+1)); echo $n; sleep 0.01; done; echo 20::$n"))
    controller.push(shell("input", f"echo begun; {wait}; wc -c", data="x" * 1_000_000))
    controller.push(shell("open", f"echo 20:::first; {wait}; echo second; echo :::; exit 4", queue="q"))
    controller.push(shell("behind", "echo next", queue="q"))
    controller.push(shell("often", f"echo often >> {runs}; echo 20::1", recurring_period=2))
    controller.push(shell("waiting", "echo ran"))
    wait_until(lambda: controller.waiting_commands == 0, what="all commands handed out")
    wait_until(lambda: told(agent, "count") and told(agent, "input"), what="the jobs")
    wait_until(lambda: controller.results_of("often"), what="the first period")

    install(installed, old=False)
    replace(agent, 1)
    before = len(told(agent, "count"))
    wait_until(lambda: len(told(agent, "count")) > before + 5, what="more lines")
    gate.touch()
    result = controller.wait_for_result("count")
    assert result["state"] == "SUCCESS"
    lines = [str(number) for number in range(1, int(result["data"]) + 1)]
    assert result["streams"][0].splitlines() == lines[-1000:]
    assert controller.wait_for_result("input")["streams"] == ["begun\n1000000\n", ""]
    result = controller.wait_for_result("open")
    assert (result["data"], result["exit_code"], result["state"]) == ("first\nsecond", 4, "ERROR")
    assert controller.wait_for_result("behind")["streams"] == ["next\n", ""]
    assert controller.wait_for_result("waiting")["streams"] == ["ran\n", ""]
    seen = len(controller.results_of("often"))
    wait_until(lambda: len(controller.results_of("often")) > seen, what="the next period")
    assert runs.read_text().split().count("startup") == 1
    assert not (agent.folder / "history.db.handover").exists()
    assert [len(controller.results_of(job)) for job in ("count", "input", "open", "behind", "waiting")] == [1] * 5

    install(installed, old=True)
    os.kill(agent.pid, signal.SIGUSR2)
    wait_until(lambda: "not replaced, the agent goes on as it is" in agent.stderr, 30, "the refusal")
    agent.await_said("this agent reads handover state version 1, not 2")
    assert agent.stop() == 0
    assert told(agent, "count") == lines
    assert "Traceback" not in agent.stderr
