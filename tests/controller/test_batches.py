"""Several commands in one answer, several results in one post (docs/controller.md "Endpoints for agents")."""

from __future__ import annotations

import json
from typing import Any

import gevent
import pytest
import requests

from greenagent.controller.dispatch import dispatcher
from greenagent.controller.limits import Limits
from tests.support.controllers import ControllerProcess
from tests.support.local_controller import Agent, LocalController, plain
from tests.support.waiting import wait_until

FOR_AGENT = {"gid": 1, "nid": 10, "wait_for_agent": 600}


def poll(
    controller: Any, acknowledge: str | None = "", commands: int | None = 100, **headers: str
) -> requests.Response:
    """One poll for what waits already."""
    if acknowledge is not None:
        headers["Greenagent-Acknowledge"] = acknowledge
    if commands is not None:
        headers["Greenagent-Commands"] = str(commands)
    session = plain()
    session.headers["User-Agent"] = "greenagent/0.2.0"
    answer = session.get(f"{controller.url}/1/10/cmd", headers=headers, timeout=75)
    assert answer.status_code == 200, answer.text
    return answer


def ids(answer: requests.Response) -> list[str]:
    lines = answer.text.split("\n")
    assert answer.headers.get("Greenagent-Commands", "1") == str(len(lines))
    return [json.loads(line)["id"] for line in lines]


def token(answer: requests.Response) -> str:
    return answer.headers["Greenagent-Delivery"]


def submit(controller: LocalController, *names: str, **more: Any) -> None:
    for name in names:
        controller.submit(id=name, **{**FOR_AGENT, **more})


def test_a_poll_gets_as_many_commands_as_it_takes_in_the_order_of_posting(controller) -> None:
    submit(controller, "a", "b", "c", "d")
    first = poll(controller, commands=3)
    assert ids(first) == ["a", "b", "c"]
    second = poll(controller, token(first), commands=3)
    assert ids(second) == ["d"]
    assert "Greenagent-Commands" not in second.headers
    assert [controller.state(name) for name in "abcd"] == ["RUNNING"] * 4


def test_a_parked_poll_gets_what_is_posted_and_what_came_meanwhile(controller) -> None:
    for number in range(5):
        parked = gevent.spawn(poll, controller)
        wait_until(lambda: (agent := controller.services.agents.get((1, 10))) and agent.parked, what="the poll")
        submit(controller, f"a{number}")
        first = parked.get(timeout=60)
        submit(controller, f"b{number}", f"c{number}")
        assert ids(first) == [f"a{number}"]
        assert ids(poll(controller, token(first))) == [f"b{number}", f"c{number}"]
        for name in "abc":
            Agent(controller).finish(f"{name}{number}")


def test_a_poll_that_knows_of_no_batches_gets_one_command(controller) -> None:
    submit(controller, "a", "b")
    assert ids(poll(controller, commands=None)) == ["a"]


def test_what_is_not_acknowledged_comes_again_as_a_whole_under_its_token(controller) -> None:
    submit(controller, "a", "b", "c")
    first = poll(controller, commands=2)
    again = poll(controller, commands=1)
    assert (ids(again), token(again)) == (["a", "b"], token(first))
    assert ids(poll(controller, token(first))) == ["c"]


def test_one_of_a_batch_that_was_answered_does_not_come_again(controller) -> None:
    submit(controller, "a", "b", "c")
    first = poll(controller)
    Agent(controller).finish("b")
    again = poll(controller)
    assert (ids(again), token(again)) == (["a", "c"], token(first))


def test_a_batch_comes_again_one_by_one_to_an_agent_that_knows_of_none(controller) -> None:
    """An agent of an earlier version in the place of the one that was given them: each has a token of its own."""
    submit(controller, "a", "b")
    whole = poll(controller)
    first = poll(controller, commands=None)
    second = poll(controller, token(first), commands=None)
    assert [ids(answer) for answer in (whole, first, second)] == [["a", "b"], ["a"], ["b"]]
    submit(controller, "c")
    assert ids(poll(controller, token(second), commands=None)) == ["c"]


def test_batches_have_an_end(controller, monkeypatch) -> None:
    monkeypatch.setattr(dispatcher, "MAX_LENGTH", 3000)
    submit(controller, "a", "b", "c", data="x" * 1000)
    first = poll(controller)
    assert ids(first) == ["a", "b"]
    assert ids(poll(controller, token(first))) == ["c"]


def test_a_command_for_roles_comes_alone_and_the_others_stay_for_other_agents(controller) -> None:
    for name in ("a", "b"):
        controller.submit(id=name, roles=["*"], wait_for_agent=600)
    assert ids(poll(controller)) == ["a"]
    assert ids(poll(controller, commands=None, **{"Greenagent-Free-Slots": "1"})) == ["a"]
    assert controller.state("b") == "QUEUED"


def test_batches_survive_kill_9_of_the_controller(tmp_path) -> None:
    process = ControllerProcess(tmp_path, "--state", str(tmp_path / "state.db"))
    for name in "abc":
        job = {"id": name, "cmd": "execute", **FOR_AGENT}
        assert plain().post(f"{process.url}/api/jobs", json=job, timeout=60).status_code == 202
    first = poll(process, commands=2)
    process.kill()
    process.start()
    try:
        again = poll(process)
        assert (ids(again), token(again)) == (["a", "b"], token(first))
        assert ids(poll(process, token(first))) == ["c"]
    finally:
        assert process.stop() == 0


def result(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "state": "SUCCESS", "starttime": 1000, "data": name, **more}


def test_each_of_several_results_is_judged_by_itself(controller) -> None:
    submit(controller, "a", "b")
    assert poll(controller).headers["Greenagent-Results"] == "1"
    agent = Agent(controller)
    posted = [result("a"), {"id": "x", "state": "NONE"}, "no object", result("b")]
    answer = agent.post("results", posted)
    assert answer.status_code == 200
    assert answer.json() == {
        "refused": [
            {"index": 1, "status": 400, "reason": "a result needs a final state"},
            {"index": 2, "status": 400, "reason": "a result is a JSON object"},
        ]
    }
    assert [controller.results(name, wait=0)[0]["data"] for name in "ab"] == ["a", "b"]
    assert sum("a result that was refused" in line for line in controller.said) == 2
    assert agent.post("results", posted).json() == answer.json()  # a repeat counts once
    assert controller.get("jobs/a")["agents"][0]["results"] == 1


@pytest.mark.parametrize("body", [{"id": "a"}, "text", None, 5])
def test_results_that_are_no_list_are_refused_as_a_whole(controller, body) -> None:
    answer = Agent(controller).post("results", body)
    assert (answer.status_code, answer.json()) == (500, "json error")


def test_results_of_jobs_that_an_agent_was_never_given_do_not_count(controller) -> None:
    submit(controller, "a", "b")
    other = Agent(controller, nid=11)
    assert other.post("results", [result("a"), result("b")]).json() == {"refused": []}
    assert [controller.state(name) for name in "ab"] == ["QUEUED", "QUEUED"]


@pytest.mark.local
def test_results_that_cannot_be_stored_are_to_be_sent_again(make_controller, tmp_path) -> None:
    controller = make_controller(Limits(), tmp_path / "state.db")
    submit(controller, "a", "b")
    poll(controller)
    database = controller.services.backend.file._database
    assert database is not None
    database.run(lambda connection: connection.execute("DROP TABLE results"))
    refused = Agent(controller).post("results", [result("a"), result("b")]).json()["refused"]
    assert [(one["index"], one["status"]) for one in refused] == [(0, 503), (1, 503)]
    assert "cannot write the state file" in refused[0]["reason"]
