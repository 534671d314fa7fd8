"""Errors in destructors are said in one line, and hold up nobody."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys

from greenagent.runtime.descriptors import close_descriptor
from tests.support.waiting import wait_until

PROGRAM = """
from greenagent.runtime.patch import patch
patch()
from greenagent.runtime.greenlets import log_hub_errors
from greenagent.runtime.agent_log import AgentLog
log_hub_errors(AgentLog(None))
class Broken:
    def __del__(self):
        raise ValueError("two\\nlines")
Broken()
print("went on")
"""


def run(stderr: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=stderr)


def test_an_ignored_error_is_one_line() -> None:
    process = run(subprocess.PIPE)
    wait_until(lambda: process.poll() is not None, what="the program to end")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read() == b"went on\n"
    assert process.stderr.read().endswith(b"debug: ignored in function: ValueError: two lines\n")


def test_a_full_stderr_does_not_hold_it_up() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETFL, os.O_NONBLOCK)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        fcntl.fcntl(writing, fcntl.F_SETFL, 0)
    process = run(writing)
    try:
        wait_until(lambda: process.poll() is not None, what="the program to end")
    finally:
        process.kill()
        close_descriptor(reading)
        close_descriptor(writing)
    assert process.stdout is not None
    assert process.stdout.read() == b"went on\n"
