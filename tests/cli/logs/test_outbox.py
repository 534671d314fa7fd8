"""``greenagent-logs outbox`` for people who may read some things and not others."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.conftest import needs
from tests.support.log_program import COMMAND, ENVIRONMENT, run


def run_restricted(*arguments: object) -> subprocess.CompletedProcess[str]:
    """As somebody whom the modes of files bind: root without its powers is one."""
    wrapper = [needs("setpriv"), "--bounding-set=-all"] if os.geteuid() == 0 else []
    command = [*wrapper, *COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=ENVIRONMENT)


def test_a_ledger_that_may_not_be_read_is_not_called_missing(agent_folder: Path) -> None:
    spool = agent_folder / "history.db"
    spool.chmod(0)
    for place in (agent_folder, agent_folder / "logs"):
        done = run_restricted("outbox", "--dir", place)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"{spool}: Permission denied" in done.stderr
    spool.chmod(0o600)
    assert run_restricted("outbox", "--dir", agent_folder).stdout == "nothing is set aside\n"
    try:
        agent_folder.chmod(0o300)
        done = run_restricted("outbox", "--dir", agent_folder)
    finally:
        agent_folder.chmod(0o700)
    assert done.returncode == 1
    assert f"{agent_folder}: Permission denied" in done.stderr


def test_databases_that_may_not_be_read_are_named_in_full_with_who_may(agent_folder: Path) -> None:
    logs = agent_folder / "logs"
    for path in logs.glob("*.db"):
        path.chmod(0)
    done = run_restricted("--dir", logs)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"warning: {logs}/current.db cannot be read: Permission denied: run it as root" in done.stderr


def test_a_folder_without_a_ledger_has_none(agent_folder: Path) -> None:
    (agent_folder / "history.db").write_text("this is no database at all")
    done = run("outbox", "--dir", agent_folder)
    assert done.returncode == 1
    assert f"there is no ledger in {agent_folder} or beside it" in done.stderr


def test_a_pipe_in_the_folder_is_no_ledger_and_is_not_waited_for(agent_folder: Path) -> None:
    os.mkfifo(agent_folder / "another.db")
    done = run("outbox", "--dir", agent_folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing is set aside\n", "")
