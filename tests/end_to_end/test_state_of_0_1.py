"""An agent goes on where one of version 0.1 was killed: all goes out, and nothing acknowledged goes out again.

The files are real ones, made by tests/data/make_state_0_1.py.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from greenagent.logs.folder import LogFolder
from greenagent.logs.read.query import LogQuery, newest_first
from tests.data.make_state_0_1 import SETTINGS, STATE, lines
from tests.support.agents import StartAgent
from tests.support.commands import shell
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

ACKNOWLEDGED = json.loads((STATE / "acknowledged.json").read_text())


def rows(path: Path, statement: str) -> list[Any]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder of an agent with the files of 0.1."""
    folder = tmp_path / "agent"
    shutil.copytree(STATE, folder)
    return folder


def test_jobs_and_results(old: Path, controller: RecordingController, start_agent: StartAgent) -> None:
    ledger = old / "history.db"
    before = dict(rows(ledger, "SELECT id, row FROM job"))
    agent = start_agent(folder=old, **SETTINGS)
    assert controller.wait_for_result("undelivered")["state"] == "SUCCESS"
    assert controller.wait_for_result("running")["state"] == "ERROR"
    assert controller.wait_for_result("waiting")["state"] == "SUCCESS"
    after = dict(rows(ledger, "SELECT id, row FROM job ORDER BY row"))
    assert after == before
    wait_until(
        lambda: rows(ledger, "SELECT count(*) FROM job WHERE id = 'remembered' AND pid IS NOT NULL") == [(1,)],
        what="the remembered job",
    )
    [(path, body, code)] = rows(ledger, "SELECT path, body, status FROM aside")
    assert (path, json.loads(body)["id"], code) == ("result", "refused", 400)
    controller.push(shell("delivered", "echo '10::hits:1|c'; " + lines(2500, "delivered")))
    assert controller.wait_for_result("delivered")["state"] == "SUCCESS"
    waiting = wait_until(lambda: agent.newest("waiting", 1), what="its line, which may be stored after the result went")
    assert agent.newest("delivered", 2).epoch < waiting.epoch  # type: ignore[union-attr]
    assert [result["id"] for result in controller.results if result["id"] in ACKNOWLEDGED["results"]] == ["delivered"]
    assert sorted(result["id"] for result in controller.results) == ["delivered", "running", "undelivered", "waiting"]
    assert agent.stop() == 0


def test_lines_and_their_ids(old: Path, controller: RecordingController, start_agent: StartAgent) -> None:
    stored = list(newest_first(LogFolder(old / "logs"), LogQuery(limit=0)))[::-1]
    agent = start_agent(folder=old, **SETTINGS)
    wanted = [record.id for record in stored if record.level == 2 and record.jobid != "agent"]
    assert wanted[: len(ACKNOWLEDGED["lines"])] == ACKNOWLEDGED["lines"]
    waiting = wanted[len(ACKNOWLEDGED["lines"]) :]
    assert len(waiting) == 2501
    wait_until(lambda: len(controller.logs) >= len(waiting), what="the lines that waited")
    assert [record["id"] for record in controller.logs[: len(waiting)]] == waiting
    controller.push(shell("new", "echo new >&2"))
    wait_until(lambda: any(record["data"] == "new" for record in controller.logs), what="a new line")
    ids = [record.id for record in newest_first(LogFolder(old / "logs"), LogQuery(limit=0))]
    assert len(set(ids)) == len(ids) > len(stored)
    assert agent.stop() == 0


def test_statistics(old: Path, controller: RecordingController, start_agent: StartAgent) -> None:
    waiting = [
        {"timestamp": stamp, "series": [[prefix + key, value] for key, value, _ in json.loads(points)]}
        for stamp, prefix, points in rows(
            old / "history.db", "SELECT stamp, prefix, points FROM stats_backlog ORDER BY row"
        )
    ]
    assert len(waiting) >= 2
    agent = start_agent(folder=old, **SETTINGS)
    wait_until(lambda: len(controller.stats) >= len(waiting), what="the statistics that waited")
    assert controller.stats[: len(waiting)] == waiting
    wait_until(lambda: len(controller.stats) > len(waiting), what="newer statistics")
    assert not [item for item in controller.stats if item in ACKNOWLEDGED["statistics"]]
    assert agent.stop() == 0
