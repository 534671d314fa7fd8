"""Jobs that wait for one slot take little memory each, more are refused, and the agent answers.

``GREENAGENT_TEST_WAITING_JOBS=100000`` runs it with the agent as it is; with fewer, its limit is so much lower.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from greenagent.jobs.admission import TOO_MANY
from greenagent.jobs.job import MAX_WAITING
from tests.support.agents import StartAgent, assert_well
from tests.support.commands import built_in, execute, shell
from tests.support.metrics import get, listening
from tests.support.packages import change_package, copy_package
from tests.support.ports import reserve_port
from tests.support.processes import memory_of
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

JOBS = int(os.environ.get("GREENAGENT_TEST_WAITING_JOBS", "4000"))
BEYOND = 500
BEYOND_BYTES = 16 * 1024 * 1024
"""What the agent's memory may grow by while so many are refused: their answers go out as they come."""
LESS_THAN = 4096
"""Bytes of the agent's memory for one waiting job."""


def test_a_waiting_job_takes_less_than_four_kilobytes_and_those_beyond_the_limit_are_refused(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    port = reserve_port()
    package = copy_package(tmp_path / "installed")
    change_package(package, "jobs/job.py", f"MAX_WAITING: Final = {MAX_WAITING:_}", f"MAX_WAITING: Final = {JOBS}")
    agent = start_agent(max_jobs=1, more=listening(port), python_path=str(package))
    gate = tmp_path / "gate"
    controller.push(shell("first", f"while [ ! -e {gate} ]; do sleep 0.1; done"))
    controller.push(execute("warm", "true"))
    wait_until(lambda: controller.waiting_commands == 0, what="the first commands taken")

    def waiting() -> int:
        found: int = json.loads(get(port, "/status")[1])["jobs"]["waiting"]
        return found

    wait_until(lambda: waiting() == 1, what="one that waits")
    before = memory_of(agent.pid, "VmRSS")
    for number in range(JOBS - 1):
        controller.push(execute(f"j{number}", "true"))
    wait_until(lambda: controller.waiting_commands == 0, 60 + JOBS / 500, "all commands taken", interval=0.05)
    wait_until(lambda: waiting() == JOBS, what="all of them waiting", interval=0.1)
    assert controller.results == []
    full = memory_of(agent.pid, "VmRSS")
    assert full - before < JOBS * LESS_THAN, f"{(full - before) / JOBS:.0f} bytes each"

    for number in range(BEYOND):
        controller.push(execute(f"refused{number}", "true"))
    wait_until(lambda: len({result["id"] for result in controller.results}) >= BEYOND, 60, "the refusals", interval=0.1)
    assert {(result["state"], result["data"]) for result in controller.results} == {("ERROR", TOO_MANY)}
    assert {result["id"] for result in controller.results} == {f"refused{number}" for number in range(BEYOND)}
    assert waiting() == JOBS
    assert memory_of(agent.pid, "VmRSS") - full < BEYOND_BYTES
    agent.await_said(TOO_MANY, 20)
    assert agent.stderr.count(TOO_MANY) <= 100, "20 in a minute, and a slow machine takes more than one"
    assert_well(agent, controller)

    controller.push(built_in("end", "kill", json.dumps({"id": "j5"})))
    assert controller.wait_for_result("end")["state"] == "SUCCESS"
    assert controller.wait_for_result("j5")["state"] == "KILLED"
    controller.push(execute("another", "true"))
    wait_until(lambda: waiting() == JOBS, what="another in its place")
    gate.touch()
    for number in (0, 1, 2, 3, 4, 6, 7, 8, 9):
        assert controller.wait_for_result(f"j{number}")["state"] == "SUCCESS"
    assert [r["id"] for r in controller.results if r["id"][0] == "j"][:5] == ["j5", "j0", "j1", "j2", "j3"]
