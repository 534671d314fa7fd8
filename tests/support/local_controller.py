"""A controller inside the test, the fixtures that start it, and agents that are a few lines of requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import requests

from greenagent.controller.backend import LocalBackend
from greenagent.controller.controller import Controller
from greenagent.controller.dispatch.agents import Poll
from greenagent.controller.fleet.backend import FleetBackend
from greenagent.controller.limits import Limits
from greenagent.controller.model import AgentKey
from greenagent.controller.services import Services
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.garbage import shorten_pauses
from greenagent.runtime.greenlets import Supervisor
from greenagent.runtime.patch import return_large_blocks
from tests.support.waiting import wait_until

ORIGINAL = "Go-http-client/1.1"
"""What original agents call themselves."""


class LocalController:
    """An in-process controller on a free port; ``said`` holds what it says, ``asked`` the paths of all requests."""

    def __init__(
        self,
        limits: Limits | None = None,
        state: Path | None = None,
        *,
        redis: str = "",
        clients: str = "",
        **options: Any,
    ) -> None:
        """``redis``: the URL of one that keeps all; ``clients``: of one with original clients."""
        return_large_blocks()  # as the program does: what it has freed is no longer resident
        shorten_pauses()
        self.said: list[str] = []
        agent_log = AgentLog(None)
        agent_log.attach(lambda level, text: self.said.append(text))
        limits = limits or Limits()
        backend = FleetBackend(redis, agent_log, limits) if redis else LocalBackend(agent_log, limits, state)
        self.services = Services(agent_log, limits, backend)
        if clients:
            from greenagent.controller.clients.front import OriginalClients

            options["clients"] = OriginalClients(clients, self.services)
        self.controller = Controller(
            self.services, Supervisor(agent_log, self.said.append), ("127.0.0.1", 0), **options
        )
        self.asked: list[str] = []
        self._note_requests()
        self.controller.start()
        self.url = self.controller.url

    def _note_requests(self) -> None:
        server = self.controller._server
        application = server.application

        def noting(environ: Any, start_response: Any) -> Any:
            self.asked.append(environ["PATH_INFO"])
            return application(environ, start_response)

        server.application = noting

    def stop(self) -> None:
        self.controller.stop()

    def change_limits(self, **changes: float) -> None:
        """From now on: all parts look at the same limits, and none has kept one."""
        for name, value in changes.items():
            object.__setattr__(self.services.limits, name, value)

    def sweep_by_hand(self) -> Callable[[], None]:
        """What ends and drops jobs once a second does so no more, but when this is called."""
        results = self.services.results
        sweep = results.sweep
        results.sweep = lambda: None  # type: ignore[method-assign]
        return sweep

    def grow_old(self) -> None:
        """As if this controller had begun before the time for which agents count as live."""
        self.services.agents.started -= self.services.limits.live

    def send_away(self, nid: int) -> None:
        """Waits for the end of the agent's polls. Then it is as if that had been too long ago for a live agent."""
        agent = self.services.agents.get(AgentKey(1, nid))
        assert agent is not None
        wait_until(lambda: not agent.open_polls, what=f"the polls of 1:{nid} to be over")
        agent.last_poll -= self.services.limits.live

    def end_polls(self, nid: int) -> None:
        """As when their time is over."""
        agent = self.services.agents.get(AgentKey(1, nid))
        assert agent is not None
        for poll in list(agent.parked):
            poll.offer(None)

    def post(self, path: str, value: Any, **options: Any) -> requests.Response:
        return plain().post(f"{self.url}/api/{path}", json=value, timeout=120, **options)

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        answer = plain().get(f"{self.url}/api/{path}", params=parameters, timeout=120)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def submit(self, **command: Any) -> dict[str, Any]:
        command.setdefault("cmd", "execute")
        answer = self.post("jobs", command)
        assert answer.status_code == 202, answer.text
        return answer.json()

    def results(self, job_id: str, wait: float = 30) -> list[dict[str, Any]]:
        return self.get(f"jobs/{job_id}", wait=wait)["results"]

    def state(self, job_id: str) -> str:
        return self.get(f"jobs/{job_id}")["state"]

    def live(self) -> set[str]:
        return {f"{one['gid']}:{one['nid']}" for one in self.get("agents")["agents"] if one["live"]}


def plain() -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    return session


