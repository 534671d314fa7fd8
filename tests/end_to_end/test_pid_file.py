"""A pid file that cannot be written is refused before any job runs; none is left behind (promise 5)."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.agents import StartAgent
from tests.support.job_lives import wait_for_words

STARTUP = """
[startup.task]
name = "execute"
[startup.task.args]
name = "sh"
args = ["-c", "echo $$ > {up}; exec sleep 1000"]
"""


def test_a_place_that_cannot_be_written_is_refused_at_once(start_agent: StartAgent, tmp_path: Path) -> None:
    up = tmp_path / "up"
    for place in (tmp_path / "nowhere" / "pid", tmp_path):
        agent = start_agent("--pid-file", str(place), wait=False, more=STARTUP.format(up=up))
        assert agent.wait() == 1
        assert f"--pid-file {place}: " in agent.stderr
        assert "Traceback" not in agent.stderr
        assert "is ready" not in agent.stderr
    assert not up.exists(), "no job has run"
    assert not list(tmp_path.glob("*.new"))


def test_a_file_that_cannot_be_removed_is_said_and_nothing_more(start_agent: StartAgent, tmp_path: Path) -> None:
    up = tmp_path / "up"
    agent = start_agent(more=STARTUP.format(up=up))
    (pid,) = wait_for_words(up, 1)
    agent.pid_file.unlink()
    agent.pid_file.mkdir()
    assert agent.stop() == 0
    assert "cannot be removed" in agent.stderr
    assert "Traceback" not in agent.stderr
    assert not os.path.exists(f"/proc/{pid}")
