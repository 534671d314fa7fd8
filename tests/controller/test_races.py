"""What happens while the state file is just being written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

from greenagent.controller.limits import Limits
from tests.support.calls import note_calls
from tests.support.local_controller import Agent, LocalController, Poller
from tests.support.waiting import wait_until


class HeldFile:
    """The state file of a controller, whose writes wait, while it is held, until they are let go."""

    def __init__(self, controller: LocalController) -> None:
        self._write = controller.services.backend.file.write
        self.waiting: list[Event] = []
        self.is_held = False
        controller.services.backend.file.write = self.write  # type: ignore[method-assign]

    def write(self, statements: Any) -> None:
        if self.is_held:
            let_go = Event()
            self.waiting.append(let_go)
            let_go.wait()
        self._write(statements)

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.waiting) >= count, what=f"{count} writes")

    def let_go(self) -> None:
        """One write, the oldest."""
        self.waiting.pop(0).set()

    def let_all_go(self) -> None:
        self.is_held = False
        while self.waiting:
            self.let_go()


@pytest.fixture
def kept(make_controller: Callable[..., LocalController], tmp_path: Path) -> LocalController:
    return make_controller(Limits(full_poll=300), state=tmp_path / "state.db")


@pytest.fixture
def held(kept: LocalController) -> Iterator[HeldFile]:
    file = HeldFile(kept)
    yield file
    file.let_all_go()


def test_a_command_that_is_taken_back_is_offered_to_one_agent_only(kept: LocalController, held: HeldFile) -> None:
    """Its agent breaks off while it is handed over and polls again at once, as when it is replaced in place."""
    kept.submit(id="taken back", roles=["web"], wait_for_agent=60)
    held.is_held = True
    broken = Poller(kept.url, 1, 10, ["web"], acknowledge="")
    held.wait_for(1)
    broken.hang_up()
    wait_until(lambda: kept.services.agents.get((1, 10)).open_polls, what="the poll")
    held.let_go()
    held.wait_for(1)
    again = Poller(kept.url, 1, 10, ["web"], acknowledge="")
    wait_until(lambda: kept.services.agents.get((1, 10)).parked or len(held.waiting) > 1, what="the second poll")
    other = Poller(kept.url, 1, 11, ["web"], acknowledge="")
    wait_until(
        lambda: kept.services.agents.get((1, 11)) and kept.services.agents.get((1, 11)).parked, what="the other agent"
    )
    held.let_all_go()
    assert again.command() == {"id": "taken back", "roles": ["web"], "cmd": "execute"}
    kept.submit(id="second", roles=["web"])
    command = other.command()
    assert command is not None
    assert command["id"] == "second"


def test_a_kill_that_comes_while_a_command_is_handed_over_goes_to_the_agent_that_gets_it(
    kept: LocalController, held: HeldFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.submit(id="job", gid=1, nid=10, wait_for_agent=60)
    held.is_held = True
    poll = Poller(kept.url, 1, 10, acknowledge="")
    held.wait_for(1)
    called = note_calls(monkeypatch, kept.services.results, "kill")
    kill = gevent.spawn(kept.post, "jobs/job/kill", {})
    wait_until(lambda: called, what="the kill")
    held.let_all_go()
    assert poll.command() is not None
    assert [(order["gid"], order["nid"]) for order in kill.get(timeout=60).json()["kills"]] == [(1, 10)]
    assert kept.state("job") == "RUNNING"


def test_two_kills_of_a_waiting_job_at_once_end_it_once(
    kept: LocalController, held: HeldFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.submit(id="job", gid=1, nid=10, wait_for_agent=60)
    held.is_held = True
    called = note_calls(monkeypatch, kept.services.results, "kill")
    kills = [gevent.spawn(kept.post, "jobs/job/kill", {}) for _ in range(3)]
    wait_until(lambda: len(called) == 3, what="the kills")
    held.let_all_go()
    assert {kill.get(timeout=60).status_code for kill in kills} <= {202, 409}
    job = kept.get("jobs/job")
    assert (job["state"], job["agents"][0]["results"], job["earlier"]) == ("KILLED", 1, [])


@pytest.mark.parametrize("job_id", ["job", "unknown"])
def test_equal_results_posted_at_once_count_once(
    kept: LocalController, held: HeldFile, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll = Poller(kept.url, 1, 10)
    wait_until(lambda: kept.services.agents.get((1, 10)) and kept.services.agents.get((1, 10)).parked, what="the poll")
    kept.submit(id="job", gid=1, nid=10)
    poll.command()
    agent = Agent(kept)
    held.is_held = True
    called = note_calls(monkeypatch, kept.services.results, "take")
    posts = [gevent.spawn(agent.finish, job_id) for _ in range(4)]
    wait_until(lambda: len(called) == 4, what="the results")
    held.let_all_go()
    assert [post.get(timeout=60).status_code for post in posts] == [200] * 4
    job = kept.get(f"jobs/{job_id}")
    assert ([one["results"] for one in job["agents"]], job["earlier"]) == ([1], [])


def test_a_poll_that_comes_while_a_fanout_is_expanded_is_not_given_it_as_well(
    kept: LocalController, held: HeldFile
) -> None:
    sweep_now = kept.sweep_by_hand()
    kept.submit(id="f", roles=["web"], fanout=True, wait_for_agent=60)
    full = Agent(kept, nid=10, roles=["web"], slots=0).poll()
    held.is_held = True
    sweep = gevent.spawn(sweep_now)
    held.wait_for(1)
    free = Poller(kept.url, 1, 11, ["web"], slots=1)
    wait_until(lambda: (agent := kept.services.agents.get((1, 11))) and agent.open_polls, what="the poll")
    held.let_all_go()
    sweep.get(timeout=60)
    command = full.command()
    assert command is not None
    assert command["id"] == "f"
    assert [one["nid"] for one in kept.get("jobs/f")["agents"]] == [10]
    kept.submit(id="next", gid=1, nid=11)
    command = free.command()
    assert command is not None
    assert command["id"] == "next"


def test_of_two_commands_with_one_id_and_a_script_one_is_taken(kept: LocalController) -> None:
    for number in range(12):
        script = {"content": "def action(): pass", "number": number}
        command = {"id": f"script {number}", "gid": 1, "nid": 10, "cmd": "jumpscript_content", "wait_for_agent": 60}
        posts = [gevent.spawn(kept.post, "jobs", {**command, "data": json.dumps(script)}) for _ in range(2)]
        assert sorted(post.get(timeout=60).status_code for post in posts) == [202, 409]


def test_a_kill_is_taken_however_many_jobs_wait(make_controller: Callable[..., LocalController]) -> None:
    controller = make_controller(Limits(unfinished_jobs=1))
    agent = Agent(controller)
    poll = agent.poll()
    controller.submit(id="job", gid=1, nid=10)
    poll.command()
    assert controller.post("jobs", {"cmd": "ping", "gid": 1, "nid": 10}).status_code == 503
    assert controller.post("jobs/job/kill", {}).status_code == 202
    order = agent.take()
    assert order["cmd"] == "kill"


def test_results_of_a_recurring_job_that_are_not_kept_take_no_room(
    make_controller: Callable[..., LocalController],
) -> None:
    controller = make_controller(Limits(results_per_agent=2, unfinished_bytes=20_000, keep_bytes=20_000))
    agent = Agent(controller)
    poll = agent.poll()
    controller.submit(id="job", gid=1, nid=10, args={"name": "true", "recurring_period": 1})
    poll.command()
    for number in range(30):
        assert agent.finish("job", starttime=1000 + number, data="x" * 1000).status_code == 200
    poll = agent.poll()
    controller.submit(id="another", gid=1, nid=10)
    assert poll.command() is not None
    agent.finish("another")
    agent.finish("job", state="KILLED", starttime=5000)
    controller.services.results.sweep()
    assert {job["id"] for job in controller.get("jobs")["jobs"]} == {"job", "another"}
