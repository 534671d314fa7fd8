"""``greenagent-ctl agents``, ``jobs`` and ``show``."""

from __future__ import annotations

import json
import re
import time
from contextlib import redirect_stdout
from typing import Any

import pytest

from greenagent.cli.common import local_time
from greenagent.cli.ctl.main import run_command
from greenagent.controller import model
from greenagent.controller.limits import Limits
from tests.support.ctl import (
    Lines,
    Terminal,
    ctl,
    on_node,
    texts_of,
)
from tests.support.local_controller import ORIGINAL, Agent, start
from tests.support.waiting import wait_until


def test_agents_jobs_show_and_logs(controller, answering) -> None:
    lines = Lines()

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        lines.send(agent, command["id"], "hello", "world")
        agent.finish(command["id"], exit_code=0, streams=["hello\nworld\n", ""], data="[1]", level=20)

    answering(controller, answer, roles=["web", "db"], slots=4)
    assert ctl(controller.url, *on_node("--id", "x", "--", "true")).out == "hello\nworld\n[1]\n"
    heads, row = ctl(controller.url, "agents").out.splitlines()
    assert heads.split()[0] == "AGENT"
    assert row.split()[:3] == ["1:10", "live", "polling"]
    assert row.split()[-1] == "web,db"
    assert json.loads(ctl(controller.url, "agents", "--json").out)["agents"][0]["free_slots"] == 4
    heads, row = ctl(controller.url, "jobs", "--since", "1h", "--state", "success", "--agent", "1:10").out.splitlines()
    assert heads.split() == ["ID", "STATE", "AGENTS", "POSTED", "WAITED", "TOOK", "EXIT", "COMMAND"]
    assert row.split()[:3] == ["x", "SUCCESS", "1:10"]
    assert row.split()[-2:] == ["0", "true"]
    assert json.loads(ctl(controller.url, "jobs", "--json").out)["jobs"][0]["id"] == "x"
    shown = ctl(controller.url, "show", "x").out
    assert "1:10 SUCCESS, exit code 0" in shown
    assert "    world" in shown
    assert json.loads(ctl(controller.url, "show", "x", "--json").out)["results"][0]["data"] == "[1]"
    logged = ctl(controller.url, "logs", "x").out.splitlines()
    assert [line.split()[2:] for line in logged] == [["1:10", "stdout", "hello"], ["1:10", "stdout", "world"]]
    objects = [json.loads(line) for line in ctl(controller.url, "logs", "x", "--json").out.splitlines()]
    assert [one["data"] for one in objects] == ["hello", "world"]
    for name in ("show", "logs"):
        done = ctl(controller.url, name, "none")
        assert (done.code, done.err.count("\n")) == (1, 1)
        assert done.err.endswith("or no longer; greenagent-logs on its node may tell of it\n")


def test_a_job_shows_what_was_asked_and_when_each_step_was(controller) -> None:
    agent = Agent(controller)
    poll = agent.poll()
    args = {
        "name": "sh", "args": ["-c", "exit 9", "https://me:geheim@host/"], "domain": "web", "queue": "q",
        "env": ["TOKEN=geheim", "A=b"], "max_time": 60,
    }  # fmt: skip
    controller.submit(id="x", gid=1, nid=10, cmd="execute", args=args)
    poll.command()
    posted = controller.get("jobs/x")["created"]
    shown = ctl(controller.url, "show", "x").out.splitlines()
    assert shown[1:6] == [
        "command: sh -c 'exit 9' 'https://***@host/'",
        "domain: web",
        "queue: q",
        "max_time: 60",
        "environment: TOKEN, A",
    ]
    assert shown[6].startswith("posted: 20")
    assert [line.split(",")[0].split()[:2] for line in shown[7:]] == [["1:10", "RUNNING"], ["handed", "over"]]
    assert "runs since about 20" in shown[8]
    starttime = int((posted + 7.5) * 1000)
    lines = {"1": 5, "8": 1, "7": 2, "10": 4}
    agent.finish("x", "ERROR", exit_code=9, starttime=starttime, time=125_000, lines=lines)
    shown = ctl(controller.url, "show", "x").out.splitlines()
    assert shown[-1] == "  other lines, shown by logs: 2 warning, 1 error"
    (told,) = [line for line in shown if "handed over" in line]
    assert f"started {local_time(int(starttime / 1000))} (waited 7." in told
    assert told.endswith(f"ended {local_time(int(starttime / 1000 + 125))} (took 2m05s)")
    row = ctl(controller.url, "jobs").out.splitlines()[1].split(maxsplit=8)
    assert row[5].startswith("7.")
    assert row[6:] == ["2m05s", "9", "sh -c 'exit 9' 'https://***@host/'"]
    (job,) = json.loads(ctl(controller.url, "jobs", "--json").out)["jobs"]
    (steps,) = job["agents"]
    assert posted - 60 < steps["handed_over"] < time.time() + 1
    assert (steps["started"], steps["took"], steps["exit"]) == (starttime / 1000, 125, 9)
    assert "geheim" not in ctl(controller.url, "show", "x").out


