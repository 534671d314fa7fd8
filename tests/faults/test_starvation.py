"""No processes left, no memory for one: said, told by health, tried again, and over without a restart."""

from __future__ import annotations

import errno
import json
import resource
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from greenagent.jobs.admission import Admission
from greenagent.values.command import parse_command
from tests.conftest import needs
from tests.support.agents import AgentProcess, StartAgent, assert_well
from tests.support.commands import built_in, execute, shell
from tests.support.faults import Unprivileged
from tests.support.inside import InsideAgent
from tests.support.metrics import get, listening
from tests.support.ports import reserve_port
from tests.support.processes import memory_of
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

NO_PROCESSES = "no more processes are allowed here"
NO_MEMORY = "cannot allocate memory"


def assert_ill(port: int, reason: str) -> None:
    """Health and status tell it."""

    def told() -> bool:
        (code, text), status = get(port, "/healthz"), json.loads(get(port, "/status")[1])
        is_one = (code, status["healthy"], status["problem"]) == (503, False, text.strip())
        return is_one and text.startswith("no program can be started: ") and reason in text

    wait_until(told, what="the illness")


def wait_for_health(port: int, agent: AgentProcess) -> None:
    """It gets well by itself, without any job."""
    wait_until(lambda: get(port, "/healthz") == (200, "ok\n"), 15, "its health")
    agent.await_said("programs can be started again")


def test_without_processes_a_start_is_tried_again_and_then_fails_with_the_reason(
    controller: RecordingController, unprivileged: Unprivileged
) -> None:
    port = reserve_port()
    agent = unprivileged.start(more=listening(port))
    controller.push(shell("running", "echo up; read x; echo still", max_time=60))
    wait_until(lambda: agent.rows("jobid = 'running'"), what="the running job")

    unprivileged.limit_processes(agent, 1)
    controller.push(shell("early", "echo fine"))
    wait_until(lambda: f"warning: no program can be started: {NO_PROCESSES}" in agent.stderr, what="the warning")
    assert_ill(port, NO_PROCESSES)
    controller.push(built_in("deaf", "ping"))
    assert controller.wait_for_result("deaf")["state"] == "SUCCESS"
    assert controller.results_of("early") == []
    unprivileged.limit_processes(agent, None)
    assert controller.wait_for_result("early", 20)["streams"] == ["fine\n", ""]
    wait_for_health(port, agent)

    unprivileged.limit_processes(agent, 1)
    controller.push(execute("late", "true"))
    result = controller.wait_for_result("late", 30)
    assert result["state"] == "ERROR"
    assert NO_PROCESSES in result["data"]
    assert_ill(port, NO_PROCESSES)
    unprivileged.limit_processes(agent, None)
    wait_for_health(port, agent)
    assert len(controller.results_of("running")) == 1, "its stdin was closed: it went on meanwhile"
    assert controller.wait_for_result("running")["streams"] == ["up\nstill\n", ""]
    agent.await_said("programs can be started again", 2)
    assert agent.stderr.count(NO_PROCESSES) == 2, "said once each time"
    assert_well(agent, controller)


@pytest.mark.parametrize("processes", [1, 2, 8, 17])
def test_an_agent_that_gets_no_threads_says_so_and_does_not_start(unprivileged: Unprivileged, processes: int) -> None:
    agent = unprivileged.start(wait=False, processes=processes)
    assert agent.wait() == 1
    assert agent.stderr.endswith("cannot start: no more threads are allowed here (limit of the user or the system)\n")
    assert "Traceback" not in agent.stderr


