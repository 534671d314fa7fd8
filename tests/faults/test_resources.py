"""A full disk and no file handles, really injected: said clearly, jobs go on, recovery without restart (issue 8)."""

from __future__ import annotations

import resource
from pathlib import Path

from tests.end_to_end.conftest import StartAgent, built_in, execute, shell
from tests.end_to_end.test_metrics import free_port, get, listening
from tests.faults.conftest import fill
from tests.faults.test_hostile_commands import assert_well
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


def test_a_full_disk_costs_lines_that_are_counted_but_no_job_and_no_result(
    controller: RecordingController, start_agent: StartAgent, small_disk: Path
) -> None:
    agent = start_agent(folder=small_disk)
    controller.push(shell("before", "echo stored"))
    controller.wait_for_result("before")
    wait_until(lambda: agent.rows("jobid = 'before'"), what="the line")
    # Its stderr lies on the same disk, so it is not heard meanwhile, but must be afterwards.
    ballast = fill(small_disk)
    controller.push(shell("full", "seq 1 50000; echo 20::1"))
    assert controller.wait_for_result("full", 30)["data"] == "1"
    for number in range(5):
        controller.push(execute(f"more{number}", "true"))
        assert controller.wait_for_result(f"more{number}", 30)["state"] == "SUCCESS"
    ballast.unlink()
    controller.push(shell("after", "for i in 1 2 3 4 5 6; do echo line $i; sleep 0.5; done"))
    assert controller.wait_for_result("after", 20)["state"] == "SUCCESS"
    wait_until(lambda: "logs can be written again" in agent.stderr, 10, "the recovery")
    wait_until(lambda: agent.rows("jobid = 'after' AND data = 'line 6'"), 10, "the line")
    assert_well(agent, controller)
    own = [data for _, _, _, data in agent.rows("jobid = 'agent'")]
    said = agent.stderr
    for words in ("history.db cannot be written", "logs cannot be written"):
        assert said.count(words) <= 3, f"said again and again: {words}"
    assert any("lines of" in line and "were lost" in line for line in own)
    assert agent.rows("jobid = 'full' AND data LIKE '%lines of this job were lost%'")
    assert agent.stop() == 0
    states = [(result["id"], result["state"]) for result in controller.results]
    assert len(states) == len(set(states)), "no result was sent twice"


def test_an_agent_whose_disk_was_full_gets_well_although_nobody_logs(
    controller: RecordingController, start_agent: StartAgent, small_disk: Path
) -> None:
    port = free_port()
    agent = start_agent(folder=small_disk, more=listening(port))
    controller.push(shell("before", "echo stored"))
    controller.wait_for_result("before")
    wait_until(lambda: agent.rows("jobid = 'before'"), what="the line")
    ballast = fill(small_disk)
    controller.push(shell("full", "seq 1 50000"))
    controller.wait_for_result("full", 30)
    wait_until(lambda: get(port, "/healthz")[0] == 503, what="the illness")
    ballast.unlink()
    wait_until(lambda: get(port, "/healthz") == (200, "ok\n"), 20, "its health")
    wait_until(lambda: agent.rows("jobid = 'full' AND data LIKE '%lines of this job were lost%'"), what="the count")
    assert_well(agent, controller)


def test_without_file_handles_a_start_fails_with_the_reason_and_works_again_when_there_are_some(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent()
    controller.push(shell("running", "echo up; sleep 2; echo still; sleep 1"))
    controller.push(built_in("before", "ping"))
    controller.wait_for_result("before")
    wait_until(lambda: controller.waiting_commands == 0, what="all commands handed out")
    soft, hard = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)
    wait_until(lambda: agent.rows("jobid = 'running'"), what="the running job")
    resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (3, hard))
    controller.push(execute("starved", "true"))
    result = controller.wait_for_result("starved", 30)
    assert result["state"] == "ERROR"
    assert "too many open files" in result["data"].lower()
    controller.push(built_in("deaf", "ping"))
    controller.wait_for_result("deaf", 30)
    resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (soft, hard))
    controller.push(shell("fed", "echo fine"))
    assert controller.wait_for_result("fed", 30)["streams"] == ["fine\n", ""]
    assert controller.wait_for_result("running", 30)["streams"] == ["up\nstill\n", ""]
    assert_well(agent, controller)
