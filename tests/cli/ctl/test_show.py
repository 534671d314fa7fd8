"""``greenagent-ctl agents``, ``jobs`` and ``show``."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.support.ctl import (
    Lines,
    ctl,
    on_node,
)
from tests.support.local_controller import Agent


def test_agents_jobs_show_and_logs(controller, answering) -> None:
    lines = Lines()

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        lines.send(agent, command["id"], "hello", "world")
        agent.finish(command["id"], exit_code=0, streams=["hello\nworld\n", ""], data="[1]", level=20)

    answering(controller, answer, roles=["web", "db"], slots=4)
    assert ctl(controller.url, *on_node("--id", "x", "--", "true")).out == "hello\nworld\n[1]\n"
    heads, row = ctl(controller.url, "agents").out.splitlines()
    assert heads.split()[0] == "AGENT"
    assert row.split()[:2] == ["1:10", "live"]
    assert row.split()[-1] == "web,db"
    assert json.loads(ctl(controller.url, "agents", "--json").out)["agents"][0]["free_slots"] == 4
    heads, row = ctl(controller.url, "jobs", "--since", "1h", "--state", "success", "--agent", "1:10").out.splitlines()
    assert row.split()[:5] == ["x", "SUCCESS", "1:10", "execute", "true"]
    assert json.loads(ctl(controller.url, "jobs", "--json").out)["jobs"][0]["id"] == "x"
    shown = ctl(controller.url, "show", "x").out
    assert "1:10 SUCCESS, exit code 0" in shown
    assert "    world" in shown
    assert json.loads(ctl(controller.url, "show", "x", "--json").out)["results"][0]["data"] == "[1]"
    logged = ctl(controller.url, "logs", "x").out.splitlines()
    assert [line.split()[1:] for line in logged] == [["1:10", "1", "hello"], ["1:10", "1", "world"]]
    objects = [json.loads(line) for line in ctl(controller.url, "logs", "x", "--json").out.splitlines()]
    assert [one["data"] for one in objects] == ["hello", "world"]
    assert ctl(controller.url, "show", "none").code == 1


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
