"""``greenagent-ctl`` as a process, and an agent that answers on its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gevent

from tests.controller.support import Agent, LocalController
from tests.support.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Ctl:
    """A running ``greenagent-ctl``; its output goes to files, so that the test's hub can go on."""

    def __init__(
        self, *arguments: str, stdin: Any = subprocess.DEVNULL, stderr: Any = None, **environment: str
    ) -> None:
        self._out = tempfile.TemporaryFile()  # noqa: SIM115
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "greenagent.cli.ctl", *arguments],
            stdin=stdin,
            stdout=self._out,
            stderr=self._err if stderr is None else stderr,
            cwd=REPOSITORY,
            env={**os.environ, **environment},
        )

    @property
    def out(self) -> str:
        return os.pread(self._out.fileno(), 10_000_000, 0).decode()

    @property
    def err(self) -> str:
        return os.pread(self._err.fileno(), 10_000_000, 0).decode()

    def done(self, timeout: float = 20) -> Done:
        wait_until(lambda: self.process.poll() is not None, timeout, f"greenagent-ctl to end ({self.err})")
        done = Done(self.process.returncode, self.out, self.err)
        self._out.close()
        self._err.close()
        assert "Traceback" not in done.err
        return done


def ctl(url: str, *arguments: str, **options: Any) -> Done:
    return Ctl("--url", url, *arguments, **options).done()


class AnsweringAgent:
    """Takes commands and lets ``answer(agent, command)`` deal with each, until the test ends."""

    def __init__(
        self, controller: LocalController, answer: Callable[[Agent, dict[str, Any]], None], **options: Any
    ) -> None:
        self.agent = Agent(controller, **options)
        self.commands: list[dict[str, Any]] = []
        self._answer = answer
        self._next_line = 1
        self._greenlet = gevent.spawn(self._run)
        key = (self.agent.gid, self.agent.nid)
        wait_until(lambda: (known := controller.services.agents.get(key)) and known.parked, what="the agent to poll")

    def _run(self) -> None:
        while True:
            command = self.agent.poll().command(timeout=75)
            if command is not None:
                self.commands.append(command)
                gevent.spawn(self._answer, self.agent, command)

    def stop(self) -> None:
        self._greenlet.kill()


class Lines:
    """Uploads lines with rising message ids."""

    def __init__(self) -> None:
        self._next = 1

    def send(self, agent: Agent, job_id: str, *texts: str, level: int = 1, stamp: int = 1000) -> None:
        batch = []
        for text in texts:
            batch.append(
                {"id": self._next, "jobid": job_id, "level": level, "data": text, "epoch": 1, "epoch_ms": stamp}
            )
            self._next += 1
        assert agent.post("log", batch).status_code == 200
