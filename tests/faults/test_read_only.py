"""Folders that cannot be written any more, or from the start: said, told by health, over without restart."""

from __future__ import annotations

import json
import os
import re

from tests.support.agents import StartAgent, assert_well
from tests.support.commands import built_in, execute, shell
from tests.support.faults import Immutable, Unprivileged
from tests.support.job_lives import words
from tests.support.metrics import get, listening
from tests.support.ports import reserve_port
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


def test_a_log_folder_that_becomes_read_only_costs_lines_but_no_job(
    controller: RecordingController, start_agent: StartAgent, immutable: Immutable
) -> None:
    port = reserve_port()
    agent = start_agent(more=listening(port))
    controller.push(shell("before", "echo stored"))
    controller.wait_for_result("before")
    wait_until(lambda: agent.rows("jobid = 'before'"), what="the line")
    immutable.set(agent.folder / "logs")
    controller.push(shell("lossy", "seq 1 1000; echo 20::7"))
    assert controller.wait_for_result("lossy")["data"] == "7"
    problem = f"logs cannot be written to {agent.folder / 'logs'}"
    _, said = wait_until(lambda: (now := get(port, "/healthz"))[0] == 503 and now, what="the illness")
    assert re.fullmatch(re.escape(problem) + r" \(.+\)\n", said), said
    agent.await_said(problem)
    told = json.loads(get(port, "/status")[1])
    assert (told["problem"] + "\n", told["logs"]["writable"]) == (said, False)
    controller.push(built_in("deaf", "ping"))
    assert controller.wait_for_result("deaf")["state"] == "SUCCESS"

    immutable.lift()
    wait_until(lambda: get(port, "/healthz") == (200, "ok\n"), 20, "its health, although nobody logs")
    wait_until(lambda: agent.rows("jobid = 'lossy' AND data LIKE '%lines of this job were lost%'"), what="the count")
    controller.push(shell("after", "echo stored"))
    controller.wait_for_result("after")
    wait_until(lambda: agent.rows("jobid = 'after'"), what="the line")
    assert_well(agent, controller)
    assert agent.stop() == 0
    assert agent.stderr.count("logs can be written again") == 1


def test_a_ledger_that_becomes_read_only_loses_no_job_and_no_result(
    controller: RecordingController, start_agent: StartAgent, immutable: Immutable
) -> None:
    port = reserve_port()
    agent = start_agent(more=listening(port))
    controller.push(shell("first", "sleep 1000", max_time=-1))
    controller.push(execute("before", "true"))
    controller.wait_for_result("before")
    wait_until(
        lambda: any("first" in word for word in words(agent.folder / "history")), what="the history to be written"
    )
    immutable.set(*agent.folder.glob("history*"), *agent.folder.glob("mid*"))
    for number in range(3):
        controller.push(shell(f"j{number}", f"echo {number}"))
    controller.push(shell("remembered", "sleep 1000", max_time=-1))
    for number in range(3):
        assert controller.wait_for_result(f"j{number}")["streams"] == [f"{number}\n", ""]
    ledger = f"the ledger {agent.folder / 'history.db'} cannot be written"
    problem = f"{ledger}; the history {agent.folder / 'history'} cannot be written"
    wait_until(lambda: get(port, "/healthz") == (503, problem + "\n"), what="the illness")
    agent.await_said(ledger)
    told = json.loads(get(port, "/status")[1])
    assert (told["problem"], told["ledger"]["writable"]) == (problem, False)
    wait_until(lambda: f"cannot write {agent.folder / 'history'} (" in agent.stderr, what="the history")
    controller.push(built_in("deaf", "ping"))
    assert controller.wait_for_result("deaf")["state"] == "SUCCESS"

    immutable.lift()
    wait_until(lambda: get(port, "/healthz") == (200, "ok\n"), 20, "its health, although no job comes")
    remembered = json.loads((agent.folder / "history").read_bytes())
    assert [entry["id"] for entry in remembered] == ["first", "remembered"]
    assert_well(agent, controller)
    assert agent.stop() == 0
    assert agent.stderr.count(f"the ledger {agent.folder / 'history.db'} can be written again") == 1
    ids = [result["id"] for result in controller.results]
    assert len(ids) == len(set(ids)), "no result was sent twice"


def test_an_agent_that_may_not_write_its_folders_says_which_and_does_not_start(
    unprivileged: Unprivileged,
) -> None:
    agent = unprivileged.start()
    assert agent.stop() == 0
    folder = agent.folder
    for place, named in ((folder / "logs", f"log folder {folder / 'logs'}"), (folder, str(folder))):
        os.chown(place, 0, 0)
        (folder / "stderr").write_text("")
        os.chmod(folder / "logs" / ".lock", 0o644)
        for file in (*folder.glob("history*"), *(folder / "logs").glob("*"), folder / "logs" / ".lock"):
            if place == folder or file.parent == place:
                os.chown(file, 0, 0)
        agent.start(wait=False)
        assert agent.wait() == 1
        said = agent.stderr.splitlines()
        assert len(said) == 1, said
        assert named in said[0]
        assert "ermission denied" in said[0]
