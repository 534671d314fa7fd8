"""Thousands of small jobs that wait for one slot take little memory each, and the agent answers (issue 8, item 8)."""

from __future__ import annotations

import json
from pathlib import Path

from tests.end_to_end.conftest import StartAgent, built_in, execute, shell
from tests.end_to_end.test_metrics import free_port, get, listening
from tests.faults.test_hostile_commands import assert_well, memory_of
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

JOBS = 20_000
LESS_THAN = 4096
"""Bytes of the agent's memory for one waiting job."""


def test_a_waiting_job_takes_less_than_four_kilobytes(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    port = free_port()
    agent = start_agent(max_jobs=1, more=listening(port))
    gate = tmp_path / "gate"
    controller.push(shell("first", f"while [ ! -e {gate} ]; do sleep 0.1; done"))
    controller.push(execute("warm", "true"))
    wait_until(lambda: controller.waiting_commands == 0, what="the first commands taken")

    def waiting() -> int:
        found: int = json.loads(get(port, "/status")[1])["jobs"]["waiting"]
        return found

    wait_until(lambda: waiting() == 1, what="one that waits")
    before = memory_of(agent.pid, "VmRSS")
    for number in range(JOBS):
        controller.push(execute(f"j{number}", "true"))
    wait_until(lambda: controller.waiting_commands == 0, 120, "all commands taken")
    wait_until(lambda: waiting() == JOBS + 1, what="all of them waiting", interval=0.1)
    taken = memory_of(agent.pid, "VmRSS") - before
    assert taken < JOBS * LESS_THAN, f"{taken / JOBS:.0f} bytes each"
    assert_well(agent, controller)

    controller.push(built_in("end", "kill", json.dumps({"id": "j5"})))
    assert controller.wait_for_result("end")["state"] == "SUCCESS"
    assert controller.wait_for_result("j5")["state"] == "KILLED"
    gate.touch()
    for number in (0, 1, 2, 3, 4, 6, 7, 8, 9):
        assert controller.wait_for_result(f"j{number}")["state"] == "SUCCESS"
    assert [r["id"] for r in controller.results if r["id"][0] == "j"][:5] == ["j5", "j0", "j1", "j2", "j3"]
