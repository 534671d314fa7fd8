"""A replacement that does not come about: the agent goes on as it is, and says why."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections import Counter
from pathlib import Path

from tests.conftest import needs
from tests.support.agents import StartAgent
from tests.support.commands import built_in, execute, shell
from tests.support.metrics import get, listening
from tests.support.packages import patient_package
from tests.support.ports import reserve_port
from tests.support.processes import is_running
from tests.support.recording_controller import RecordingController, accept_after, status
from tests.support.upgrade import replace
from tests.support.waiting import wait_until


def test_the_state_of_the_jobs_needs_no_file(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    """Where greenagent 0.1 wrote it, a full disk was in the way of a replacement."""
    agent = start_agent()
    gate = tmp_path / "gate"
    controller.push(shell("job", f"n=0; until [ -e {gate} ]; do n=$((n+1)); echo $n; sleep 0.01; done; echo 20::$n"))
    wait_until(lambda: agent.rows("jobid = 'job'"), what="the job")
    obstacle = agent.folder / "history.db.handover"
    obstacle.mkdir()
    (obstacle / "in the way").touch()
    replace(agent, 1)
    before = len(agent.rows("jobid = 'job' AND level = 1"))
    wait_until(lambda: len(agent.rows("jobid = 'job' AND level = 1")) > before + 5, what="more lines")
    gate.touch()
    result = controller.wait_for_result("job")
    assert result["state"] == "SUCCESS"
    assert agent.stop() == 0
    assert [int(row[3]) for row in agent.rows("jobid = 'job' AND level = 1")] == list(range(1, int(result["data"]) + 1))


def test_a_job_that_does_not_stop_in_time_is_ended_and_reported_and_the_others_go_on(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    """The log's disk hangs for longer than running jobs are waited for."""
    library = tmp_path / "slow_disk.so"
    source = Path(__file__).parents[1] / "faults" / "slow_disk.c"
    subprocess.run([needs("cc"), "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    slow = tmp_path / "slow"
    environment = {"LD_PRELOAD": str(library), "SLOW_DISK_FILE": str(slow), "SLOW_DISK_PART": "/logs/"}
    agent = start_agent(environment=environment, kill_grace=0.1)
    pid_file, gate = tmp_path / "pid", tmp_path / "gate"
    controller.push(shell("chatty", f"echo $$ > {pid_file}; exec seq 1 100000000", loglevels_db="1", max_time=120))
    controller.push(shell("quiet", f"read x; echo 1; while [ ! -e {gate} ]; do sleep 0.02; done; echo 2"))
    wait_until(lambda: agent.newest("chatty", 1) and pid_file.read_text().strip(), what="the jobs")
    slow.touch()
    os.kill(agent.pid, signal.SIGUSR2)
    wait_until(lambda: "job chatty did not stop within" in agent.stderr, 40, "the end of the patience")
    wait_until(lambda: not is_running(int(pid_file.read_text())), what="the end of what it ran")
    slow.unlink()
    wait_until(lambda: agent.stderr.count("is ready") == 2, 30, "the replacement")
    result = controller.wait_for_result("chatty")
    cut_off = "cut off: the job did not stop in time for the agent's replacement in place"
    assert (result["state"], result["data"]) == ("ERROR", cut_off)
    gate.touch()
    assert controller.wait_for_result("quiet")["streams"] == ["1\n2\n", ""]
    controller.push(built_in("after", "ping"))
    assert controller.wait_for_result("after")["state"] == "SUCCESS"
    assert len(controller.results_of("chatty")) == 1
    assert agent.stop() == 0


def test_an_address_for_metrics_that_another_has_costs_no_job(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    """The new image exited for it, and the jobs were nobody's."""
    agent = start_agent()
    gate, up = tmp_path / "gate", tmp_path / "up"
    controller.push(shell("job", f"touch {up}; until [ -e {gate} ]; do sleep 0.02; done; echo 20::1"))
    wait_until(up.exists, what="the job")
    port = reserve_port()
    with socket.create_server(("127.0.0.1", port)):
        agent.config.write_text(agent.config.read_text() + listening(port))
        replace(agent, 1)
    agent.await_said(f"cannot listen on 127.0.0.1:{port}")
    gate.touch()
    assert controller.wait_for_result("job")["data"] == "1"
    replace(agent, 2)
    assert get(port, "/healthz") == (200, "ok\n")


def test_results_under_way_during_a_replacement_arrive_once(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent(python_path=str(patient_package(tmp_path / "installed")))
    controller.misbehave("result", status(503))
    ids = [f"job{number}" for number in range(60)]
    for job_id in ids:
        controller.push(execute(job_id, "true"))
    wait_until(lambda: len(agent.rows("jobid = 'agent' AND data LIKE '%503%'")) > 0, what="the outage")
    wait_until(lambda: controller.waiting_commands == 0, what="all jobs to be taken")
    controller.behave("result")
    controller.misbehave("result", accept_after(0.5))
    wait_until(lambda: controller.results, 30, "the first result")
    replace(agent, 1)
    assert len(controller.results) < len(ids), "it was replaced half-way"
    controller.behave("result")
    wait_until(lambda: {result["id"] for result in controller.results} == set(ids), 30, "all results")
    controller.push(execute("last", "true"))
    controller.wait_for_result("last")
    assert Counter(result["id"] for result in controller.results) == Counter([*ids, "last"])