class Poller:
    """One poll of an agent in its own greenlet; ``answer`` once it is over."""

    def __init__(
        self,
        url: str,
        gid: int,
        nid: int,
        roles: Iterable[str] = (),
        slots: int | None = None,
        acknowledge: str | None = None,
        user_agent: str = "greenagent/0.2.0",
    ) -> None:
        headers = {"User-Agent": user_agent}
        if slots is not None:
            headers["Greenagent-Free-Slots"] = str(slots)
        if acknowledge is not None:
            headers["Greenagent-Acknowledge"] = acknowledge
        self.session = plain()
        self.session.headers["Connection"] = "close"
        self.answer: requests.Response | None = None
        self._greenlet = gevent.spawn(self._poll, f"{url}/{gid}/{nid}/cmd", [("role", role) for role in roles], headers)

    def _poll(self, url: str, parameters: Any, headers: dict[str, str]) -> None:
        self.answer = self.session.get(url, params=parameters, headers=headers, timeout=75)

    @property
    def over(self) -> bool:
        return self._greenlet.ready()

    def command(self, timeout: float = 60) -> dict[str, Any] | None:
        """The command it brought, None for an empty answer."""
        self._greenlet.join(timeout)
        assert self._greenlet.successful(), f"the poll did not end well: {self._greenlet.exception}"
        assert self.answer is not None
        assert self.answer.status_code == 200, self.answer.text
        return self.answer.json() if self.answer.text else None

    def token(self) -> str:
        self.command()
        assert self.answer is not None
        return self.answer.headers.get("Greenagent-Delivery", "")

    def hang_up(self) -> None:
        """As a killed process: the connection is closed."""
        self._greenlet.kill()
        self.session.close()


def start(controller: LocalController, agent: Agent, job_id: str = "j", **command: Any) -> None:
    """Posts a job for the agent, which takes it."""
    poll = agent.poll()
    controller.submit(id=job_id, gid=agent.gid, nid=agent.nid, **command)
    poll.command()


class Agent:
    """An agent for tests: polls, and answers when it is told to."""

    def __init__(
        self,
        controller: LocalController,
        gid: int = 1,
        nid: int = 10,
        roles: Iterable[str] = (),
        slots: int | None = None,
        acknowledge: str | None = None,
        user_agent: str = "greenagent/0.2.0",
    ) -> None:
        """``user_agent``: original agents have another."""
        self.user_agent = user_agent
        self.controller = controller
        self.gid = gid
        self.nid = nid
        self.roles = tuple(roles)
        self.slots = slots
        self.acknowledge = acknowledge
        self.url = f"{controller.url}/{gid}/{nid}"

    def poll(self) -> Poller:
        """Begins a poll and returns once it is open at the controller."""
        before = self._parked()
        poller = Poller(
            self.controller.url, self.gid, self.nid, self.roles, self.slots, self.acknowledge, self.user_agent
        )
        wait_until(
            lambda: poller.over or any(poll not in before for poll in self._parked()), what="the poll to be open"
        )
        return poller

    def take(self) -> dict[str, Any]:
        """Polls once for a command that is there, keeping its token for the next poll."""
        poller = self.poll()
        command = poller.command()
        assert command is not None
        if self.acknowledge is not None:
            self.acknowledge = poller.token()
        return command

    def finish(self, job_id: str, state: str = "SUCCESS", starttime: int = 1000, **more: Any) -> requests.Response:
        result = {"id": job_id, "gid": self.gid, "nid": self.nid, "cmd": "execute", "args": {}, "data": "", "level": 0}
        return self.post("result", {**result, "state": state, "starttime": starttime, "time": 5, **more})

    def post(self, endpoint: str, value: Any) -> requests.Response:
        return plain().post(f"{self.url}/{endpoint}", data=json.dumps(value), timeout=120)

    def _parked(self) -> list[Poll]:
        agent = self.controller.services.agents.get(AgentKey(self.gid, self.nid))
        return list(agent.parked) if agent is not None else []


@pytest.fixture
def backend() -> str:
    """Where controllers keep what they know: nothing for their own memory, else the URL of a Redis."""
    return ""


@pytest.fixture
def make_controller(backend: str) -> Iterator[Callable[..., LocalController]]:
    """Starts controllers with limits and options of the test's own."""
    started: list[LocalController] = []

    def make(*args: Any, **options: Any) -> LocalController:
        started.append(LocalController(*args, redis=backend, **options))
        return started[-1]

    yield make
    for one in started:
        one.stop()


@pytest.fixture
def controller(make_controller: Callable[..., LocalController]) -> LocalController:
    return make_controller()
