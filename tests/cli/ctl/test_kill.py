"""``greenagent-ctl kill``: what became of it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from greenagent.controller.limits import Limits
from tests.support.ctl import (
    ctl,
    kill_aware,
    on_node,
)
from tests.support.local_controller import Agent, start
from tests.support.waiting import wait_until


def test_kill(controller, answering) -> None:
    answering(controller, kill_aware)
    assert ctl(controller.url, *on_node("--id", "x", "--detach", "--", "job")).code == 0
    wait_until(lambda: controller.state("x") == "RUNNING")
    assert ctl(controller.url, "kill", "x") == (0, "job x: KILLED\n", "")
    wait_until(lambda: len(json.loads(ctl(controller.url, "jobs", "--all", "--json").out)["jobs"]) == 2)
    assert [job["id"] for job in json.loads(ctl(controller.url, "jobs", "--json").out)["jobs"]] == ["x"]
    assert sorted(job["cmd"] for job in controller.get("jobs")["jobs"]) == ["execute", "kill"]
    again = ctl(controller.url, "kill", "x")
    assert again.code == 1
    assert "ended already" in again.err


def test_kill_says_what_became_of_it(controller, answering) -> None:
    def answer(agent: Agent, command: dict[str, Any]) -> None:
        if command["cmd"] != "kill":
            return
        if "signal" in command["data"]:
            agent.finish(command["id"], data="true", level=20)
        else:
            agent.finish(command["id"], state="ERROR", data="these processes do not end: 4711", exit_code=None)

    answering(controller, answer)
    assert ctl(controller.url, *on_node("--id", "x", "--detach", "--", "job")).code == 0
    wait_until(lambda: controller.state("x") == "RUNNING")
    refused = ctl(controller.url, "kill", "x")
    assert refused == (1, "", "greenagent-ctl: job x: 1:10: these processes do not end: 4711\n")
    assert ctl(controller.url, "kill", "x", "--signal", "HUP") == (0, "job x: signal sent by 1:10\n", "")
    asked = ctl(controller.url, "kill", "x", "--json")
    assert asked.code == 1
    assert [answer["state"] for answer in json.loads(asked.out)["answers"]] == ["ERROR"]
    assert ctl(controller.url, "kill", "x", "--wait", "0") == (0, "job x: told 1:10\n", "")
    assert ctl(controller.url, "kill", "x", "--no-wait") == (0, "job x: told 1:10\n", "")
    assert ctl(controller.url, "kill", "x", "--wait", "-1").code == 125


def test_a_kill_that_comes_as_the_job_ends_by_itself_tells_its_end(controller, answering, awaits_results) -> None:
    def answer(agent: Agent, command: dict[str, Any]) -> None:
        if command["cmd"] == "kill":
            agent.finish(command["id"], state="ERROR", data="there is no job with the id 'x'", exit_code=None)
            agent.finish("x")

    answering(controller, answer)
    assert ctl(controller.url, *on_node("--id", "x", "--detach", "--", "job")).code == 0
    wait_until(lambda: controller.state("x") == "RUNNING")
    assert ctl(controller.url, "kill", "x") == (0, "job x: SUCCESS\n", "")


def test_kill_does_not_wait_for_ever_for_an_agent(controller, answering) -> None:
    answering(controller, lambda agent, command: None)
    assert ctl(controller.url, *on_node("--id", "x", "--detach", "--", "job")).code == 0
    wait_until(lambda: controller.state("x") == "RUNNING")
    late = ctl(controller.url, "kill", "x", "--wait", "0.3")
    assert late == (125, "", "greenagent-ctl: job x: 1:10 did not answer within 0.3 s; it was told\n")


def test_a_kill_for_an_agent_that_is_away_says_that_it_waits(make_controller) -> None:
    controller = make_controller(Limits(live=0.01))
    start(controller, Agent(controller), "x")
    wait_until(lambda: not controller.live(), what="the agent to count as away")
    done = ctl(controller.url, "kill", "x", "--wait", "0.1")
    waits = "the kill waits for it at the controller, however long that takes"
    assert (done.code, done.out) == (125, "")
    assert re.fullmatch(rf"greenagent-ctl: job x: 1:10 is away, last heard of \d+ s ago: {waits}\n", done.err)


def test_kill_of_a_job_that_no_agent_has_yet(controller) -> None:
    waiting = on_node("--id", "x", "--wait-for-agent", "60", "--detach", "--", "job")
    assert ctl(controller.url, *waiting).code == 0
    assert ctl(controller.url, "kill", "x") == (0, "job x: KILLED\n", "")


@pytest.mark.parametrize("job_id", [".", "..", "-9"])
def test_a_living_job_of_any_id_is_killed(controller, answering, awaits_results, job_id: str) -> None:
    def answer(agent: Agent, command: dict[str, Any]) -> None:
        if command["cmd"] == "kill":
            agent.finish(command["id"], cmd="kill")
            agent.finish(json.loads(command["data"])["id"], state="KILLED")

    answering(controller, answer)
    assert ctl(controller.url, *on_node("--detach", f"--id={job_id}", "--", "sh")).code == 0
    assert ctl(controller.url, "kill", "--", job_id) == (0, f"job {job_id}: KILLED\n", "")


def test_jobs_of_before_a_restart_without_state_can_be_ended(controller, answering) -> None:
    def answer(agent: Agent, command: dict[str, Any]) -> None:
        agent.finish(json.loads(command["data"])["id"], starttime=2 * 10**12, state="KILLED", exit_code=None)
        agent.finish(command["id"], data="true", level=20, exit_code=None)

    agent = answering(controller, answer).agent
    agent.finish("again", args={"recurring_period": 3600}, state="ERROR", starttime=10**12)
    agent.finish("once")
    (row,) = (line.split() for line in ctl(controller.url, "jobs").out.splitlines() if line.startswith("again"))
    assert row[1:6] == ["RUNNING", "(recurring)", "1:10", "-", "-"]  # neither posted nor waited
    assert ctl(controller.url, "kill", "again") == (0, "job again: KILLED\n", "")
    way = '--cmd kill --data \'{{"id": "{}"}}\''
    assert f"run --gid 1 --nid 10 {way.format('once')}" in ctl(controller.url, "kill", "once").err
    assert f"run --gid GID --nid NID {way.format('never')}" in ctl(controller.url, "kill", "never").err