class Shortage:
    """Makes posix_spawn fail in a process that was started with ``environment``."""

    def __init__(self, folder: Path) -> None:
        library = folder / "no_start.so"
        source = Path(__file__).with_name("no_start.c")
        subprocess.run([needs("cc"), "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        self._file = folder / "number"
        self._file.write_bytes(struct.pack("q", 0))
        self.environment = {"LD_PRELOAD": str(library), "SPAWN_ERROR_FILE": str(self._file)}

    def set(self, number: int) -> None:
        """An error number, or 0 for an end of it."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", number))


@pytest.fixture
def shortage(tmp_path: Path) -> Shortage:
    return Shortage(tmp_path)


def test_without_memory_for_a_process_jobs_wait_for_it_and_can_be_killed_meanwhile(
    controller: RecordingController, start_agent: StartAgent, shortage: Shortage
) -> None:
    port = reserve_port()
    agent = start_agent(environment=shortage.environment, more=listening(port), max_jobs=3)
    controller.push(execute("before", "true"))
    assert controller.wait_for_result("before")["state"] == "SUCCESS"

    shortage.set(errno.ENOMEM)
    controller.push(shell("patient", "echo fine"))
    controller.push(shell("killed", "echo never"))
    controller.push(shell("again", "echo fine", recurring_period=1000))
    wait_until(lambda: NO_MEMORY in agent.stderr, what="the warning")
    assert_ill(port, NO_MEMORY)
    wait_until(lambda: controller.waiting_commands == 0, what="all commands handed out")
    controller.push(built_in("kill", "kill", json.dumps({"id": "killed"})))
    assert controller.wait_for_result("kill")["state"] == "SUCCESS"
    killed = controller.wait_for_result("killed")
    assert (killed["state"], killed["data"]) == ("KILLED", "killed before it was started")
    shortage.set(0)
    assert controller.wait_for_result("patient", 20)["streams"] == ["fine\n", ""]
    wait_until(lambda: agent.rows("jobid = 'again'"), 15, "the recurring one")
    wait_for_health(port, agent)
    # Whether there is room again is looked at every few seconds, and there is: only programs get none here.
    ends = "programs can be started again"
    wait_until(lambda: agent.stderr.count(NO_MEMORY) == agent.stderr.count(ends), what="an end of each lack")
    assert agent.stderr.count(NO_MEMORY) < 20
    assert not agent.rows("jobid = 'killed' AND data = 'never'")
    assert_well(agent, controller)


def test_a_job_whose_start_is_tried_again_is_started_by_the_image_that_replaces_the_agent(
    controller: RecordingController, start_agent: StartAgent, shortage: Shortage
) -> None:
    agent = start_agent(environment=shortage.environment)
    controller.push(execute("before", "true"))
    controller.wait_for_result("before")
    shortage.set(errno.EAGAIN)
    controller.push(shell("patient", "echo run $$"))
    wait_until(lambda: NO_PROCESSES in agent.stderr, what="the warning")
    shortage.set(0)
    began = time.monotonic()
    controller.push(built_in("upgrade", "restart"))
    wait_until(lambda: agent.stderr.count("is ready") == 2, 20, "the new image")
    result = controller.wait_for_result("patient", 20)
    assert result["state"] == "SUCCESS", f"{time.monotonic() - began:.1f} s after the restart"
    assert len([row for row in agent.rows("jobid = 'patient'") if row[3].startswith("run ")]) == 1
    assert_well(agent, controller)


def test_without_any_memory_every_command_is_answered_in_the_end_and_the_agent_goes_on(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    port = reserve_port()
    agent = start_agent(more=listening(port))
    controller.push(execute("before", "true"))
    controller.wait_for_result("before")
    soft, hard = resource.prlimit(agent.pid, resource.RLIMIT_AS)
    resource.prlimit(agent.pid, resource.RLIMIT_AS, (memory_of(agent.pid, "VmSize"), hard))
    names = ("starved", "inside")
    controller.push(execute("starved", "true"))
    controller.push(built_in("inside", "ping"))
    wait_until(lambda: NO_MEMORY in agent.stderr or "MemoryError" in agent.stderr, what="the lack")
    resource.prlimit(agent.pid, resource.RLIMIT_AS, (soft, hard))
    for name in names:
        result = controller.wait_for_result(name, 30)
        assert result["state"] == "SUCCESS" or "memory" in result["data"], result
    wait_until(lambda: get(port, "/healthz") == (200, "ok\n"), 15, "its health")
    controller.push(shell("after", "echo fine"))
    assert controller.wait_for_result("after")["streams"] == ["fine\n", ""]
    assert agent.poll() is None
    assert "Traceback" not in agent.stderr


@pytest.mark.parametrize("command", [shell("lost", "echo never"), built_in("lost", "ping")], ids=["external", "inside"])
def test_a_job_whose_greenlet_could_not_begin_is_answered(
    controller: RecordingController, tmp_path: Path, command: dict[str, Any]
) -> None:
    with InsideAgent(tmp_path, {"main": controller.url}) as inside:
        answer_lost(inside.agent.admission, controller, command)


def answer_lost(admission: Admission, controller: RecordingController, command: dict[str, Any]) -> None:
    admission.accept([parse_command(command)], "main")
    greenlet = admission.live["lost"].greenlet
    assert greenlet is not None
    greenlet.kill(block=False)  # before it has begun: nothing of it runs, as when there is no memory for its stack
    wait_until(lambda: greenlet.dead, what="its end")
    admission.end_lost()
    result = controller.wait_for_result("lost")
    assert (result["state"], result["data"]) == ("ERROR", "the agent lacked the memory to begin it")
    assert admission.live == {}
    assert admission.queue.running == 0
    admission.end_lost()
    controller.push(built_in("next", "ping"))
    assert controller.wait_for_result("next")["state"] == "SUCCESS"
    assert len(controller.results_of("lost")) == 1
