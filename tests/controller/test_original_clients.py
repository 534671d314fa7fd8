"""Original clients in front of this controller (docs/originals.md): commands and results through a Redis."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import pytest

from greenagent.controller.limits import Limits
from greenagent.values import states
from tests.support.local_controller import Agent, LocalController
from tests.support.original_clients import KEYS, Client, FirstClient
from tests.support.originals import OriginalAgent
from tests.support.programs import ROOT
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

Make = Callable[..., LocalController]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path)
    yield started
    started.stop()


@pytest.fixture
def controller(make_controller: Make, server: RedisServer) -> LocalController:
    return make_controller(clients=server.url)


def live(controller: LocalController, *agents: Agent) -> None:
    """They have polled, so that commands for them are taken."""
    for one in agents:
        one.poll().hang_up()
    wanted = {f"{one.gid}:{one.nid}" for one in agents}
    wait_until(lambda: controller.live() >= wanted, what="the agents to be live")


def test_a_later_client_sees_its_command_queued_running_ended(controller: LocalController, server: RedisServer) -> None:
    client, agent = Client(server), Agent(controller)
    live(controller, agent)
    job_id = client.send(id="j", tags="mine")
    [placeholder] = client.await_queued(job_id).values()
    assert set(placeholder) == KEYS
    assert placeholder.pop("starttime") > 10**12
    empty = {"cmd": "", "args": None, "data": "", "streams": None, "critical": "", "level": 0, "time": 0}
    assert placeholder == {"id": "j", "gid": 1, "nid": 10, "state": "QUEUED", "tags": "mine", **empty}
    assert agent.take()["id"] == "j"
    running = wait_until(lambda: (found := client.hash("j")["1:10"])["state"] == "RUNNING" and found)
    assert set(running) == KEYS
    agent.finish("j", starttime=77, data="done", level=20)
    result = client.result("j")
    assert (result["state"], result["data"], result["starttime"]) == ("SUCCESS", "done", 77)
    assert client.hash("j") == {"1:10": result}
    for key in ("jobresult:j", "cmd.j.1.10", "cmd.j.queued"):
        assert 86_000 < server.client.ttl(key) <= 86_400
    keys = set(server.client.scan_iter("*j*"))
    assert keys == {"jobresult:j", "cmd.j.1.10", "cmd.j.queued"}


def test_a_first_client_takes_its_results_away(controller: LocalController, server: RedisServer) -> None:
    client, agent = FirstClient(server), Agent(controller)
    job_id = client.send(id="j")
    wait_until(lambda: server.client.lrange("joblog", 0, -1), what="the command to be taken")
    assert client.hash("j") == {}  # this generation knows no QUEUED
    assert controller.state("j") == "QUEUED"  # though its agent has never been here
    agent.take()
    wait_until(lambda: client.hash("j").get("1:10", {}).get("state") == "RUNNING", what="the placeholder")
    agent.finish("j")
    assert client.result(job_id)["state"] == "SUCCESS"
    assert client.hash("j")["1:10"]["state"] == "SUCCESS"
    assert [json.loads(text)["id"] for text in server.client.lrange("joblog", 0, -1)] == ["j"]
    assert not server.client.exists("cmds_queue_j", "cmd.j.queued")


def test_a_command_nobody_can_take_is_answered_before_it_counts_as_queued(
    controller: LocalController, server: RedisServer
) -> None:
    client = Client(server)
    job_id = client.send(gid=1, nid=99)
    [result] = client.await_queued(job_id).values()
    assert set(result) >= KEYS
    assert result["state"] == "ERROR"
    assert result["data"].startswith("No matching connected agents found")
    assert client.result(job_id, "1.99") == result


def test_nulls_of_both_clients_are_nothing(controller: LocalController, server: RedisServer) -> None:
    agent = Agent(controller)
    live(controller, agent)
    of_go = {"domain": "", "name": "ls", "queue": "", "max_time": 0, "args": None}
    for client, more in (
        (Client(server), {"roles": None, "tags": None, "args": None}),
        (Client(server), {"roles": None, "tags": "", "args": of_go}),
        (FirstClient(server), {"role": None, "args": None}),
    ):
        job_id = client.send(data=None, **more)
        assert agent.take()["id"] == job_id
        agent.finish(job_id, starttime=len(job_id))
        assert client.result(job_id)["state"] == "SUCCESS"


def test_commands_are_taken_in_the_order_in_which_they_came(controller: LocalController, server: RedisServer) -> None:
    client, agent = Client(server), Agent(controller)
    live(controller, agent)
    sent = [client.send(id=f"j{number}") for number in range(50)]
    client.await_queued(sent[-1])
    assert [agent.take()["id"] for _ in sent] == sent


def test_a_command_for_one_of_several_agents_has_its_agent_when_it_counts_as_queued(
    controller: LocalController, server: RedisServer
) -> None:
    """A later client looks at once who has it, and then waits for that one."""
    client, agents = Client(server), [Agent(controller, nid=nid, roles=["r"]) for nid in (10, 11)]
    live(controller, *agents)
    job_id = client.send(gid=0, nid=0, roles=["r"])
    [(field, placeholder)] = client.await_queued(job_id).items()
    assert placeholder["state"] == "QUEUED"
    [agent] = [one for one in agents if f"{one.gid}:{one.nid}" == field]
    agent.take()
    agent.finish(job_id)
    assert client.result(job_id, field.replace(":", "."))["state"] == "SUCCESS"


def test_a_command_for_a_role_of_the_first_generation_waits_for_whoever_comes(
    controller: LocalController, server: RedisServer
) -> None:
    client, agent = FirstClient(server), Agent(controller, nid=12, roles=["r"])
    job_id = client.send(gid=0, nid=0, role="r")
    wait_until(lambda: server.client.llen("joblog"), what="the command to be taken")
    agent.take()
    agent.finish(job_id)
    result = client.result(job_id)
    assert (result["nid"], set(client.hash(job_id))) == (12, {"1:12"})


def test_a_fan_out_has_a_part_and_a_result_of_each_agent(controller: LocalController, server: RedisServer) -> None:
    client, agents = Client(server), [Agent(controller, nid=nid) for nid in (10, 11, 12)]
    live(controller, *agents)
    job_id = client.send(gid=0, nid=0, roles=["*"], fanout=True)
    assert set(client.await_queued(job_id)) == {"1:10", "1:11", "1:12"}
    for agent in agents:
        agent.take()
        agent.finish(job_id)
        assert client.result(job_id, f"1.{agent.nid}")["nid"] == agent.nid


def test_an_id_is_used_again(controller: LocalController, server: RedisServer) -> None:
    """The second command waits for the end of the first; it is another one to agents, equal as the two are."""
    client, agent = Client(server), Agent(controller)
    live(controller, agent)
    client.send(id="j")
    client.send(id="j")
    client.send(id="k")
    first = agent.take()
    assert agent.take()["id"] == "k"  # it has nothing to wait for
    agent.finish("j", starttime=1000, data="first")
    second = agent.take()
    assert second["id"] == "j"
    assert first != second
    agent.finish("j", starttime=1000, data="first")  # it did not see that this was taken
    agent.finish("j", starttime=2000, data="second")
    wait_until(lambda: client.result("j")["data"] == "second", what="the second result")
    found = {json.loads(text)["data"] for text in server.client.lrange("cmd.j.1.10", 0, -1)}
    assert (found, server.client.llen("cmd.j.1.10")) == ({"first", "second"}, 2)
    assert server.client.llen("cmd.j.queued") == 2


@pytest.mark.parametrize("element", ["nonsense", "[]", "{}", '{"id": 5, "nid": true}', b"\xff", "[" * 100_000])
def test_what_is_no_command_is_set_aside_and_said(
    controller: LocalController, server: RedisServer, element: str | bytes
) -> None:
    client, agent = Client(server), Agent(controller)
    live(controller, agent)
    for queue in ("cmds.queue", "cmds_queue"):
        server.client.rpush(queue, element)
    job_id = client.send()
    assert agent.take()["id"] == job_id
    wait_until(lambda: server.client.llen("greenagent:clients:malformed") == 2, what="both to be set aside")
    for queue in ("cmds.queue", "cmds_queue"):  # it is said after it was set aside
        wait_until(
            lambda queue=queue: any(f"of {queue} " in line and "set aside" in line for line in controller.said),
            what=f"a word about {queue}",
        )


def test_what_is_set_aside_and_the_log_of_commands_do_not_grow_without_end(
    make_controller: Make, server: RedisServer
) -> None:
    make_controller(Limits(clients_set_aside=3, clients_log=4), clients=server.url)
    client = FirstClient(server)
    for number in range(10):
        server.client.rpush("cmds_queue", f"nonsense {number}")
        client.send(id=f"j{number}")
    wait_until(lambda: not server.client.llen("cmds_queue") and not server.client.exists(TAKEN), what="all to be taken")
    assert server.client.lrange("greenagent:clients:malformed", 0, -1) == [f"nonsense {n}" for n in (9, 8, 7)]
    logged = [json.loads(text)["id"] for text in server.client.lrange("joblog", 0, -1)]
    assert logged == ["j9", "j8", "j7", "j6"]


TAKEN = "greenagent:clients:cmds_queue:taken"


def test_a_command_that_is_refused_is_answered(controller: LocalController, server: RedisServer) -> None:
    for client in (Client(server), FirstClient(server)):
        job_id = client.send(gid=0, nid=0)
        result = client.result(job_id, "0.0")
        assert set(result) == KEYS
        assert (result["state"], "say whom the command is for" in result["data"]) == ("ERROR", True)
        assert client.hash(job_id) == {"0:0": result}


def test_internal_commands_are_answered_whatever_their_target(controller: LocalController, server: RedisServer) -> None:
    client, agent = Client(server), Agent(controller, roles=["r"])
    live(controller, agent)
    for target in ({"gid": 0, "nid": 0, "roles": ["*"]}, {"gid": 3, "nid": 4}, {"gid": 0, "nid": 0}):
        job_id = client.send(cmd="controller", args={"name": "list_agents"}, **target)
        [(field, result)] = client.await_queued(job_id).items()
        assert field == f"{target['gid']}:{target['nid']}"
        assert (result["state"], result["level"], json.loads(result["data"])) == ("SUCCESS", 20, {"1:10": ["r"]})
        assert set(result) >= KEYS
        assert client.result(job_id, field.replace(":", ".")) == result
    job_id = client.send(cmd="controller", args={"name": "tunnel_open"}, gid=0, nid=0, roles=["*"])
    assert client.result(job_id, "0.0")["state"] == "UNKNOWN_CMD"


def test_each_run_of_a_recurring_job_is_a_result(controller: LocalController, server: RedisServer) -> None:
    client, agent = FirstClient(server), Agent(controller)
    job_id = client.send(args={"name": "true", "recurring_period": 1})
    agent.take()
    for number in range(3):
        agent.finish(job_id, starttime=1000 + number)
        assert client.result(job_id)["starttime"] == 1000 + number


def test_a_key_of_another_type_keeps_nothing_else_from_being_written(
    controller: LocalController, server: RedisServer
) -> None:
    client, agent = Client(server), Agent(controller)
    live(controller, agent)
    server.client.set("cmd.j.1.10", "somebody else's")
    client.send(id="j")
    agent.take()
    agent.finish("j")
    wait_until(lambda: client.hash("j")["1:10"]["state"] == "SUCCESS", what="the result")
    wait_until(lambda: any("of another type" in line for line in controller.said), what="the key to be named")


def run_all(agent: Agent) -> None:
    """Polls, and ends each command at once."""
    number = 0
    while True:
        command = agent.poll().command()
        if command is not None:
            number += 1
            agent.finish(command["id"], starttime=number)


@pytest.mark.parametrize("generation", ["S", "L", "P"])
def test_original_agents_serve_original_clients(
    controller: LocalController, server: RedisServer, generation: str
) -> None:
    agent = OriginalAgent(controller, generation)
    for client in (Client(server), FirstClient(server)):
        job_id = client.send(args={"name": "true", "loglevels": "*"})
        result = client.result(job_id)
        assert (result["state"], set(result) >= READ_WITHOUT_ASKING) == ("SUCCESS", True)
        assert client.hash(job_id) == {"1:10": result}
    agent.stop()


@pytest.fixture
def two_agents(controller: LocalController) -> Iterator[None]:
    agents = [Agent(controller, nid=nid, roles=["node", f"r{nid}"]) for nid in (10, 11)]
    live(controller, *agents)
    greenlets = [gevent.spawn(run_all, agent) for agent in agents]
    yield
    gevent.killall(greenlets)


VECTORS = list(map(json.loads, (ROOT / "tests/vectors/original_clients.jsonl").read_text().splitlines()))
READ_WITHOUT_ASKING = {"id", "gid", "nid", "state", "starttime", "time", "level", "cmd", "data"}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda one: json.loads(one["pushed"])["cmd"])
def test_what_the_original_clients_push_is_answered_where_they_read(
    server: RedisServer, two_agents: None, vector: dict[str, Any]
) -> None:
    """Recorded between the original clients and their Redis; ``reads`` in the order in which they made them."""
    generation = Client if vector["generation"] == "later" else FirstClient
    client = generation(server)
    server.client.rpush(client.queue, vector["pushed"])
    job_id, agent = json.loads(vector["pushed"])["id"], ""
    for operation, key in vector["reads"]:
        key = key.replace("ID", job_id).replace("AGENT", agent)
        if operation == "HGETALL":
            found = client.hash(job_id)
            assert found or generation is FirstClient
            for value in found.values():
                assert set(value) >= READ_WITHOUT_ASKING
                agent = f"{value['gid']}.{value['nid']}"
        elif key.endswith(".queued"):
            assert client.await_queued(job_id)
        else:
            take = server.client.lpop if operation == "BLPOP" else partial(server.client.rpoplpush, key)
            result = json.loads(wait_until(partial(take, key), what=f"an answer in {key}"))
            assert set(result) >= READ_WITHOUT_ASKING
            assert result["id"] == job_id
            assert states.is_terminal(result["state"])
