"""Four real agents with roles at a real controller: who gets which job, how often and how soon."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents import AgentProcess, StartAgent
from tests.support.commands import shell
from tests.support.controllers import ControllerProcess
from tests.support.waiting import wait_until

ROLES = {"1:1": ("web", "db"), "1:2": ("web",), "2:3": ("db", "web"), "1:4": ("web", "mail")}
LIVE = 6.0
"""Seconds until an agent that is gone counts as that, where agents are killed. A full one begins a poll three times a
second, and so has to be held up for longer than this on a busy machine to be missed."""


class Fleet:
    """The controller and the agents by ``gid:nid``; each runs one job at a time."""

    def __init__(self, folder: Path, controller: ControllerProcess, start_agent: StartAgent) -> None:
        self.folder = folder
        self.controller = controller
        self.agents: dict[str, AgentProcess] = {}
        for key, roles in ROLES.items():
            gid, nid = key.split(":")
            self.agents[key] = start_agent(
                "--gid",
                gid,
                "--nid",
                nid,
                controllers={"main": self.controller.url},
                roles=roles,
                max_jobs=1,
                more='[extensions.note]\nbinary = "sh"\nargs = ["-c", "true"]',
            )
        self.controller.wait_for_agents(*ROLES)

    def post(self, job_id: str, script: str = "true", **target: Any) -> None:
        command = {**shell(job_id, script), "gid": 0, "nid": 0, **target}
        assert self.controller.post(command) == 202

    def ran_at(self, job_id: str) -> list[str]:
        """Who ran it, once for each result."""
        return [f"{result['gid']}:{result['nid']}" for result in self.controller.results(job_id)]

    def fill(self, agent: str) -> None:
        """Makes the one slot of an agent busy until ``free``."""
        gid, nid = map(int, agent.split(":"))
        started = self.folder / f"busy-{gid}-{nid}"
        gate = self.folder / f"free-{gid}-{nid}"
        script = f"touch {started}; while [ ! -e {gate} ]; do sleep 0.02; done"
        assert self.controller.post({**shell(f"fill-{agent}", script), "gid": gid, "nid": nid}) == 202
        wait_until(started.exists, 20, f"{agent} to be busy")

    def free(self, agent: str) -> None:
        (self.folder / f"free-{agent.replace(':', '-')}").touch()

    def state(self, job_id: str) -> str:
        state: str = self.controller.get(f"jobs/{job_id}")["state"]
        return state


@pytest.fixture
def fleet(tmp_path: Path, start_agent: StartAgent) -> Iterator[Fleet]:
    with ControllerProcess(tmp_path, limits={"full_poll": 0.3}) as controller:
        yield Fleet(tmp_path, controller, start_agent)


@pytest.fixture
def mortal(tmp_path: Path, start_agent: StartAgent) -> Iterator[Fleet]:
    """Whose dead are known as that soon."""
    with ControllerProcess(tmp_path, limits={"live": LIVE, "full_poll": 0.3}) as controller:
        yield Fleet(tmp_path, controller, start_agent)


def test_who_gets_which_job_how_often_and_how_soon(fleet: Fleet) -> None:
    # One agent alone has both roles, another is the only one of its grid.
    fleet.post("both", roles=["web", "mail"])
    assert fleet.ran_at("both") == ["1:4"]
    fleet.post("grid", roles=["web"], gid=2)
    assert fleet.ran_at("grid") == ["2:3"]
    fleet.post("seed", role="mail")
    assert fleet.ran_at("seed") == ["1:4"]

    # Any agent: once, and never twice. None ends before all four are busy.
    gate = fleet.folder / "gate"
    for number in range(12):
        script = f"echo x >>{fleet.folder}/any{number}; until [ -e {gate} ]; do sleep 0.02; done"
        fleet.post(f"any{number}", script, roles=["*"])
    wait_until(lambda: len(list(fleet.folder.glob("any*"))) == len(ROLES), what="all agents to be busy")
    gate.touch()
    runners = Counter(agent for number in range(12) for agent in fleet.ran_at(f"any{number}"))
    assert sum(runners.values()) == 12
    assert set(runners) == set(ROLES), f"free agents were left out: {runners}"
    assert all((fleet.folder / f"any{number}").read_text() == "x\n" for number in range(12))

    # Full agents are passed over while another has a slot; the job does not wait for them.
    for agent in ("1:1", "1:2", "1:4"):
        fleet.fill(agent)
    fleet.post("passed", roles=["web"])
    assert fleet.ran_at("passed") == ["2:3"]
    assert fleet.state("fill-1:1") == "RUNNING"

    # All that match are full: it waits at the controller, and goes to the first that has a slot.
    fleet.post("waits", roles=["web"], gid=1)
    fleet.post("mail", roles=["mail"])
    fleet.post("elsewhere", roles=["db"])
    assert fleet.ran_at("elsewhere") == ["2:3"]
    assert fleet.state("waits") == "QUEUED"
    assert fleet.state("mail") == "QUEUED"
    fleet.free("1:2")
    assert fleet.ran_at("waits") == ["1:2"]
    assert fleet.state("mail") == "QUEUED"
    fleet.free("1:4")
    assert fleet.ran_at("mail") == ["1:4"]

    # Built-ins need no slot.
    assert fleet.controller.post({"id": "ping", "cmd": "ping", "gid": 1, "nid": 1, "args": {}, "data": ""}) == 202
    assert fleet.ran_at("ping") == ["1:1"]
    assert fleet.state("fill-1:1") == "RUNNING"
    fleet.free("1:1")

    # Nobody has it: an error at once.
    fleet.post("nobody", roles=["printer"])
    result = fleet.controller.results("nobody")[0]
    assert result["state"] == "ERROR"
    assert result["data"].startswith("No matching connected agents found: ")


def test_fanout_reaches_each_matching_agent_once_full_or_not(fleet: Fleet) -> None:
    note = f"echo $AGENT_GID:$AGENT_NID >>{fleet.folder}/NAME"
    fleet.fill("1:2")
    fleet.post("web", note.replace("NAME", "web"), roles=["web"], fanout=True)
    fleet.post("grid", note.replace("NAME", "grid"), roles=["*"], fanout=True, gid=1)
    fleet.post("db", note.replace("NAME", "db"), roles=["db"], fanout=True)
    assert sorted(fleet.ran_at("db")) == ["1:1", "2:3"]
    ended = {f"{one['gid']}:{one['nid']}" for one in fleet.controller.get("jobs/db")["results"]}
    assert ended == {"1:1", "2:3"}
    assert fleet.state("web") == "RUNNING"
    fleet.free("1:2")
    assert sorted(fleet.ran_at("web")) == sorted(ROLES)
    assert sorted(fleet.ran_at("grid")) == ["1:1", "1:2", "1:4"]
    for name, agents in (("web", sorted(ROLES)), ("grid", ["1:1", "1:2", "1:4"]), ("db", ["1:1", "2:3"])):
        assert sorted((fleet.folder / name).read_text().split()) == agents


def test_the_dead_get_nothing_and_what_waits_for_them_ends(mortal: Fleet) -> None:
    mortal.agents["1:4"].kill()
    mortal.agents["1:2"].kill()
    # At once, while they still count as live: nothing is lost with those that are gone.
    for number in range(6):
        mortal.post(f"soon{number}", roles=["web"])
    for number in range(6):
        assert mortal.ran_at(f"soon{number}")[0] in ("1:1", "2:3")
    mortal.controller.wait_for_agents("1:1", "2:3")
    mortal.post("mail", roles=["mail"])
    assert mortal.controller.results("mail")[0]["data"].startswith("No matching connected agents found: ")
    mortal.post("node", gid=1, nid=4)
    assert mortal.controller.results("node")[0]["data"].startswith("No matching connected agents found: ")
    mortal.post("all", roles=["*"], fanout=True)
    assert sorted(mortal.ran_at("all")) == ["1:1", "2:3"]
    table = {f"{one['gid']}:{one['nid']}": one["live"] for one in mortal.controller.get("agents")["agents"]}
    assert table == {"1:1": True, "1:2": False, "1:4": False, "2:3": True}

    # It comes back and is one of them again.
    mortal.post("patient", roles=["mail"], wait_for_agent=600)
    mortal.agents["1:4"].start()
    assert mortal.ran_at("patient") == ["1:4"]
    mortal.controller.wait_for_agents("1:1", "1:4", "2:3")


def test_a_role_job_that_waits_ends_when_the_last_that_could_take_it_dies(mortal: Fleet) -> None:
    mortal.fill("1:4")
    mortal.post("mail", roles=["mail"])
    assert mortal.state("mail") == "QUEUED"
    mortal.agents["1:4"].kill()
    result = mortal.controller.results("mail", 30)[0]
    assert result["state"] == "ERROR"
    assert result["data"].startswith("No matching connected agents found: ")
