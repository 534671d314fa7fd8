"""A replacement that does not come about: the agent goes on as it is, and says why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

from tests.conftest import needs
from tests.end_to_end.conftest import StartAgent, built_in, execute, shell
from tests.support.processes import is_running
from tests.support.recording_controller import RecordingController, accept_after, status
from tests.support.waiting import wait_until


def test_a_state_that_cannot_be_written_calls_it_off(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent()
    gate = tmp_path / "gate"
    controller.push(shell("job", f"n=0; until [ -e {gate} ]; do n=$((n+1)); echo $n; sleep 0.01; done; echo 20::$n"))
    wait_until(lambda: agent.rows("jobid = 'job'"), what="the job")
    obstacle = agent.folder / "history.db.handover"
    obstacle.mkdir()
    (obstacle / "in the way").touch()
    os.kill(agent.pid, signal.SIGUSR2)
    wait_until(lambda: "not replaced, the agent goes on as it is" in agent.stderr, 20, "the refusal")
    assert f"{obstacle} cannot be written: " in agent.stderr
    before = len(agent.rows("jobid = 'job' AND level = 1"))
    wait_until(lambda: len(agent.rows("jobid = 'job' AND level = 1")) > before + 5, what="more lines")
    controller.push(execute("after", "true"))
    assert controller.wait_for_result("after")["state"] == "SUCCESS"
    (obstacle / "in the way").unlink()
    obstacle.rmdir()
    os.kill(agent.pid, signal.SIGUSR2)
    wait_until(lambda: agent.stderr.count("is ready") == 2, 20, "the replacement at the next try")
    gate.touch()
    result = controller.wait_for_result("job")
    assert result["state"] == "SUCCESS"
    assert [int(row[3]) for row in agent.rows("jobid = 'job' AND level = 1")] == list(range(1, int(result["data"]) + 1))


def test_a_job_that_stops_too_late_for_a_replacement_goes_on(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    """The log's disk hangs for longer than running jobs are waited for."""
    library = tmp_path / "slow_disk.so"
    source = Path(__file__).parents[1] / "faults" / "slow_disk.c"
    subprocess.run([needs("cc"), "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    slow = tmp_path / "slow"
    environment = {"LD_PRELOAD": str(library), "SLOW_DISK_FILE": str(slow), "SLOW_DISK_PART": "/logs/"}
    agent = start_agent(environment=environment, kill_grace=0.1)
    pid_file = tmp_path / "pid"
    controller.push(shell("chatty", f"echo $$ > {pid_file}; exec seq 1 100000000", loglevels_db="1", max_time=120))
    controller.push(shell("quiet", "read x; echo 1; exec sleep 60"))
    wait_until(lambda: agent.newest("chatty", 1) and pid_file.read_text().strip(), what="the jobs")
    slow.touch()
    os.kill(agent.pid, signal.SIGUSR2)
    wait_until(lambda: "job chatty is neither running nor over" in agent.stderr, 40, "the end of the patience")
    before = agent.newest("chatty", 1)
    assert before is not None
    slow.unlink()
    wait_until(lambda: (now := agent.newest("chatty", 1)) and now.seq > before.seq + 1_000_000, 30, "more lines")
    controller.push(built_in("kill", "kill", json.dumps({"id": "chatty"})))
    assert controller.wait_for_result("kill", 20)["state"] == "SUCCESS"
    assert controller.wait_for_result("chatty")["state"] == "KILLED"
    assert not is_running(int(pid_file.read_text()))
    assert agent.stop() == 0
    assert controller.wait_for_result("quiet")["state"] == "KILLED"


def test_results_under_way_during_a_replacement_arrive_once(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent()
    controller.misbehave("result", status(503))
    ids = [f"job{number}" for number in range(24)]
    for job_id in ids:
        controller.push(execute(job_id, "true"))
    wait_until(lambda: len(agent.rows("jobid = 'agent' AND data LIKE '%503%'")) > 0, what="the outage")
    wait_until(lambda: controller.waiting_commands == 0, what="all jobs to be taken")
    controller.behave("result")
    controller.misbehave("result", accept_after(0.25))
    wait_until(lambda: controller.results, 30, "the first result")
    os.kill(agent.pid, signal.SIGUSR2)
    wait_until(lambda: agent.stderr.count("is ready") == 2, 30, "the replacement")
    assert len(controller.results) < len(ids), "it was replaced half-way"
    wait_until(lambda: {result["id"] for result in controller.results} == set(ids), 30, "all results")
    controller.push(execute("last", "true"))
    controller.wait_for_result("last")
    assert Counter(result["id"] for result in controller.results) == Counter([*ids, "last"])