def test_an_agent_says_which_jobs_wait_for_their_turn(controller, monkeypatch) -> None:
    agent = Agent(controller)
    poll = agent.poll()
    controller.submit(id="x", gid=1, nid=10, cmd="execute", args={"name": "true"})
    poll.command()

    def shown() -> str:
        return ctl(controller.url, "jobs").out.splitlines()[1].split()[1]

    assert shown() == "RUNNING"
    for posted, state in (
        ([{"id": "x", "waits": True}, {"id": "of others", "waits": True}], "WAITING"),
        ([], "WAITING"),
    ):
        assert agent.post("waiting", posted).json() == "ok"
        assert shown() == state
    with monkeypatch.context() as short:
        short.setattr(model, "TOLD_FOR", 0.0)
        agent.post("waiting", [{"id": "x", "waits": True}])
    assert shown() == "RUNNING", "what is not said again counts no more"
    agent.post("waiting", [{"id": "x", "waits": True}])
    assert shown() == "WAITING"
    agent.post("waiting", [{"id": "x", "waits": False}])
    assert shown() == "RUNNING"
    agent.post("waiting", [{"id": "x", "waits": True}])
    agent.finish("x")
    assert shown() == "SUCCESS"
    for odd in ({}, ["x"], [{"id": 5, "waits": True}], [{"id": "x"}]):
        assert agent.post("waiting", odd).status_code == 500


def test_the_beginning_of_an_id_is_enough_where_it_is_of_one_job(controller) -> None:
    for job_id in ("backup-1", "backup-12", "report"):
        controller.submit(id=job_id, gid=1, nid=10, cmd="execute", args={"name": "true"}, wait_for_agent=60)
    assert ctl(controller.url, "show", "rep").out.startswith("job report: ")
    assert ctl(controller.url, "show", "backup-1").out.startswith("job backup-1: "), "an id in full wins"
    for command in ("show", "logs", "kill"):
        done = ctl(controller.url, command, "backup")
        assert done == (1, "", "greenagent-ctl: several jobs begin with backup: backup-1, backup-12\n"), command
        done = ctl(controller.url, command, "restore")
        assert (done.code, done.out) == (1, "")
        assert "no job with the id 'restore' is known" in done.err
    assert ctl(controller.url, "kill", "backup-1") == (0, "job backup-1: KILLED\n", "")
    assert ctl(controller.url, "kill", "re") == (0, "job report: KILLED\n", "")
    assert controller.state("backup-12") == "QUEUED"
    Lines().send(Agent(controller), "report", "printed")
    assert texts_of(ctl(controller.url, "logs", "r").out) == ["printed"]
    Lines().send(Agent(controller), "backup", "of a job that is forgotten")
    assert "no job with the id 'backup' is known" in ctl(controller.url, "kill", "backup").err


def test_jobs_are_asked_for_by_what_the_table_shows(controller) -> None:
    """``--state A --state B`` silently took only B, and there was neither waiting nor failed."""
    agent = Agent(controller)
    for job_id in ("bad", "late", "good", "full"):
        start(controller, agent, job_id)
    agent.finish("bad", "ERROR", exit_code=3, time=20)
    agent.finish("late", "TIMEOUT", exit_code=None, signal="SIGTERM", time=30)
    agent.finish("good", exit_code=0, time=10)
    agent.post("waiting", [{"id": "full", "waits": True}])

    def ids(*options: str) -> list[str]:
        done = ctl(controller.url, "jobs", *options)
        found = [line.split()[0] for line in done.out.splitlines()[1:]]
        assert (done.code, done.err) == (0, "" if found else "greenagent-ctl: no job matches\n")
        return found

    assert ids("--state", "success", "--state", "waiting") == ["full", "good"]
    assert ids("--state", "timeout,success") == ["good", "late"]
    assert ids("--state", "failed") == ["late", "bad"]
    assert ids("--sort", "took", "--state", "failed,success") == ["good", "bad", "late"]
    assert ids("--sort", "took", "--limit", "1") == ["late"]
    assert ids("--since", "1h", "--until", "1m") == []
    controller.submit(id="often", gid=1, nid=10, args={"name": "sh", "recurring_period": 60})
    assert agent.poll().command()["id"] == "often"
    agent.finish("often", "ERROR", exit_code=5, time=40)
    assert ids("--state", "failed") == ["often", "late", "bad"], "it never ends, but its last run failed"
    (row,) = [line for line in ctl(controller.url, "jobs").out.splitlines() if line.startswith("often")]
    assert re.search(r"  RUNNING \(recurring\)  .*  5 +sh$", row)
    assert "1:10 last run ERROR, exit code 5" in ctl(controller.url, "show", "often").out


