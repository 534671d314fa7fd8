"""Several controllers over one Redis are one: what is posted at one is handed out, answered and shown at another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import requests

from greenagent.controller.fleet.agents import DEAD
from greenagent.controller.limits import Limits
from tests.support.commands import shell
from tests.support.controllers import ControllerProcess
from tests.support.inside import InsideAgent
from tests.support.local_controller import Agent, LocalController, plain, start
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until


@pytest.fixture
def make_two(redis_server: RedisServer) -> Iterator[Callable[..., list[LocalController]]]:
    redis_server.client.flushall()
    started: list[LocalController] = []

    def make(limits: Limits | None = None) -> list[LocalController]:
        started.extend(LocalController(limits, redis=redis_server.url) for _ in range(2))
        return started

    yield make
    for one in started:
        one.stop()


@pytest.fixture
def two(make_two: Callable[..., list[LocalController]]) -> list[LocalController]:
    return make_two()


def test_a_command_posted_at_one_goes_to_an_agent_that_polls_at_the_other(two: list[LocalController]) -> None:
    here, there = two
    agent = Agent(here)
    poll = agent.poll()
    there.submit(id="j", gid=1, nid=10)
    command = poll.command()
    assert command is not None
    assert command["id"] == "j"
    assert [one.state("j") for one in two] == ["RUNNING", "RUNNING"]
    agent.finish("j", data="done")
    assert [one.results("j")[0]["data"] for one in two] == ["done", "done"]
    assert [[job["id"] for job in one.get("jobs")["jobs"]] for one in two] == [["j"], ["j"]]


def test_a_result_posted_at_one_wakes_who_waits_for_it_at_the_other(two: list[LocalController]) -> None:
    here, there = two
    agent = Agent(here)
    start(here, agent)
    waiting = gevent.spawn(there.get, "jobs/j", wait=120)
    wait_until(lambda: "/api/jobs/j" in there.asked, what="the question")
    agent.finish("j", data="done")
    assert waiting.get(timeout=60)["results"][0]["data"] == "done"


def test_lines_posted_at_one_are_followed_at_the_other(two: list[LocalController]) -> None:
    here, there = two
    agent = Agent(here)
    start(here, agent)
    follow = gevent.spawn(there.get, "jobs/j/logs", follow=1, wait=120)
    wait_until(lambda: "/api/jobs/j/logs" in there.asked, what="the question")
    line = {"jobid": "j", "id": 1, "level": 1, "epoch": 1_450_000_000, "data": "said"}
    agent.post("log", [line])
    agent.post("log", [line])  # sent again, since no answer came, say
    assert [one["data"] for one in follow.get(timeout=60)["lines"]] == ["said"]
    assert len(here.get("jobs/j/logs")["lines"]) == 1


def test_commands_for_roles_and_fan_outs_reach_the_agents_of_both(two: list[LocalController]) -> None:
    here, there = two
    polls = {10: Agent(here, nid=10, roles=["web"]).poll(), 11: Agent(there, nid=11, roles=["web"]).poll()}
    answer = here.submit(id="all", roles=["web"], fanout=True)
    assert sorted(agent["nid"] for agent in answer["agents"]) == [10, 11]
    assert [(poll.command() or {})["id"] for poll in polls.values()] == ["all", "all"]
    only = Agent(there, nid=12, roles=["db"]).poll()
    here.submit(id="one", roles=["db"])
    assert (only.command() or {})["id"] == "one"


def test_both_know_all_agents_and_who_is_live(two: list[LocalController]) -> None:
    here, there = two
    Agent(here, nid=10, roles=["web"]).poll()
    Agent(there, nid=11).poll()
    wait_until(lambda: all(one.live() == {"1:10", "1:11"} for one in two), what="both to know both")
    shown = {agent["nid"]: agent for agent in there.get("agents")["agents"]}
    assert (shown[10]["roles"], shown[10]["polling"], shown[10]["version"]) == (["web"], True, "0.2.0")
    assert there.get("agents", agent="1:10")["agents"][0]["polling"]


def test_of_two_polls_at_two_controllers_one_gets_the_command(two: list[LocalController]) -> None:
    for number in range(20):
        polls = [Agent(one, nid=20 + number).poll() for one in two]
        two[number % 2].submit(id=f"j{number}", gid=1, nid=20 + number)
        wait_until(lambda polls=polls: any(poll.over for poll in polls), what="the command")
        job = two[0].get(f"jobs/j{number}")
        two[0].submit(id=f"next{number}", gid=1, nid=20 + number)
        got = sorted((poll.command() or {})["id"] for poll in polls)
        assert got == [f"j{number}", f"next{number}"], job


def test_what_was_not_acknowledged_at_one_comes_again_at_the_other(two: list[LocalController]) -> None:
    here, there = two
    first = Agent(here, acknowledge="")
    poll = first.poll()
    there.submit(id="j", gid=1, nid=10)
    token = poll.token()
    again = Agent(there, acknowledge="").poll()
    assert ((again.command() or {})["id"], again.token()) == ("j", token)
    acknowledging = Agent(here, acknowledge=token).poll()
    assert not acknowledging.over
    assert there.get("agents")["agents"][0]["unacknowledged"] == 0


def test_a_kill_at_one_reaches_an_agent_at_the_other(two: list[LocalController]) -> None:
    here, there = two
    agent = Agent(here)
    start(here, agent)
    poll = agent.poll()
    kills = there.post("jobs/j/kill", {}).json()["kills"]
    order = poll.command()
    assert order is not None
    assert (order["cmd"], json.loads(order["data"])["id"], order["id"]) == ("kill", "j", kills[0]["id"])


def test_one_of_them_ends_what_nobody_takes(make_two: Callable[..., list[LocalController]]) -> None:
    here, there = make_two(Limits(live=1.0))
    here.submit(id="j", gid=1, nid=99, wait_for_agent=1)
    [result] = there.results("j", wait=120)
    assert (result["state"], result["delivered"]) == ("ERROR", False)


@pytest.fixture
def processes(redis_server: RedisServer, tmp_path: Path) -> Iterator[list[ControllerProcess]]:
    redis_server.client.flushall()
    started = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        started.append(ControllerProcess(tmp_path / name, "--redis", redis_server.url))
    yield started
    for process in started:
        process.kill()


def ask(process: ControllerProcess, **headers: str) -> requests.Response:
    headers = {"Greenagent-Acknowledge": "", "User-Agent": "greenagent/0.2.0", **headers}
    answer = plain().get(f"{process.url}/1/10/cmd", headers=headers, timeout=75)
    assert answer.status_code == 200, answer.text
    return answer


def post(process: ControllerProcess, path: str, value: Any) -> requests.Response:
    return plain().post(f"{process.url}{path}", json=value, timeout=75)


def test_the_other_goes_on_with_what_one_had_when_it_was_killed(processes: list[ControllerProcess]) -> None:
    """One command that only waited, one that was handed out and not acknowledged, one that runs."""
    dead, alive = processes
    for name in ("runs", "handed", "waits"):
        job = {"id": name, "cmd": "execute", "gid": 1, "nid": 10, "wait_for_agent": 600}
        assert post(dead, "/api/jobs", job).status_code == 202
    first = ask(dead)
    second = ask(dead, **{"Greenagent-Acknowledge": first.headers["Greenagent-Delivery"]})
    assert [answer.json()["id"] for answer in (first, second)] == ["runs", "handed"]
    dead.kill()
    again = ask(alive)
    assert again.json() == second.json()
    assert again.headers["Greenagent-Delivery"] == second.headers["Greenagent-Delivery"]
    third = ask(alive, **{"Greenagent-Acknowledge": again.headers["Greenagent-Delivery"]})
    assert third.json()["id"] == "waits"
    for name in ("runs", "handed", "waits"):
        result = {"id": name, "state": "SUCCESS", "starttime": 1000, "time": 1, "data": name}
        assert post(alive, "/1/10/result", result).json() == "ok"
        shown = plain().get(f"{alive.url}/api/jobs/{name}", params={"wait": 60}, timeout=75).json()
        assert [one["data"] for one in shown["results"]] == [name]


def test_polls_at_a_killed_controller_do_not_keep_an_agent_live(processes: list[ControllerProcess]) -> None:
    dead, alive = processes

    def polling() -> list[bool]:
        agents = plain().get(f"{alive.url}/api/agents", timeout=75).json()["agents"]
        return [agent["polling"] for agent in agents]

    poll = gevent.spawn(lambda: plain().get(f"{dead.url}/1/10/cmd", timeout=75))
    wait_until(lambda: polling() == [True], what="the poll to be known")
    dead.kill()
    wait_until(lambda: polling() == [False], timeout=DEAD + 60, what="the poll to be over")
    poll.join()


def test_a_redis_that_is_away_is_said_once_and_refused_with_503(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    controller = LocalController(redis=server.url)
    try:
        controller.submit(id="before", gid=1, nid=10, wait_for_agent=600)
        server.stop()
        answer = controller.post("jobs", {"id": "j", "cmd": "execute", "gid": 1, "nid": 10, "wait_for_agent": 600})
        assert answer.status_code == 503
        assert "the Redis at" in answer.json()["error"]
        wait_until(lambda: any("tried again every second" in line for line in controller.said), what="a remark")
        server.start()
        wait_until(lambda: any("can be used again" in line for line in controller.said), what="its return")
        assert Agent(controller).take()["id"] == "before"
        assert sum("tried again every second" in line for line in controller.said) == 1
    finally:
        controller.stop()
        server.stop()


def test_a_redis_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    process = ControllerProcess(tmp_path, "--redis", "redis://:secret@127.0.0.1:1/0", start=False)
    process.launch()
    assert process.wait() == 1
    [line] = process.said
    assert "cannot be used" in line
    assert "secret" not in line


def test_a_state_file_and_a_redis_are_a_usage_error(tmp_path: Path) -> None:
    process = ControllerProcess(tmp_path, "--redis", "redis://127.0.0.1:1/0", "--state", tmp_path / "s", start=False)
    process.launch()
    assert process.wait() == 2
    assert "either --state" in process.stderr


def test_a_real_agent_runs_what_is_posted_at_either(two: list[LocalController], tmp_path: Path) -> None:
    here, there = two
    with InsideAgent(tmp_path, {"main": here.url}):
        wait_until(lambda: there.live() == {"1:10"}, what="the agent to be known at both")
        for number in range(20):
            two[number % 2].submit(**shell(f"j{number}", f"echo {number}"))
        for number in range(20):
            [result] = there.results(f"j{number}", wait=60)
            assert (result["state"], result["streams"][0]) == ("SUCCESS", f"{number}\n")
