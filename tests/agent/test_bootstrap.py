"""What the agent ends at its start, and what it leaves alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from greenagent.agent.bootstrap import end_orphans
from greenagent.process.job_tree import job_tag
from greenagent.spool.schema import FROM_CONTROLLER, NewJob
from greenagent.spool.spool import Spool
from greenagent.values.command import parse_command
from tests.support.agent_logs import RecordedLog
from tests.support.processes import is_running
from tests.support.waiting import wait_until


@contextmanager
def shell(script: str, tag: str = "") -> Iterator[tuple[int, int]]:
    """A shell that prints the pid of a process it starts; gives both pids."""
    variables = {"PATH": os.environ["PATH"], "TAG": tag}
    with subprocess.Popen(["sh", "-c", script], env=variables, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        try:
            yield process.pid, pid
        finally:
            for each in (pid, process.pid):
                if is_running(each):
                    os.kill(each, 9)


def test_what_runs_under_a_living_process_is_nobodys_orphan(tmp_path: Path) -> None:
    agent_log = RecordedLog()
    spool = Spool(tmp_path / "ledger.db", agent_log, result_memory=1000)
    spool.start()
    try:
        command = parse_command({"id": "a", "gid": 1, "nid": 2, "cmd": "execute", "args": {"name": "x"}})
        spool.accept([NewJob(command, "main", FROM_CONTROLLER, waiting=False)])
        tag = job_tag(spool.instance, "a", 1)
        # The shells here are without the tag, as an agent is; what they start has it.
        script = "GREENAGENT_JOB=$TAG sh -c 'sleep 600 & echo $!; wait'"
        with shell(f"{script}; true", tag) as (owner, owned), shell(f"{script} & exit 0", tag) as (leaver, left):
            wait_until(lambda: not is_running(leaver), what="the end of the shell that leaves an orphan")
            end_orphans(spool, agent_log, 0.05)
            assert (is_running(owned), is_running(left)) == (True, False)
            [warning] = [line for line in agent_log.lines if "left alone" in line]
            assert f"2 processes of jobs in this ledger run under the living process {owner} (sh)" in warning
    finally:
        spool.stop()