def test_ids_are_shortened_to_what_means_one_where_a_terminal_is_too_narrow(controller, monkeypatch) -> None:
    agent = Agent(controller)
    for job_id in ("4766fcd6-aa11-4b5e", "4766fcd6-aa11-4b5f", "70b9a4c5-aa11-4b5e", "night"):
        start(controller, agent, job_id, args={"name": job_id[:2], "domain": "d", "args": ["x" * 70]})
    agent.post(
        "stats", [{"timestamp": int(time.time()), "series": [[f"1.10.d.{name}.cpu", 5] for name in ("47", "70")]}]
    )
    monkeypatch.setenv("COLUMNS", "110")
    with redirect_stdout(Terminal()) as out:
        assert run_command(["--url", controller.url, "jobs", "--limit", "3"]) == 0
    table = out.getvalue().splitlines()
    assert [line.split()[0] for line in table] == ["ID", "night", "70b9a4c5", "4766fcd6-aa11-4b5f"]
    assert max(map(len, table)) == 110
    assert [line[-3:] for line in table[1:]] == ["..."] * 3
    assert "70b9a4c5-aa11-4b5e" in ctl(controller.url, "jobs").out
    assert "short" not in controller.get("jobs")["jobs"][0]
    with redirect_stdout(Terminal()) as out:
        assert run_command(["--url", controller.url, "top", "--once"]) == 0
    assert [line.split()[-1] for line in out.getvalue().splitlines()[-2:]] == [
        "4766fcd6-aa11-4b5e,4766fcd6-aa11-4b5f",
        "70b9a4c5",
    ]


def test_control_characters_of_names_do_not_reach_the_terminal(controller) -> None:
    name = "two\nlines \x1b[31mred"
    agent = Agent(controller)
    poll = agent.poll()
    controller.submit(id="x", gid=1, nid=10, cmd="execute", args={"name": name, "domain": "d"})
    poll.command()
    flush = {"timestamp": int(time.time()), "series": [[f"1.10.d.{name}.cpu", 5]]}
    assert agent.post("stats", [flush]).status_code == 200
    for arguments in (("jobs",), ("show", "x"), ("top", "--once")):
        done = ctl(controller.url, *arguments)
        assert done.code == 0
        assert "two\\nlines \\x1b[31mred" in done.out, arguments
        assert "\x1b" not in done.out
    assert json.loads(ctl(controller.url, "jobs", "--json").out)["jobs"][0]["name"] == name


@pytest.mark.parametrize("user_agent", [ORIGINAL, "greenagent/0.2.0"])
def test_a_running_job_whose_agent_is_away_shows_since_when(make_controller, user_agent) -> None:
    controller = make_controller(Limits(live=0.01))
    agent = Agent(controller, user_agent=user_agent)
    poll = agent.poll()
    controller.submit(id="x", gid=1, nid=10)
    poll.command()
    wait_until(lambda: not controller.live(), what="the agent to count as away")
    shown = ctl(controller.url, "show", "x").out
    assert re.search(r"\n  its agent is away, last heard of \d+ s ago", shown)
    assert ("this stays RUNNING for ever" in shown) == (user_agent == ORIGINAL)
    table = ctl(controller.url, "jobs").out
    assert re.search(r"\nx +RUNNING \(agent away\) +1:10 .*  -     -     execute\n\Z", table), (
        "nobody knows what it took"
    )
    parked = agent.poll()
    assert "is away" not in ctl(controller.url, "show", "x").out
    parked.hang_up()
