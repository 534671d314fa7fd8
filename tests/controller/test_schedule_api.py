"""Schedules by ``/api/schedules``, and by the internal commands of the originals' clients (protocol 12.5)."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from greenagent.controller.limits import Limits
from tests.support.local_controller import Agent, LocalController, plain
from tests.support.waiting import wait_until

COMMAND = {"cmd": "execute", "gid": 1, "nid": 10, "args": {"name": "echo", "args": ["hello"]}}
FAR: dict[str, Any] = {"id": "far", "cron": "0 0 1 1 *", "zone": "Europe/Berlin", "command": COMMAND}


def add(controller: LocalController, **given: Any) -> dict[str, Any]:
    answer = controller.post("schedules", {**FAR, **given})
    assert answer.status_code == 201, answer.text
    return answer.json()


def internal(controller: LocalController, name: str, data: Any = None, **more: Any) -> dict[str, Any]:
    """The result of an internal command, as clients of the originals post it."""
    text = "" if data is None else json.dumps(data)
    command = {"cmd": "controller", "gid": 0, "nid": 0, "roles": ["*"], "args": {"name": name}, "data": text, **more}
    (result,) = controller.results(controller.submit(**command)["id"])
    return result


def test_a_schedule_is_made_shown_and_removed(controller) -> None:
    made = add(controller, jitter=5, catch_up=True)
    assert made["id"] == "far"
    assert not made["paused"]
    assert 0 < made["next"] - time.time() < 366 * 86_400
    (listed,) = controller.get("schedules")["schedules"]
    assert listed["cron"] == "0 0 0 1 1 *"
    assert listed["command_line"] == "echo hello"
    assert (listed["zone"], listed["jitter"], listed["catch_up"], listed["overlap"]) == (
        "Europe/Berlin",
        5,
        True,
        False,
    )
    assert "command" not in listed
    wait_until(lambda: controller.get("schedules/far")["next"] is not None, what="its next moment")
    one = controller.get("schedules/far")
    assert made["next"] <= one["next"] <= made["next"] + 5
    assert one["command"] == COMMAND
    assert one["events"] == []
    assert controller.post("schedules/far/remove", {}).json() == {"id": "far", "removed": True}
    assert controller.get("schedules") == {"schedules": []}


def test_it_runs_each_second_until_it_is_paused(controller) -> None:
    Agent(controller).poll()
    add(controller, id="a/b", cron="* * * * * *", overlap=True)
    jobs = wait_until(lambda: (found := controller.get("jobs")["jobs"])[1:] and found, what="two runs")
    assert {job["schedule"] for job in jobs} == {"a/b"}
    assert controller.post("schedules/a%2Fb/pause", {}).json() == {"id": "a/b", "paused": True}
    wait_until(lambda: controller.get("schedules/a%2Fb")["next"] is None, what="the pause")
    runs = controller.get("schedules/a%2Fb")["runs"]
    assert controller.post("schedules/a%2Fb/resume", {}).json() == {"id": "a/b", "paused": False}
    wait_until(lambda: controller.get("schedules/a%2Fb")["runs"] > runs, what="another run")


def test_a_run_at_once_also_of_a_paused_one(controller) -> None:
    agent = Agent(controller)
    poll = agent.poll()
    add(controller, paused=True)
    answer = controller.post("schedules/far/run", {})
    assert answer.status_code == 202
    job_id = answer.json()["job"]
    assert poll.command()["id"] == job_id
    assert controller.get(f"jobs/{job_id}")["schedule"] == "far"
    refused = controller.post("schedules/far/run", {})
    assert (refused.status_code, job_id in refused.text) == (409, True)
    shown = controller.get("schedules/far")
    assert (shown["job"], shown["state"], shown["last"]["what"]) == (job_id, "RUNNING", "run")
    agent.finish(job_id)
    assert controller.post("schedules/far/run", {}).status_code == 202


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"id": ""}, "'id' is missing"),
        ({"id": "a\nb"}, "control characters"),
        ({"id": 5}, "'id'"),
        ({"cron": None}, "'cron' is missing"),
        ({"cron": ["* * * * *"]}, "'cron' is missing"),
        ({"cron": "61 * * * *"}, "no cron expression"),
        ({"cron": "0 0 31 2 *"}, "no cron expression"),
        ({"zone": "Mars/Olympus"}, "no time zone"),
        ({"zone": 1}, "'zone' must be"),
        ({"jitter": -1}, "'jitter' must be"),
        ({"jitter": True}, "'jitter' must be"),
        ({"overlap": "no"}, "'overlap' must be"),
        ({"command": None}, "'command' is missing"),
        ({"command": {**COMMAND, "nid": 0}}, "whom the command is for"),
        ({"command": {**COMMAND, "args": {"name": "true", "recurring_period": 5}}}, "never ends"),
        ({"command": {**COMMAND, "args": {"name": "true", "restart": "always"}}}, "never ends"),
        ({"command": {**COMMAND, "data": "x" * 1500}}, "longer than 1000"),
        ({"timezone": "UTC"}, "'timezone' is no key"),
    ],
)
def test_what_is_no_schedule_is_refused(make_controller, wrong, told) -> None:
    controller = make_controller(Limits(schedule_command=1000))
    answer = controller.post("schedules", {**FAR, **wrong})
    assert (answer.status_code, told in answer.json()["error"]) == (400, True), answer.text
    assert controller.get("schedules") == {"schedules": []}


def test_what_is_not_there_or_there_already(make_controller) -> None:
    controller = make_controller(Limits(schedules=1))
    for action in ("pause", "resume", "run", "remove"):
        assert controller.post(f"schedules/none/{action}", {}).status_code == 404
    assert plain().get(f"{controller.url}/api/schedules/none", timeout=60).status_code == 404
    assert controller.post("schedules", []).status_code == 400
    add(controller)
    assert controller.post("schedules", FAR).status_code == 409
    assert add(controller, replace=True, cron="0 0 2 1 *")["id"] == "far"
    assert controller.get("schedules/far")["cron"] == "0 0 0 2 1 *"
    assert controller.post("schedules", {**FAR, "id": "other"}).status_code == 503


def test_the_internal_commands_of_the_originals(controller) -> None:
    command = {"gid": 1, "nid": 10, "cmd": "execute", "args": {"name": "true"}, "data": "", "roles": None, "id": ""}
    given = {"id": "a.1", "cron": "0 0 3 * *", "cmd": command}
    added = internal(controller, "scheduler_add", given)
    assert (added["state"], added["level"], added["data"]) == ("SUCCESS", 20, "null")
    assert (added["gid"], added["nid"]) == (0, 0)
    assert internal(controller, "scheduler_add", {**given, "id": "a.2"})["data"] == "null"
    assert internal(controller, "scheduler_add", {**given, "id": "b"})["data"] == "null"
    assert internal(controller, "scheduler_add", {**given, "cron": "@every 1h"})["data"] == "null"  # in its place
    listed = internal(controller, "scheduler_list")
    assert listed["level"] == 20
    assert json.loads(listed["data"]) == [
        {**given, "cron": "@every 1h"},
        {**given, "id": "a.2"},
        {**given, "id": "b"},
    ]
    assert internal(controller, "scheduler_remove", "b")["data"] == "1"
    assert internal(controller, "scheduler_remove", "b")["data"] == "0"
    assert internal(controller, "scheduler_remove_prefix", "a.")["data"] == "null"
    assert json.loads(internal(controller, "scheduler_list")["data"]) == []


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("scheduler_add", {"id": 5, "cron": "@daily", "cmd": COMMAND}),
        ("scheduler_add", {"id": "x", "cron": "bad", "cmd": COMMAND}),
        ("scheduler_add", {"id": "x", "cron": "* * * *", "cmd": COMMAND}),
        ("scheduler_add", {"cron": "@daily", "cmd": COMMAND}),
        ("scheduler_add", {"id": "x", "cron": "@daily"}),
        ("scheduler_add", {"id": "x", "cron": "@daily", "cmd": {"cmd": "execute"}}),
        ("scheduler_add", []),
        ("scheduler_add", None),
        ("scheduler_remove", 5),
        ("scheduler_remove_prefix", None),
    ],
)
def test_internal_commands_that_cannot_be_carried_out(controller, name, data) -> None:
    result = internal(controller, name, data)
    assert result["state"] == "ERROR"
    assert result["data"]
    assert controller.get("schedules") == {"schedules": []}


def test_schedules_of_originals_overlap_as_there(controller) -> None:
    Agent(controller).poll()
    internal(controller, "scheduler_add", {"id": "x", "cron": "* * * * * *", "cmd": COMMAND})
    wait_until(lambda: controller.get("schedules/x")["runs"] >= 2, what="two runs, though no agent ends one")
    assert controller.get("schedules/x")["skipped"] == 0


def test_an_unknown_internal_command(controller) -> None:
    result = internal(controller, "tunnel_open")
    assert result["state"] == "UNKNOWN_CMD"
    assert "scheduler_add" in result["data"]
