"""What cannot be ended is named, and its slot is free."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.support.agents import AgentProcess, StartAgent
from tests.support.commands import execute, shell
from tests.support.job_lives import ask, running_pids, words
from tests.support.powerless import CAP_KILL, CAP_SYS_PTRACE, python_path_without
from tests.support.processes import is_running
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

ANOTHER_USER = """
import os, time
open('{pids}', 'a').write(f'{{os.getpid()}}\\n')
os.setresuid(65534, 65534, 65534)
print('ready', flush=True)
time.sleep(1000)
"""

if os.geteuid() == 0:  # nobody else can lose the right to signal a child

    def test_a_kill_names_the_pids_that_would_not_die_and_the_slot_is_free(
        controller: RecordingController, start_agent: StartAgent, tmp_path: Path
    ) -> None:
        """The agent is without CAP_KILL, and the job becomes another user: nothing can end it."""
        agent = start_agent(python_path=python_path_without(tmp_path, CAP_KILL), max_jobs=1, kill_grace=0.2)
        pids = tmp_path / "pids"
        program = ANOTHER_USER.format(pids=pids)
        try:
            controller.push(execute("stuck", "python3", "-c", program))
            wait_until(lambda: agent.rows("jobid = 'stuck' AND data = 'ready'"), what="the job")
            result = ask(controller, "kill", {"id": "stuck"}, 30)
            [pid] = words(pids)
            assert result["state"] == "ERROR"
            assert pid in result["data"]
            left = f"could not be ended: {pid} (python3, not permitted)"
            killed = controller.wait_for_result("stuck", 20)
            assert (killed["state"], killed["data"]) == ("KILLED", left)
            agent.await_said(f"job stuck: {left}")
            controller.push(shell("next", "true"))
            assert controller.wait_for_result("next", 20)["state"] == "SUCCESS", "its slot is free"
            assert is_running(int(pid))
        finally:
            for number in running_pids(pids):
                os.kill(number, 9)

    def test_what_a_killed_agents_job_left_is_named_where_it_can_be_neither_ended_nor_read(
        controller: RecordingController, start_agent: StartAgent, tmp_path: Path
    ) -> None:
        """No tag tells whose it is: its session and its recorded pid do."""
        path = python_path_without(tmp_path, CAP_KILL, CAP_SYS_PTRACE)
        agent = start_agent(python_path=path, kill_grace=0.2)
        pids = tmp_path / "pids"
        (program := tmp_path / "another_user.py").write_text(ANOTHER_USER.format(pids=pids))
        try:
            controller.push(execute("itself", "python3", str(program)))
            controller.push(shell("below", f"python3 {program} & sleep 1000"))
            controller.push(shell("again", f"exec python3 {program}", max_time=-1))
            for job_id in ("itself", "below", "again"):
                wait_until(lambda name=job_id: agent.rows(f"jobid = '{name}' AND data = 'ready'"), what="the jobs")
                wait_until(lambda name=job_id: recorded(agent, name), what="the note of it in the ledger")
            agent.kill()
            before = [int(pid) for pid in words(pids)]
            agent.start()
            for job_id in ("itself", "below"):
                result = controller.wait_for_result(job_id)
                assert result["state"] == "ERROR"
                [pid] = [
                    pid for pid in before if f"could not be ended: {pid} (python3, not permitted)" in result["data"]
                ]
                before.remove(pid)
                left = f"could not be ended: {pid} (python3, not permitted)"
                assert result["data"].endswith(left)
                agent.await_said(f"job {job_id}: {left}")
                noted = f"jobid = '{job_id}' AND level = 8 AND data = 'greenagent: {left}'"
                wait_until(lambda noted=noted: agent.rows(noted), what="the note of it in the job's log")
            [pid] = before
            agent.await_said(f"job again: could not be ended: {pid} (python3, not permitted)")
        finally:
            for number in running_pids(pids):
                os.kill(number, 9)


def recorded(agent: AgentProcess, job_id: str) -> bool:
    with closing(sqlite3.connect(agent.folder / "history.db")) as ledger:
        return ledger.execute("SELECT count(pid) FROM job WHERE id = ?", (job_id,)).fetchone() == (1,)


def test_what_a_killed_agents_job_left_is_ended_although_it_cleared_its_environment(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent()
    pids = tmp_path / "pids"
    inner = f"echo $$ >> {pids}; exec sleep 1000"
    controller.push(shell("j", f'env -i sh -c "{inner.replace("$", chr(92) + "$")}" & exec sleep 1000'))
    wait_until(lambda: words(pids) and recorded(agent, "j"), what="the process, and the note of it in the ledger")
    agent.kill()
    agent.start()
    assert running_pids(pids) == []
    assert "could not be ended" not in agent.stderr
