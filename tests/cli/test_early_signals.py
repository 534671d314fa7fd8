"""Signals that come while a program loads, or before the agent is ready."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.agents import AgentProcess, configuration
from tests.support.programs import PROGRAMS, ROOT, command, environment
from tests.support.waiting import wait_until

SLOW = """
import importlib, pathlib, sys, time
here = pathlib.Path(__file__).parent
(here / "begun").touch()
while not (here / "go").exists():
    time.sleep(0.005)
sys.path.remove(str(here))
del sys.modules[__name__]
importlib.import_module(__name__)
"""
"""In the place of a module: it takes as long as the test likes, as on a cold disk, and becomes the real one then."""


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_interrupt_while_modules_are_loaded_ends_it_without_a_word(tmp_path: Path, program: str) -> None:
    (tmp_path / "argparse.py").write_text(SLOW)
    starting = subprocess.Popen(
        command(program), stderr=subprocess.PIPE, cwd=ROOT, env=environment(PYTHONPATH=f"{tmp_path}:{ROOT}")
    )
    wait_until((tmp_path / "begun").exists, what="the slow import")
    starting.send_signal(signal.SIGINT)
    assert starting.communicate(timeout=60)[1] == b""
    assert starting.returncode == -signal.SIGINT  # a shell says 130


def test_signals_that_an_agent_lives_through_do_not_end_one_that_starts(tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "argparse.py").write_text(SLOW)
    agent = AgentProcess(tmp_path, configuration(tmp_path, {}), python_path=f"{slow}:{ROOT}").start(wait=False)
    try:
        wait_until((slow / "begun").exists, what="the slow import")
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(agent.pid, number)
        (slow / "go").touch()
        assert agent.wait() == 0, agent.stderr
        assert "is ready" in agent.stderr
        assert "reloaded: nothing has changed" in agent.stderr
        assert "draining" in agent.stderr, "each signal is obeyed once the agent is ready"
        assert "Traceback" not in agent.stderr
    finally:
        agent.clean_up()
