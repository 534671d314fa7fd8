"""Children of a spawner in tests: their output, their pipes, and programs that leave a daemon behind."""

from __future__ import annotations

import os
from dataclasses import dataclass

import gevent

from greenagent.process.child import Child, ExitStatus
from greenagent.process.pipes import PipeReader
from greenagent.runtime.descriptors import close_descriptor

PATH = "/usr/local/bin:/usr/bin:/bin"
INSTANCE = "b7e1"
"""The agent in the tags of the runs."""

DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        {environment}
        print(os.getpid(), flush=True)
        {last}
        time.sleep(600)
    os._exit(0)
{leader}
"""


@dataclass
class Ended:
    """What a program did."""

    status: ExitStatus
    stdout: bytes
    stderr: bytes


def daemon(leader: str = "os.wait()", last: str = "", environment: str = "") -> tuple[str, str, str]:
    """A program that leaves a daemon behind (own session, no parent, holding the pipes) and prints its pid."""
    return "python3", "-c", DAEMON.format(leader=leader, last=last, environment=environment)


def close_pipes(child: Child) -> None:
    for descriptor in (child.stdin, child.stdout, child.stderr):
        close_descriptor(descriptor)


def read_some(child: Child, wanted: bytes = b"\n") -> bytes:
    """What the child prints until ``wanted`` was in it; the pipe stays open."""
    reader = PipeReader(os.dup(child.stdout))
    data = b""
    with gevent.Timeout(60):
        for chunk in reader.chunks():
            data += chunk
            if wanted in data:
                break
    reader.close()
    return data
