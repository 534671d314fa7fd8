"""What the agent tells a service manager by ``sd_notify``'s datagrams, over a real socket."""

from __future__ import annotations

import os
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from greenagent.runtime.notify import ServiceManager
from tests.support.agents import StartAgent
from tests.support.commands import built_in, shell
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


class Manager:
    """The receiving end; ``told`` holds one dictionary for each datagram."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.told: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def look(self) -> list[dict[str, str]]:
        while True:
            try:
                text = self._socket.recv(65536).decode()
            except BlockingIOError:
                return self.told
            self.told.append(dict(line.split("=", 1) for line in text.splitlines()))

    def wait_for(self, key: str, count: int = 1) -> dict[str, str]:
        """The ``count``-th datagram that has the key."""
        found = wait_until(
            lambda: [one for one in self.look() if key in one][count - 1 :], what=f"{key}, {count} times"
        )
        return found[0]

    def states(self) -> list[str]:
        states = ("READY", "RELOADING", "STOPPING")
        return [name for one in self.look() for name in states if one.get(name) == "1"]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@greenagent-test-{uuid.uuid4()}"
    manager = Manager(address)
    yield manager
    manager.close()


def test_ready_reload_and_stop(manager: Manager, controller: RecordingController, start_agent: StartAgent) -> None:
    agent = start_agent(environment={"NOTIFY_SOCKET": manager.address})
    ready = manager.wait_for("READY")
    assert ready["STATUS"] == "polling main"
    before = time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6
    os.kill(agent.pid, signal.SIGHUP)
    reloading = manager.wait_for("RELOADING")
    manager.wait_for("READY", 2)
    after = time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6
    assert before <= int(reloading["MONOTONIC_USEC"]) <= after

    controller.push(shell("env", 'echo "$NOTIFY_SOCKET."'))
    assert controller.wait_for_result("env")["streams"] == [".\n", ""]

    agent.config.write_text("[main]\ngid = 'broken'\n")
    os.kill(agent.pid, signal.SIGHUP)
    manager.wait_for("READY", 3)
    wait_until(lambda: "not reloaded" in agent.stderr, what="the refusal")
    assert agent.stop() == 0
    assert manager.states() == ["READY", "RELOADING", "READY", "RELOADING", "READY", "STOPPING"]
    assert not any("MAINPID" in one for one in manager.told)


def test_a_restart_in_place_is_ready_again_in_the_same_process(
    tmp_path: Path, controller: RecordingController, start_agent: StartAgent
) -> None:
    manager = Manager(str(tmp_path / "notify"))
    agent = start_agent(environment={"NOTIFY_SOCKET": manager.address})
    manager.wait_for("READY")
    controller.push(built_in("again", "restart"))
    manager.wait_for("READY", 2)
    assert agent.poll() is None
    assert agent.stop() == 0
    assert manager.states() == ["READY", "RELOADING", "READY", "STOPPING"]
    manager.close()


def test_an_agent_that_drains_is_not_yet_stopping(
    tmp_path: Path, controller: RecordingController, start_agent: StartAgent
) -> None:
    manager = Manager(str(tmp_path / "notify"))
    agent = start_agent(environment={"NOTIFY_SOCKET": manager.address})
    controller.push(shell("long", "touch started; while [ ! -e go ]; do sleep 0.05; done"))
    wait_until((agent.folder / "started").exists, what="the job to run")
    os.kill(agent.pid, signal.SIGUSR1)
    wait_until(lambda: any("draining" in one.get("STATUS", "") for one in manager.look()), what="the news")
    (agent.folder / "go").touch()
    assert agent.wait() == 0
    assert controller.wait_for_result("long")["state"] == "SUCCESS"
    assert manager.states() == ["READY"]
    manager.close()


def test_a_configuration_that_cannot_be_used_is_never_ready(tmp_path: Path, start_agent: StartAgent) -> None:
    manager = Manager(str(tmp_path / "notify"))
    agent = start_agent(environment={"NOTIFY_SOCKET": manager.address}, text="[main]\n", wait=False)
    assert agent.wait() == 1
    assert manager.look() == []
    manager.close()


@pytest.mark.parametrize("address", ["NOBODY", "@nobody-listens-here", "relative", "vsock:2:1234", ""])
def test_without_a_manager_the_agent_works_as_ever(address: str, tmp_path: Path, start_agent: StartAgent) -> None:
    agent = start_agent(environment={"NOTIFY_SOCKET": address.replace("NOBODY", str(tmp_path / "nobody"))})
    assert agent.stop() == 0
    assert "error" not in agent.stderr


def test_a_manager_that_does_not_read_holds_nobody_for_long(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    ours = ServiceManager({"NOTIFY_SOCKET": manager.address})
    told = 0
    while told < 10_000 and ours.status(f"line {told}"):
        told += 1
    assert 0 < told < 10_000
    assert len(manager.look()) == told
    assert ours.ready()
    manager.close()
