"""``greenagent-ctl schedule``: commands that the controller posts by itself."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.ctl import ctl
from tests.support.local_controller import Agent
from tests.support.waiting import wait_until

NODE = ("--gid", "1", "--nid", "10")


def schedule(controller, *arguments: str):
    return ctl(controller.url, "schedule", *arguments)


def test_a_schedule_from_its_making_to_its_end(controller) -> None:
    agent = Agent(controller)
    poll = agent.poll()
    made = schedule(
        controller, "add", "nightly", "30 2 * * 1-5", "--zone", "Europe/Berlin", "--jitter", "60", "--catch-up", *NODE,
        "--domain", "backup", "--", "echo", "--all", "a b",
    )  # fmt: skip
    assert made.code == 0
    assert re.fullmatch(r"schedule nightly runs next at 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\n", made.out)
    kept = controller.get("schedules/nightly")
    assert kept["cron"] == "0 30 2 * * 1-5"
    args = kept["command"]["args"]
    assert (args["name"], args["args"], args["domain"]) == ("echo", ["--all", "a b"], "backup")
    wait_until(lambda: controller.get("schedules/nightly")["next"], what="its next moment")

    heads, row = schedule(controller, "list").out.splitlines()
    assert heads.split()[:3] == ["SCHEDULE", "WHEN", "NEXT"]
    assert row.startswith("nightly   0 30 2 * * 1-5 Europe/Berlin  20")
    assert row.endswith("1:10   echo --all 'a b'")
    assert json.loads(schedule(controller, "list", "--json").out)["schedules"][0]["id"] == "nightly"

    job_id = schedule(controller, "run", "nightly").out.strip()
    assert poll.command()["id"] == job_id
    again = schedule(controller, "run", "nightly")
    assert (again.code, job_id in again.err) == (1, True)
    agent.finish(job_id)
    shown = schedule(controller, "show", "nightly").out.splitlines()
    assert shown[0] == "schedule nightly: 0 30 2 * * 1-5 Europe/Berlin, active"
    assert "jitter: 60 s" in shown
    assert "catch up: one run for all that were missed" in shown
    assert f"last run: SUCCESS, 0 s ago, job {job_id}" in [re.sub(r"\d+ s ago", "0 s ago", line) for line in shown]
    assert shown[-1].endswith(f"  run       job {job_id}, asked for")
    assert json.loads(schedule(controller, "show", "nightly", "--json").out)["job"] == job_id

    assert schedule(controller, "pause", "nightly").out == "schedule nightly is paused\n"
    assert "  paused  " in schedule(controller, "list").out
    assert schedule(controller, "show", "nightly").out.splitlines()[0].endswith(", paused")
    assert schedule(controller, "resume", "nightly").out == "schedule nightly goes on\n"
    assert schedule(controller, "remove", "nightly").out == "schedule nightly is removed\n"
    assert schedule(controller, "list").err == "greenagent-ctl: the controller has no schedule\n"


def test_runs_are_told_from_other_jobs(controller) -> None:
    Agent(controller).poll()
    schedule(controller, "add", "s", "@daily", *NODE, "--paused", "true")
    job_id = schedule(controller, "run", "s").out.strip()
    controller.submit(id="other", gid=1, nid=10)
    heads, *rows = ctl(controller.url, "jobs").out.splitlines()
    assert heads.split()[-2:] == ["SCHEDULE", "COMMAND"]
    assert [row.split()[-2:] for row in rows] == [["-", "execute"], ["s", "true"]]
    heads, row = ctl(controller.url, "jobs", "--schedule", "s").out.splitlines()
    assert row.split()[0] == job_id
    assert "schedule: s" in ctl(controller.url, "show", job_id).out.splitlines()
    assert ctl(controller.url, "jobs", "--schedule", "t").err == "greenagent-ctl: no job matches\n"


def test_one_of_that_name_is_replaced_only_where_that_is_asked_for(controller) -> None:
    add = ("add", "a/b", "@daily", *NODE)
    assert schedule(controller, *add, "true").code == 0
    refused = schedule(controller, *add, "false")
    assert (refused.code, "there is a schedule 'a/b' already" in refused.err) == (1, True)
    assert schedule(controller, *add, "--replace", "--paused", "false").out == (
        "schedule a/b is paused; it goes on after: greenagent-ctl schedule resume a/b\n"
    )
    assert controller.get("schedules/a%2Fb")["command_line"] == "false"
    assert schedule(controller, "resume", "a/b").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("add", "x", "61 * * * *", *NODE, "true"), 125, "no cron expression"),
        (("add", "x", "@daily", "--zone", "Nowhere", *NODE, "true"), 125, "no time zone 'Nowhere'"),
        (("add", "x", "@daily", "true"), 125, "say where to run it"),
        (("add", "x", "@daily", *NODE), 125, "nothing to run"),
        (("add", "x"), 125, "CRON"),
        (("add", "", "@daily", *NODE, "true"), 125, "no schedule's name"),
        (("add", "x", "@daily", "--recurring", "5", *NODE, "true"), 125, "unrecognized arguments: --recurring"),
        (("add", "x", "@daily", "--zome", "UTC", *NODE, "--", "true"), 125, "did you mean --zone?"),
        (("show", "x"), 1, "there is no schedule 'x'"),
        (("pause", "."), 1, "there is no schedule '.'"),
        (("remove", "x"), 1, "there is no schedule 'x'"),
        (("run",), 125, "NAME"),
        (("run", ""), 125, "no schedule's name"),
        (("lst",), 125, "did you mean list?"),
        ((), 125, "ACTION"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(controller, arguments, code, said) -> None:
    done = schedule(controller, *arguments)
    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
    assert said in done.err
    assert controller.get("schedules") == {"schedules": []}
