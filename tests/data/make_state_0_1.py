"""Makes ``tests/data/state-0.1``: what a real agent of version 0.1.0 leaves behind when it is killed.

    python -m tests.data.make_state_0_1        # in the repository's folder, with the test requirements installed

The agent comes from the wheel beside this file. Its controller accepts everything at first; then it goes on
handing out commands but answers 503 to results, lines and statistics, so that all of them wait; then the agent
is killed with SIGKILL. ``acknowledged.json`` holds what the controller has accepted until then.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import tests.conftest  # noqa: F401 - patches, as before every test
from tests.support.agents import AgentProcess, configuration
from tests.support.commands import execute, shell
from tests.support.recording_controller import RecordingController, status
from tests.support.waiting import wait_until

DATA = Path(__file__).parent
WHEEL = DATA / "greenagent-0.1.0-py3-none-any.whl"
STATE = DATA / "state-0.1"
MAX_DB_SIZE = 262_144
SETTINGS: dict[str, Any] = {
    "max_jobs": 2,
    "main": "result_memory = 1500000000",
    "logging": f"max_db_size = {MAX_DB_SIZE}",
    "stats": "interval = 1",
}
"""Beside the defaults of ``tests.support.agents.configuration``; the test starts its agent with the same."""


def lines(count: int, text: str) -> str:
    """A shell command that prints that many lines."""
    return f"i=0; while [ $i -lt {count} ]; do echo {text} $i >&2; i=$((i+1)); done"


def count(path: Path, statement: str) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute(statement).fetchone()[0])
    finally:
        connection.close()


def live_through(agent: AgentProcess, controller: RecordingController) -> None:
    ledger = agent.folder / "history.db"
    controller.push(shell("delivered", "echo '10::hits:1|c'; " + lines(2500, "delivered")))
    controller.wait_for_result("delivered")
    wait_until(lambda: sum(record["data"].startswith("delivered") for record in controller.logs) == 2500, what="lines")
    wait_until(lambda: controller.stats, what="statistics")
    controller.reject('"id":"refused"', 400, "result")
    controller.push(shell("refused", "true"))
    wait_until(lambda: count(ledger, "SELECT count(*) FROM aside") == 1, what="the dead letter")
    wait_until(lambda: count(ledger, "SELECT count(*) FROM stats_backlog") == 0, what="statistics")
    for endpoint in ("result", "log", "stats"):
        controller.misbehave(endpoint, status(503))
    controller.push(shell("undelivered", "echo '10::hits:2|c'; " + lines(2500, "undelivered")))
    wait_until(lambda: count(ledger, "SELECT count(*) FROM job WHERE state = 'ended'") == 3, what="its end")
    wait_until(lambda: count(ledger, "SELECT count(*) FROM stats_backlog") >= 2, what="statistics that wait")
    controller.push(execute("remembered", "sleep", "1000", max_time=-1))
    controller.push(shell("running", "echo begun >&2; sleep 1000"))
    wait_until(lambda: count(ledger, "SELECT count(*) FROM job WHERE pid IS NOT NULL") == 2, what="two jobs")
    wait_until(lambda: agent.newest("running", 2) is not None, what="the line of the running job")
    controller.push(shell("waiting", "echo 'the job that waited'"))
    wait_until(lambda: count(ledger, "SELECT count(*) FROM job WHERE state = 'waiting'") == 1, what="the third")


def main() -> None:
    with tempfile.TemporaryDirectory() as name, RecordingController() as controller:
        folder, package = Path(name, "agent"), Path(name, "package")
        folder.mkdir()
        zipfile.ZipFile(WHEEL).extractall(package)
        agent = AgentProcess(
            folder, configuration(folder, {"main": controller.url}, **SETTINGS), python_path=str(package)
        )
        try:
            agent.start()
            live_through(agent, controller)
            agent.kill()
        finally:
            agent.clean_up()
        shutil.rmtree(STATE, ignore_errors=True)
        kept = ["history", "history.db", "history.db-wal", "mid", "logs"]
        STATE.mkdir()
        for part in kept:
            if (folder / part).is_dir():
                shutil.copytree(folder / part, STATE / part, ignore=shutil.ignore_patterns("*-shm", "*.lock", ".lock"))
            elif (folder / part).exists():
                shutil.copy(folder / part, STATE / part)
        acknowledged = {
            "results": [result["id"] for result in controller.results],
            "lines": [record["id"] for record in controller.logs],
            "statistics": controller.stats,
        }
        (STATE / "acknowledged.json").write_text(json.dumps(acknowledged) + "\n")
        print(f"made {STATE}, {sum(path.stat().st_size for path in STATE.rglob('*'))} bytes")


if __name__ == "__main__":
    main()
