"""A full disk and no file handles, really injected: said clearly, jobs go on, recovery without restart."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

from tests.support.agents import StartAgent, assert_well, configuration
from tests.support.commands import built_in, execute, shell
from tests.support.faults import fill
from tests.support.metrics import get, listening
from tests.support.ports import reserve_port
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
    wait_until(lambda: "logs can be written again" in agent.stderr, 30, "the recovery")
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
    port = reserve_port()
    agent = start_agent(folder=small_disk, more=listening(port))
    controller.push(shell("before", "echo stored"))
    controller.wait_for_result("before")
    wait_until(lambda: agent.rows("jobid = 'before'"), what="the line")
    ballast = fill(small_disk)
    controller.push(shell("full", "seq 1 50000"))
    controller.wait_for_result("full", 30)
    wait_until(lambda: get(port, "/healthz")[0] == 503, what="the illness")
    wait_until(lambda: json.loads(get(port, "/status")[1])["logs"]["dropped"], what="lines to be lost")
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


def status_of(port: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(port, "/status")[1])
    return found


def test_a_full_disk_is_told_in_status_and_on_stderr_and_so_is_its_end(
    controller: RecordingController, start_agent: StartAgent, small_disk: Path
) -> None:
    """Here stderr lies on another disk than the agent's files."""
    port = reserve_port()
    agent = start_agent(text=configuration(small_disk, {"main": controller.url}, more=listening(port)))
    controller.push(shell("before", "echo stored"))
    controller.wait_for_result("before")
    before = status_of(port)
    assert (before["healthy"], before["problem"]) == (True, None)
    ballast = fill(small_disk)
    controller.push(shell("full", "seq 1 50000; echo 20::1"))
    assert controller.wait_for_result("full", 30)["data"] == "1"
    # What the ledger's log takes already is used again: only more than that needs room.
    large = "printf '20::\"'; head -c 900000 /dev/zero | tr '\\0' x; echo '\"'"
    for number in range(3):
        controller.push(shell(f"large {number}", large))
        assert len(controller.wait_for_result(f"large {number}", 30)["data"]) > 900_000
    parts = ("ledger", "logs")
    found = wait_until(
        lambda: (now := status_of(port)) and not any(now[part]["writable"] for part in parts) and now, 20, "both told"
    )
    assert not found["healthy"]
    ledger, logs = (
        f"the ledger {small_disk}/history.db cannot be written",
        f"logs cannot be written to {small_disk}/logs (database or disk is full)",
    )
    assert found["problem"] == f"{ledger}; {logs}"
    assert max(found[part]["free_bytes"] for part in parts) < 1_000_000
    assert found["jobs"]["done"]["SUCCESS"] == 5
    assert get(port, "/healthz") == (503, found["problem"] + "\n")
    for words in ("history.db cannot be written (database or disk is full)", "logs cannot be written"):
        agent.await_said(words)
    ballast.unlink()
    wait_until(lambda: get(port, "/healthz") == (200, "ok\n"), 20, "its health")
    found = status_of(port)
    assert (found["healthy"], found["problem"]) == (True, None)
    assert all(found[part]["writable"] and found[part]["free_bytes"] > 1_000_000 for part in parts)
    for words in ("history.db can be written again", "logs can be written again"):
        agent.await_said(words)
    for words in ("history.db cannot be written (database or disk is full)", "logs cannot be written"):
        assert agent.stderr.count(words) <= 3, words
    assert_well(agent, controller)


def leave_descriptors(pid: int, count: int) -> tuple[int, int]:
    """Lets a process open so many more; returns what it could have before."""
    seen: list[set[int]] = []

    def same_for_a_while() -> bool:
        seen.append({int(name) for name in os.listdir(f"/proc/{pid}/fd")})
        return seen[-50:] == [seen[-1]] * 50

    wait_until(same_for_a_while, 20, "no connection to come or go")
    used = seen[-1]
    limit = left = 0
    while left < count:
        left += limit not in used
        limit += 1
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
    return soft, hard


def test_a_lack_of_file_handles_is_told_in_status_and_on_stderr_and_so_is_its_end(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    """Some are left: not enough for the pipes of a job, but for somebody who asks."""
    port = reserve_port()
    agent = start_agent(more=listening(port))
    gate = tmp_path / "gate"
    controller.push(shell("running", f"echo up; while [ ! -e {gate} ]; do sleep 0.05; done; echo still"))
    controller.push(built_in("before", "ping"))
    controller.wait_for_result("before")
    wait_until(lambda: agent.rows("jobid = 'running'"), what="the running job")
    assert status_of(port)["healthy"]
    before = leave_descriptors(agent.pid, 3)
    controller.push(execute("starved", "true"))
    result = controller.wait_for_result("starved", 30)
    assert (result["state"], "too many open files" in result["data"].lower()) == ("ERROR", True)
    found = status_of(port)
    assert not found["healthy"]
    # The log folder may lack a descriptor at the same time, which is told beside it.
    [problem] = [each for each in found["problem"].split("; ") if each.startswith("no program can be started: ")]
    assert "too many open files" in problem.lower()
    code, text = get(port, "/healthz")
    assert (code, problem in text) == (503, True)
    agent.await_said(problem)
    gate.touch()
    assert controller.wait_for_result("running", 30)["streams"] == ["up\nstill\n", ""]
    resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, before)
    wait_until(lambda: get(port, "/healthz") == (200, "ok\n"), 20, "its health, although no job is started")
    assert status_of(port)["problem"] is None
    agent.await_said("programs can be started again")
    assert agent.stderr.count(problem) == 1
    controller.push(shell("fed", "echo fine"))
    assert controller.wait_for_result("fed", 30)["streams"] == ["fine\n", ""]
    assert_well(agent, controller)
