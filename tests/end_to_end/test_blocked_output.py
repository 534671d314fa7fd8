"""Nobody reads the agent's output: it ends and is replaced nevertheless."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.agents import StartAgent
from tests.support.commands import built_in, shell
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

CONSOLE = '[logging.con]\ntype = "console"\nlevels = [1]\n'


@contextmanager
def unread_pipes(folder: Path, *names: str) -> Iterator[dict[str, int]]:
    """Pipes in the place of the agent's output files, open at our end and never read; small, so that they fill."""
    folder.mkdir()
    opened = {}
    for name in names:
        os.mkfifo(folder / name)
        opened[name] = os.open(folder / name, os.O_RDWR | os.O_NONBLOCK)
        fcntl.fcntl(opened[name], fcntl.F_SETPIPE_SZ, 4096)
    yield opened
    for descriptor in opened.values():
        os.close(descriptor)


def fill(descriptor: int) -> None:
    """As if the agent had said much."""
    try:
        while True:
            os.write(descriptor, b"\n")
    except BlockingIOError:
        pass  # it is full


@pytest.mark.parametrize("names", [("stdout",), ("stderr",), ("stdout", "stderr")], ids="+".join)
def test_sigterm_ends_an_agent_whose_output_is_blocked(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path, names: tuple[str, ...]
) -> None:
    folder = tmp_path / "one"
    with unread_pipes(folder, *names) as pipes:
        agent = start_agent(folder=folder, more=CONSOLE)
        controller.push(shell("j", "seq 1 3000"))
        controller.wait_for_result("j")
        for descriptor in pipes.values():
            fill(descriptor)
        assert agent.stop(15) == 0
        assert not agent.pid_file.exists()
    assert len(agent.rows("jobid = 'j'")) == 3000


def test_an_agent_whose_console_is_blocked_is_replaced_in_place(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    folder, gate = tmp_path / "one", tmp_path / "gate"
    with unread_pipes(folder, "stdout"):
        agent = start_agent(folder=folder, more=CONSOLE)
        controller.push(shell("j", f"seq 1 3000; while [ ! -e {gate} ]; do sleep 0.02; done"))
        wait_until(lambda: len(agent.rows("jobid = 'j'")) == 3000, what="the job's lines")
        os.kill(agent.pid, signal.SIGUSR2)
        wait_until(lambda: agent.stderr.count("is ready") == 2, 30, "the new image")
        gate.touch()
        assert controller.wait_for_result("j")["state"] == "SUCCESS"
        controller.push(built_in("p", "ping"))
        assert controller.wait_for_result("p")["state"] == "SUCCESS"
        assert agent.stop(15) == 0
