"""Deliveries that the agent acknowledges: no command is lost or run twice."""

from __future__ import annotations

import pytest

from greenagent.controller.limits import Limits
from tests.support.controllers import ControllerProcess
from tests.support.local_controller import Agent, plain
from tests.support.waiting import wait_until


@pytest.fixture
def careful(controller) -> Agent:
    return Agent(controller, roles=["web"], acknowledge="")


def test_only_polls_that_acknowledge_get_a_token(controller, careful) -> None:
    poll = Agent(controller, nid=11).poll()
    controller.submit(id="plain", gid=1, nid=11)
    assert poll.token() == ""
    poll = careful.poll()
    controller.submit(id="careful", gid=1, nid=10)
    assert poll.token() != ""


def test_what_is_not_acknowledged_is_offered_again_with_its_token(controller, careful) -> None:
    poll = careful.poll()
    controller.submit(id="a", gid=1, nid=10)
    controller.submit(id="b", gid=1, nid=10)
    first = poll.token()
    again = careful.poll()
    assert again.command() == poll.command()
    assert again.token() == first
    careful.acknowledge = first
    assert careful.take()["id"] == "b"
    assert careful.acknowledge != first


def test_acknowledged_commands_are_not_offered_again(controller, careful) -> None:
    poll = careful.poll()
    controller.submit(id="a", gid=1, nid=10)
    careful.acknowledge = poll.token()
    poll = careful.poll()
    assert not poll.over
    assert controller.get("agents")["agents"][0]["unacknowledged"] == 0


def test_a_result_acknowledges(controller, careful) -> None:
    poll = careful.poll()
    controller.submit(id="a", gid=1, nid=10)
    poll.command()
    careful.finish("a")
    assert not careful.poll().over


def test_a_role_command_is_offered_again_to_the_same_agent_only(controller, careful) -> None:
    other = Agent(controller, nid=11, roles=["web"], acknowledge="").poll()
    other.hang_up()
    poll = careful.poll()
    controller.submit(id="r", roles=["web"])
    token = poll.token()
    assert not Agent(controller, nid=12, roles=["web"], acknowledge="").poll().over
    again = careful.poll()
    assert (again.command()["id"], again.token()) == ("r", token)


def test_a_poll_that_never_was_read_is_not_given_to_another_while_its_delivery_is_open(controller, careful) -> None:
    poll = careful.poll()
    controller.submit(id="r", roles=["web"])
    poll.command()
    careful.poll().command()
    wait_until(lambda: not controller.services.agents.get((1, 10)).parked)
    assert not Agent(controller, nid=12, roles=["web"]).poll().over
    assert controller.services.jobs.get("r").assignments[0].deliveries == 2


def test_an_agent_that_stays_away_after_a_delivery_ends_the_job(make_controller) -> None:
    controller = make_controller(Limits(unacknowledged=0.5, live=0.1))
    agent = Agent(controller, acknowledge="")
    poll = agent.poll()
    controller.submit(id="a", gid=1, nid=10)
    poll.command()
    [result] = controller.results("a", wait=60)
    assert (result["state"], result["data"]) == ("ERROR", "not acknowledged")
    # Its own result, should it come after all, is the better one.
    agent.finish("a", data="done")
    assert controller.results("a")[0]["data"] == "done"
    assert controller.state("a") == "SUCCESS"


def test_tokens_survive_kill_9_of_the_controller(tmp_path) -> None:
    state = str(tmp_path / "state.db")
    process = ControllerProcess(tmp_path, "--state", state)
    session = plain()
    job = {"id": "a", "cmd": "execute", "gid": 1, "nid": 10, "wait_for_agent": 60}
    assert session.post(f"{process.url}/api/jobs", json=job, timeout=60).status_code == 202
    first = session.get(f"{process.url}/1/10/cmd", headers={"Greenagent-Acknowledge": ""}, timeout=60)
    process.kill()
    process.start()
    try:
        again = plain().get(f"{process.url}/1/10/cmd", headers={"Greenagent-Acknowledge": ""}, timeout=60)
        assert again.json() == first.json()
        assert again.headers["Greenagent-Delivery"] == first.headers["Greenagent-Delivery"] != ""
    finally:
        assert process.stop() == 0
