"""Ctrl-C before ``greenagent-ctl`` has begun."""

from __future__ import annotations

import os
import signal

from tests.controller.ctl import Ctl
from tests.support.waiting import wait_until

SLOW = """
import pathlib, time
pathlib.Path(__file__).with_name("begun").touch()
time.sleep(60)
"""


def test_an_interrupt_while_modules_are_loaded_is_no_traceback(tmp_path) -> None:
    """They take a fraction of a second, more on a cold disk; here one of them takes longer."""
    (tmp_path / "requests.py").write_text(SLOW)
    starting = Ctl("agents", PYTHONPATH=str(tmp_path))
    wait_until((tmp_path / "begun").exists, what="the slow import")
    os.kill(starting.process.pid, signal.SIGINT)
    assert starting.done() == (130, "", "")
