"""``greenagent-ctl`` as a process, and what it talks to: agents that answer on their own, or canned answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import gevent
import pytest
from gevent.pywsgi import WSGIServer

from greenagent.cli.ctl import follow
from greenagent.cli.ctl.main import run_command
from tests.support.local_controller import Agent, LocalController
from tests.support.programs import Ctl, Done
from tests.support.waiting import wait_until

NO_LINES = (
    'greenagent-ctl: this agent uploads no lines of this job ([logging] type "AC"); showing the end of its result\n'
)


class Terminal(StringIO):
    """Keeps what is printed, and says that it is a terminal."""

    def isatty(self) -> bool:
        return True


class PausesAlone:
    """The time by which ``greenagent-ctl`` follows a job within this process: it goes on in the pauses between looks.

    So it gives up lines after so many looks, however long a machine that stands still takes for them.
    """

    pace = 1.0
    """What part of a pause is really waited."""
    stops = 0
    """While there are any, pauses take no time."""

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        return self._now

    def time(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds * self.pace)
        if not self.stops:
            self._now += seconds

    @classmethod
    @contextmanager
    def stopped(cls) -> Iterator[None]:
        """No time passes within it."""
        cls.stops += 1
        try:
            yield
        finally:
            cls.stops -= 1


def ctl(url: str, *arguments: str, **options: Any) -> Done:
    """What the program does with these arguments: within this process, since starting another takes most of the time.

    ``options``: those of ``Ctl``, with any of which it is a process of its own.
    """
    if options:
        return Ctl("--url", url, *arguments, **options).done()
    with (
        pytest.MonkeyPatch.context() as patched,
        redirect_stdout(StringIO()) as out,
        redirect_stderr(StringIO()) as err,
    ):
        patched.setattr(follow, "time", PausesAlone())
        try:
            code = run_command(["--url", url, *arguments])
        except SystemExit as end:
            code = end.code
    return Done(code, out.getvalue(), err.getvalue())


def on_node(*arguments: str) -> tuple[str, ...]:
    return ("run", "--gid", "1", "--nid", "10", *arguments)


def result_of(**result: Any):
    return lambda agent, command: agent.finish(command["id"], **result)


def kill_aware(agent: Agent, command: dict[str, Any]) -> None:
    """Runs until it is killed, as the real agent answers a kill."""
    if command["cmd"] == "kill":
        agent.finish(json.loads(command["data"])["id"], state="KILLED", exit_code=None, signal="SIGTERM")
        agent.finish(command["id"], data="true", level=20)


class AnsweringAgent:
    """Takes commands and lets ``answer(agent, command)`` deal with each, until the test ends."""

    def __init__(
        self, controller: LocalController, answer: Callable[[Agent, dict[str, Any]], None], **options: Any
    ) -> None:
        self.agent = Agent(controller, **options)
        self.commands: list[dict[str, Any]] = []
        self._answer = answer
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
        with PausesAlone.stopped():
            assert agent.post("log", batch).status_code == 200


def looks(controller: LocalController, job_id: str) -> int:
    """How often lines of a job were asked for."""
    return controller.asked.count(f"/api/jobs/{job_id}/logs")


def await_looks(controller: LocalController, job_id: str, times: int = 1) -> None:
    """Waits until lines of a job have been asked for so many times more: 20 times a second once it has ended."""
    wanted = looks(controller, job_id) + times
    wait_until(lambda: looks(controller, job_id) >= wanted, what=f"greenagent-ctl to look for lines {times} times")


@contextmanager
def answers(values: dict[str, str]) -> Iterator[str]:
    """Answers requests by the last part of their path; yields the URL."""

    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])
        return [values[environ["PATH_INFO"].rpartition("/")[2]].encode()]

    server = WSGIServer(("127.0.0.1", 0), application, log=None)
    server.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.stop()


def texts_of(out: str) -> list[str]:
    return [line.split()[-1] for line in out.splitlines()]
