"""What a replacement in place asks before, and what it leaves to the children after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from greenagent.jobs.handover import VERSION
from tests.support.agents import StartAgent, configuration
from tests.support.commands import built_in, shell
from tests.support.job_lives import wait_for_words, words
from tests.support.packages import change_package, copy_package
from tests.support.processes import ROOT
from tests.support.recording_controller import RecordingController
from tests.support.upgrade import replace
from tests.support.waiting import wait_until

OTHER = VERSION + 1


@pytest.mark.parametrize(
    ("version", "code", "said"),
    [
        ("1", 0, ""),
        (str(VERSION), 0, ""),
        (str(OTHER), 1, f"this agent reads handover state versions 1 and {VERSION}, not {OTHER}"),
        ("rubbish", 1, f"this agent reads handover state versions 1 and {VERSION}, not rubbish"),
    ],
)
def test_check_tells_whether_a_state_of_that_version_can_be_taken_over(
    tmp_path: Path, version: str, code: int, said: str
) -> None:
    file = tmp_path / "greenagent.toml"
    file.write_text(configuration(tmp_path, {"main": "http://127.0.0.1:1"}))
    run = subprocess.run(
        [sys.executable, "-m", "greenagent.cli.agent", "-c", str(file), "--check", "--handover", version],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == code, run.stderr
    assert said in run.stderr
    assert "Traceback" not in run.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["greenagent.toml"], "it took locks or made files"


def test_an_agent_that_reads_another_state_is_not_started_and_the_old_one_goes_on(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    package = copy_package(tmp_path / "installed")
    agent = start_agent(python_path=str(package))
    gate, up = tmp_path / "gate", tmp_path / "up"
    controller.push(shell("j", f"touch {up}; while [ ! -e {gate} ]; do sleep 0.02; done; echo 20::1"))
    wait_until(up.exists, what="the job")
    change_package(package, "jobs/handover.py", f"VERSION: Final = {VERSION}", f"VERSION: Final = {OTHER}")
    os.kill(agent.pid, signal.SIGUSR2)
    wait_until(lambda: "not replaced, the agent goes on as it is" in agent.stderr, 30, "the refusal")
    agent.await_said(f"this agent reads handover state versions 1 and {OTHER}, not {VERSION}")
    controller.push(built_in("p", "ping"))
    assert controller.wait_for_result("p")["state"] == "SUCCESS"
    gate.touch()
    assert controller.wait_for_result("j")["data"] == "1"
    assert agent.stderr.count("is ready") == 1
    change_package(package, "jobs/handover.py", f"VERSION: Final = {OTHER}", f"VERSION: Final = {VERSION}")
    replace(agent, 1)
    assert "Traceback" not in agent.stderr


def test_with_the_logs_of_another_agent_nothing_is_replaced(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    """The new image exited for the lock, and the jobs were nobody's."""
    other, agent = start_agent(controllers={}), start_agent()
    gate, up = tmp_path / "gate", tmp_path / "up"
    controller.push(shell("j", f"touch {up}; while [ ! -e {gate} ]; do sleep 0.02; done; echo 20::1"))
    wait_until(up.exists, what="the job")
    text = agent.config.read_text()
    for own, others in (
        (f"{agent.folder}/logs", f"{other.folder}/logs"),
        (f"{agent.folder}/mid", f"{other.folder}/mid"),
    ):
        agent.config.write_text(text.replace(own, others))
        said = len(agent.stderr)
        os.kill(agent.pid, signal.SIGUSR2)
        refusal = f"is held by process {other.pid}"
        wait_until(lambda said=said, refusal=refusal: refusal in agent.stderr[said:], 30, "the refusal")
        agent.config.write_text(text)
        os.kill(agent.pid, signal.SIGHUP)
        wait_until(lambda said=said: "reloaded" in agent.stderr[said:], what="the next line")
    replace(agent, 1)
    gate.touch()
    assert controller.wait_for_result("j")["data"] == "1"


@pytest.mark.parametrize("name", ["history", "mid"])
def test_with_a_state_file_that_is_a_link_nothing_is_replaced(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path, name: str
) -> None:
    """The new image exited for the link, and the jobs were nobody's."""
    agent = start_agent()
    gate, up = tmp_path / "gate", tmp_path / "up"
    controller.push(shell("j", f"touch {up}; while [ ! -e {gate} ]; do sleep 0.02; done; echo 20::1"))
    wait_until(up.exists, what="the job")
    path, moved = agent.folder / name, agent.folder / "moved"
    moved.write_text("[]" if name == "history" else "7")
    path.unlink(missing_ok=True)
    path.symlink_to(moved)
    os.kill(agent.pid, signal.SIGUSR2)
    wait_until(lambda: "not replaced, the agent goes on as it is" in agent.stderr, 30, "the refusal")
    agent.await_said(f"'{path}' is a symbolic link: put a file of the agent's own there, or name another")
    gate.touch()
    assert controller.wait_for_result("j")["data"] == "1"


def test_a_child_started_after_a_replacement_has_no_descriptor_but_the_first_three(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    """The pipes and pidfds of running jobs, and the locks, were inheritable for a moment."""
    agent = start_agent()
    pids = tmp_path / "pids"
    for number in range(3):
        controller.push(shell(f"before{number}", f"echo $$ >> {pids}; exec sleep 1000"))
    wait_for_words(pids, 3)
    for times in (1, 2):
        replace(agent, times)
        controller.push(shell(f"after{times}", f"echo $$ >> {pids}; exec sleep 1000"))
        wait_for_words(pids, 3 + times)
    for pid in words(pids):
        wait_until(lambda pid=pid: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", what="the program")
        # The loader has a library open for a moment.
        wait_until(lambda pid=pid: sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"], what="three descriptors")
        found = {name: os.readlink(f"/proc/{pid}/fd/{name}") for name in ("0", "1", "2")}
        assert all(target.startswith("pipe:") for target in found.values()), found
    for descriptor in Path(f"/proc/{agent.pid}/fdinfo").iterdir():
        if int(descriptor.name) > 2:
            try:
                text = descriptor.read_text()
            except FileNotFoundError:  # the agent closed it meanwhile
                continue
            flags = int(text.split("flags:")[1].split()[0], 8)
            assert flags & os.O_CLOEXEC, f"{descriptor.name} would go to a program that is started otherwise"
