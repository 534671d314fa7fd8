"""One damaged log database must not end the agent: jobs, uploads and questions go on."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing

from greenagent.logs.folder import LogFolder
from tests.support.agents import StartAgent
from tests.support.commands import built_in, shell
from tests.support.recording_controller import RecordingController, close_at_once
from tests.support.waiting import wait_until


def test_an_agent_lives_with_a_damaged_archive_before_its_cursor(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent(logging="max_db_size = 1048576")
    controller.misbehave("log", close_at_once())
    controller.push(shell("filler", "echo 2::waits; yes 0123456789012345678901234567890 | head -n 40000"))
    controller.wait_for_result("filler", 30)
    logs = agent.folder / "logs"
    archives = wait_until(LogFolder(logs).archives, what="an archive")
    with closing(sqlite3.connect(archives[0])) as connection:
        assert connection.execute("SELECT count(*) FROM logs WHERE marks").fetchone() == (1,)
    with open(archives[0], "r+b") as file:
        file.write(os.urandom(16384))
    controller.behave("log")
    controller.push(shell("later", "echo 2::later"))
    assert controller.wait_for_result("later")["state"] == "SUCCESS"
    wait_until(lambda: "later" in [record["data"] for record in controller.logs], 30, "the later line")
    controller.push(built_in("ask", "get_msgs", json.dumps({"jobid": "later"})))
    answer = controller.wait_for_result("ask")
    assert answer["state"] == "SUCCESS", answer
    assert [record["data"] for record in json.loads(answer["data"])] == ["later"]
    assert agent.poll() is None
    agent.await_said("is damaged")
    wait_until(lambda: list(logs.glob("damaged-*.sqlite")), what="the archive to be set aside")
    assert agent.stop() == 0
    assert len(list(logs.glob("damaged-*.sqlite"))) == 1
    assert agent.stderr.count("is damaged") == 1
