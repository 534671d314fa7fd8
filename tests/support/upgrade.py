"""Replacements in place."""

from __future__ import annotations

import os
import signal

from tests.support.agents import AgentProcess
from tests.support.waiting import wait_until


def replace(agent: AgentProcess, times: int, number: int = signal.SIGUSR2) -> None:
    """Asks for a replacement and waits until the new image is ready, the agent having been replaced ``times`` times."""
    os.kill(agent.pid, number)
    wait_until(lambda: agent.stderr.count("is ready") == times + 1, 30, f"the agent replaced {times} times")
