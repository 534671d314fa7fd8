"""Results and lines through a controller that is away, refuses, hangs or talks rubbish (design, promises 2 and 3)."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from tests.support.agents import AgentProcess, StartAgent, assert_well
from tests.support.commands import built_in, execute, shell
from tests.support.processes import ROOT
from tests.support.recording_controller import (
    Behaviour,
    RecordingController,
    close_at_once,
    close_half_way,
    hang,
    raw,
    rubbish,
    status,
)
from tests.support.waiting import wait_until

TROUBLES: dict[str, Callable[[], Behaviour]] = {
    "503": lambda: status(503),
    "500": lambda: status(500),
    "429": lambda: status(429, {"Retry-After": "1"}),
    "401": lambda: status(401),
    "closes": close_at_once,
    "rubbish": rubbish,
    "half a status line": lambda: raw(b"HTTP/1.1 2"),
    "closes half-way after an error": lambda: raw(b"HTTP/1.1 503 No\r\nContent-Length: 1000\r\n\r\n{"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_results_and_lines_come_through_a_controller_in_trouble(
    controller: RecordingController, start_agent: StartAgent, trouble: str
) -> None:
    agent = start_agent()
    controller.misbehave("result", TROUBLES[trouble](), times=4)
    controller.misbehave("log", TROUBLES[trouble](), times=2)
    for number in range(3):
        controller.push(shell(f"j{number}", "seq 1 100 >&2"))
    for number in range(3):
        controller.wait_for_result(f"j{number}", 30)
    wait_until(lambda: len(controller.logs) >= 300, 30, "all lines")
    assert Counter(result["id"] for result in controller.results) == {"j0": 1, "j1": 1, "j2": 1}
    for number in range(3):
        lines = [record["data"] for record in controller.logs if record["jobid"] == f"j{number}"]
        assert lines == [str(line) for line in range(1, 101)]
    assert_well(agent, controller)


def test_an_acceptance_whose_answer_breaks_off_is_an_acceptance(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent()
    controller.misbehave("result", close_half_way(), times=1)
    controller.push(execute("a", "true"))
    wait_until(lambda: controller.refused_posts, what="the post")
    controller.push(execute("b", "true"))
    controller.wait_for_result("b")
    assert_well(agent, controller)
    assert controller.results_of("a") == []


def test_a_hanging_result_endpoint_holds_up_neither_polls_nor_lines(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent()
    controller.misbehave("result", hang(), times=1)
    controller.push(shell("a", "echo said >&2"))
    wait_until(lambda: controller.refused_posts, what="the post that hangs")
    controller.push(shell("b", "echo too >&2"))
    wait_until(lambda: len(controller.logs) == 2, what="the lines of both")
    wait_until(lambda: controller.waiting_commands == 0, what="the commands taken")
    controller.stop()
    controller.start()
    for job in ("a", "b"):
        controller.wait_for_result(job, 30)
    assert_well(agent, controller)


def test_after_an_outage_the_backlog_drains_and_a_ping_is_answered_meanwhile(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent()
    controller.push(shell("j", "seq 1 60000 >&2; echo 20::1"))
    wait_until(lambda: controller.waiting_commands == 0, what="the command taken")
    controller.stop()
    wait_until(lambda: _stored(agent) == 60_000, 30, "all lines in the database", interval=0.05)
    controller.slow_down = 0.2
    controller.start()
    # Every post is slow until the ping is answered, so the backlog of 60 batches takes a while: it must not wait.
    wait_until(lambda: controller.logs, 60, "the first batch")
    controller.push(built_in("ping", "ping"))
    controller.wait_for_result("ping", 30)
    at_ping = len(controller.logs)
    controller.slow_down = 0.0
    wait_until(lambda: len(controller.logs) >= 60_000, 60, "the backlog")
    assert at_ping < 60_000
    assert [int(record["data"]) for record in controller.logs] == list(range(1, 60_001))
    assert len(controller.results_of("j")) == 1


def _stored(agent: AgentProcess) -> int:
    """How many lines; not read, but counted: it is asked again and again."""
    with closing(sqlite3.connect(agent.folder / "logs" / "current.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM logs WHERE jobid = 'j' AND level = 2").fetchone()[0])


@pytest.mark.parametrize("code", [422])
def test_what_is_refused_for_its_body_is_set_aside_listed_and_sent_again_on_demand(
    controller: RecordingController, start_agent: StartAgent, code: int
) -> None:
    agent = start_agent()
    controller.reject("evil", code)
    controller.push(shell("a", "echo good >&2; echo evil >&2; echo better >&2"))
    controller.push(execute("b", "true"))
    controller.wait_for_result("b")
    wait_until(lambda: len(controller.logs) == 2, 20, "the good lines")
    assert [record["data"] for record in controller.logs] == ["good", "better"]
    listed = wait_until(lambda: _both(agent), 20, "both records in the outbox")
    assert {(record["path"], record["status"]) for record in listed} == {("result", code), ("log", code)}
    assert all("evil" in record["body"] and record["controller"] == "main" for record in listed)
    shown = _outbox(agent).stdout
    assert "status " + str(code) in shown
    assert _outbox(agent, where=("--dir", str(agent.folder / "logs"))).stdout == shown
    agent.await_said("set aside", 2)
    assert agent.stderr.count("set aside") == 2
    controller.behave()
    assert "2 records" in _outbox(agent, "--retry").stdout
    controller.wait_for_result("a", 20)
    wait_until(lambda: len(controller.logs) == 3, 20, "the line")
    assert "nothing is set aside" in _outbox(agent).stdout
    assert_well(agent, controller)


def _outbox(
    agent: AgentProcess, *options: str, where: tuple[str, ...] | None = None
) -> subprocess.CompletedProcess[str]:
    place = where or ("-c", str(agent.config))
    done = subprocess.run(
        [sys.executable, "-m", "greenagent.cli.logs", "outbox", *place, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done


def _both(agent: AgentProcess) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in _outbox(agent, "--json").stdout.splitlines()]
    return found if len(found) == 2 else []


def test_the_outbox_says_what_it_needs(tmp_path: Any) -> None:
    for options, code, words in (
        ([], 2, "-c FILE"),
        (["--ledger", str(tmp_path / "none.db")], 1, "there is no file"),
        (["--ledger", __file__], 1, "cannot use the ledger"),
        (["--dir", str(tmp_path)], 1, "there is no ledger in"),
        (["--dir", str(tmp_path / "none")], 1, "there is no folder"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "greenagent.cli.logs", "outbox", *options],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
