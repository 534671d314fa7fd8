"""Commands and answers that are odd but allowed, or that no agent can take."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.local_controller import Agent, plain, start


@pytest.mark.parametrize(("value", "shown"), [(7, "7"), (True, "true"), (1.0, "1"), ({"a": 1}, '{"a": 1}'), (None, "")])
def test_a_domain_that_is_no_text_is_shown_as_its_text(controller, agent, value, shown) -> None:
    start(controller, agent, args={"name": value, "domain": value})
    [job] = controller.get("jobs")["jobs"]
    assert (job["name"], job["domain"]) == (shown, shown)


@pytest.mark.parametrize("period", [0.5, 0, -5, "60", True, 0.999])
def test_a_period_that_is_none_to_the_agent_makes_no_recurring_job(controller, agent, period) -> None:
    start(controller, agent, args={"recurring_period": period})
    agent.finish("j")
    job = controller.get("jobs/j")
    assert (job["state"], job["recurring"]) == ("SUCCESS", False)


@pytest.mark.parametrize("period", [1, 1.5, 60, 10**30])
def test_a_period_of_a_second_or_more_makes_a_recurring_job(controller, agent, period) -> None:
    start(controller, agent, args={"recurring_period": period})
    agent.finish("j")
    job = controller.get("jobs/j")
    assert (job["state"], job["recurring"]) == ("RUNNING", True)


@pytest.fixture(params=["memory", "state"])
def any_controller(request, make_controller, tmp_path):
    return make_controller(state=tmp_path / "state.db" if request.param == "state" else None)


def test_identities_of_many_digits_are_agents_of_their_own(any_controller) -> None:
    gid, first, second = 4_294_967_296, 999_999_999_999_999_998, 3_000_000_001
    for nid in (first, second):
        poll = Agent(any_controller, gid, nid).poll()
        any_controller.submit(id=str(nid), gid=gid, nid=nid)
        assert poll.command()["id"] == str(nid)
    assert any_controller.live() == {f"{gid}:{first}", f"{gid}:{second}"}
    assert [job["id"] for job in any_controller.get("jobs", agent=f"{gid}:{second}")["jobs"]] == [str(second)]


@pytest.mark.parametrize("text", ["x", "-1", "1" * 19, "1" * 3000, "²", "٣", "1.5", "+1"])
def test_what_is_no_number_counts_as_0(controller, text) -> None:
    assert plain().post(f"{controller.url}/{text}/{text}/log", json=[], timeout=60).status_code == 200
    assert [(one["gid"], one["nid"]) for one in controller.get("agents")["agents"]] == [(0, 0)]
    assert not controller.said


@pytest.mark.parametrize(
    "command", [{"gid": 2**63, "nid": 1}, {"gid": 1, "nid": 10**18}, {"gid": 1e30, "roles": ["*"]}]
)
def test_a_command_for_an_identity_no_agent_can_have_is_refused(any_controller, command) -> None:
    answer = any_controller.post("jobs", {"cmd": "ping", **command})
    assert answer.status_code == 400
    assert "digits" in answer.json()["error"]
    assert any_controller.get("jobs") == {"jobs": []}
    assert not any_controller.said


def test_a_filter_for_an_agent_of_thousands_of_digits_is_refused(controller) -> None:
    answer = plain().get(f"{controller.url}/api/jobs?agent=1:{'9' * 5000}", timeout=60)
    assert (answer.status_code, answer.json()["error"]) == (400, "'agent' is written GID:NID")


@pytest.mark.parametrize(
    ("header", "slots"), [("²", None), ("--5", None), ("-", None), ("9" * 11, None), ("7", 7), ("-3", 0), ("", None)]
)
def test_free_slots_that_are_no_number_are_as_none_told(controller, agent, header, slots) -> None:
    controller.submit(id="j", gid=1, nid=10, wait_for_agent=60)
    headers = {"Greenagent-Free-Slots": header.encode("latin-1")}
    answer = plain().get(f"{agent.url}/cmd", headers=headers, timeout=60)
    assert answer.json()["id"] == "j"
    assert controller.get("agents")["agents"][0]["free_slots"] == slots


def post_raw(controller, path: str, text: str) -> Any:
    return plain().post(f"{controller.url}/{path}", data=text, headers={"Content-Type": "application/json"}, timeout=60)


def test_half_characters_become_replacement_characters(any_controller) -> None:
    """They can be neither stored nor sent."""
    answer = post_raw(any_controller, "api/scripts", r'{"content": "a\ud800b"}')
    assert answer.status_code == 201
    script = plain().get(f"{any_controller.url}/1/10/script", params={"hash": answer.json()["hash"]}, timeout=60)
    assert script.content.decode() == "a\N{REPLACEMENT CHARACTER}b"
    poll = Agent(any_controller).poll()
    data = json.dumps({"content": "c\ud800d", "args": {}})
    any_controller.submit(id="script", cmd="jumpscript_content", gid=1, nid=10, data=data)
    digest = json.loads(poll.command()["data"])["hash"]
    script = plain().get(f"{any_controller.url}/1/10/script", params={"hash": digest}, timeout=60)
    assert script.content.decode() == "c\N{REPLACEMENT CHARACTER}d"
    answer = post_raw(any_controller, "1/10/result", r'{"id": "i\udfff", "state": "SUCCESS", "data": "\ud83d\ude00"}')
    assert answer.json() == "ok"
    [result] = any_controller.results("i\N{REPLACEMENT CHARACTER}")
    assert result["data"] == "\N{GRINNING FACE}"
    assert not any_controller.said


def test_numbers_that_json_does_not_know_are_null_in_a_result(any_controller) -> None:
    numbers = f"[NaN, -Infinity, 1e999, -1{'0' * 400}.5, 1{'0' * 250}e99, 1e3, 7]"
    text = f'{{"id": "j", "state": "SUCCESS", "starttime": 5, "data": "NaN", "args": {{"a": {numbers}}}}}'
    assert post_raw(any_controller, "1/10/result", text).json() == "ok"
    answer = plain().get(f"{any_controller.url}/api/jobs/j", timeout=60).text
    job = json.loads(answer, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert job["results"][0]["args"] == {"a": [None, None, None, None, None, 1000.0, 7]}
    assert job["results"][0]["data"] == "NaN"
