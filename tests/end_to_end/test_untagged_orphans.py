"""Processes that cleared their environment, left their session and lost their parent end all the same (promise 5)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.agents import AgentProcess, StartAgent
from tests.support.commands import shell
from tests.support.job_lives import running_pids, wait_for_words
from tests.support.processes import is_running
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

Escape = Callable[..., str]


@pytest.fixture
def escape(tmp_path: Path) -> Iterator[Escape]:
    """Shell text that starts such a process and writes its pid; what is left of them ends with the test."""
    files = []

    def script(name: str, pipes: str = "</dev/null >/dev/null 2>&1") -> str:
        files.append(tmp_path / name)
        is_there = f'[ "$(cat /proc/$(cat {files[-1]})/comm)" = sleep ]'
        start = f"setsid sh -c 'env -i setsid sleep 3009 {pipes} & echo $! > {files[-1]}' & wait"
        return f"{start}; until {is_there}; do sleep 0.02; done"

    yield script
    for file in files:
        for pid in running_pids(file):
            os.kill(pid, signal.SIGKILL)


def replace(agent: AgentProcess) -> None:
    os.kill(agent.pid, signal.SIGUSR2)
    wait_until(lambda: agent.stderr.count("is ready") == 2, 30, "the new image")


def test_with_the_pipes_of_its_job_it_ends_with_the_job(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path, escape: Escape
) -> None:
    agent = start_agent()
    controller.push(shell("holds", escape("holds", pipes="")))
    assert controller.wait_for_result("holds")["state"] == "SUCCESS"
    pid = int(wait_for_words(tmp_path / "holds", 1)[0])
    assert not is_running(pid)
    agent.stop()
    said = [data for _, _, level, data in agent.rows("jobid = 'holds'") if level == 7]
    assert said == [f"greenagent: ended what the job left running: {pid} (sleep)"]


def test_without_them_it_ends_after_the_last_job_that_may_own_it_also_after_a_replacement(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path, escape: Escape
) -> None:
    agent = start_agent()
    gate = tmp_path / "gate"
    controller.push(shell("older", f"touch {gate}.up; while [ ! -e {gate} ]; do sleep 0.02; done"))
    wait_until(Path(f"{gate}.up").exists, what="the older job")
    controller.push(shell("untagged", escape("untagged")))
    controller.wait_for_result("untagged")
    pid = int(wait_for_words(tmp_path / "untagged", 1)[0])
    replace(agent)
    assert is_running(pid)
    gate.touch()
    assert controller.wait_for_result("older")["state"] == "SUCCESS"
    wait_until(lambda: not is_running(pid), 12, "the end of the orphan")
    agent.stop()
    said = [data for _, _, level, data in agent.rows("jobid = 'agent'") if level == 7]
    assert [text for text in said if str(pid) in text] == [
        f"a job that is over left process {pid} (sleep) behind: SIGTERM was sent"
    ]


def test_it_ends_with_the_agent(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path, escape: Escape
) -> None:
    agent = start_agent()
    controller.push(shell("untagged", escape("untagged")))
    controller.wait_for_result("untagged")
    pid = int(wait_for_words(tmp_path / "untagged", 1)[0])
    assert agent.stop() == 0
    assert not is_running(pid)
    assert str(pid) in " ".join(data for _, _, level, data in agent.rows("jobid = 'agent'") if level == 7)


def test_what_may_stay_stays_through_a_replacement_and_the_agents_end(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path, escape: Escape
) -> None:
    agent = start_agent()
    controller.push(shell("left", escape("left"), leave_children=True))
    assert controller.wait_for_result("left")["state"] == "SUCCESS"
    gate = tmp_path / "gate"
    controller.push(
        shell("leaving", f"{escape('leaving')}; until [ -e {gate} ]; do sleep 0.1; done", leave_children=True)
    )
    pids = [int(wait_for_words(tmp_path / name, 1)[0]) for name in ("left", "leaving")]
    replace(agent)
    gate.touch()
    assert controller.wait_for_result("leaving")["state"] == "SUCCESS"
    controller.push(shell("quiet", "sleep 6"))  # a check of the orphan reaper and a half
    controller.wait_for_result("quiet")
    assert [pid for pid in pids if not is_running(pid)] == []
    assert agent.stop() == 0
    assert [pid for pid in pids if not is_running(pid)] == []
    said = [data for _, _, level, data in agent.rows("jobid = 'agent'") if level == 7]
    assert [data for data in said if any(str(pid) in data for pid in pids)] == []
