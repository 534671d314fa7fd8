"""Original clients while their Redis or the controller is away (docs/originals.md): nothing of theirs is lost."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from greenagent.controller.limits import Limits
from tests.support.certificates import write_authority, write_pair
from tests.support.controllers import ControllerProcess
from tests.support.local_controller import Agent, LocalController, Poller, plain
from tests.support.original_clients import Client, FirstClient
from tests.support.ports import reserve_port
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

Make = Callable[..., LocalController]
TAKEN = "greenagent:clients:cmds_queue:taken"
NUMBER = "greenagent:clients:cmds_queue:number"
HOLDER = "greenagent:clients:holder"
LIMITS = {"clients_lease": 2.0}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path)
    yield started
    started.stop()


def test_an_outage_of_redis_is_said_once_and_loses_nothing(make_controller: Make, server: RedisServer) -> None:
    controller = make_controller(Limits(**LIMITS), clients=server.url)
    client, agent = FirstClient(server), Agent(controller)
    client.send(id="begun")
    assert agent.take()["id"] == "begun"
    server.stop()
    agent.finish("begun", data="ended while Redis was away")
    wait_until(lambda: outages(controller) == 1, what="the outage to be said")
    server.start()
    assert client.result("begun")["data"] == "ended while Redis was away"
    client.send(id="later")
    assert agent.take()["id"] == "later"
    agent.finish("later", starttime=2)
    assert client.result("later")["state"] == "SUCCESS"
    assert outages(controller) == 1
    assert len([line for line in controller.said if "can be used again" in line]) == 1


def outages(controller: LocalController) -> int:
    return len([line for line in controller.said if "cannot be used, commands and results wait" in line])


def test_a_redis_that_is_not_there_at_the_start_is_awaited(make_controller: Make, server: RedisServer) -> None:
    server.stop()
    controller = make_controller(clients=server.url)
    wait_until(lambda: outages(controller) == 1, what="the outage to be said")
    agent = Agent(controller)
    server.start()
    FirstClient(server).send(id="j")
    assert agent.take()["id"] == "j"


def test_a_redis_that_has_forgotten_all_is_told_what_there_is(make_controller: Make, server: RedisServer) -> None:
    controller = make_controller(Limits(**LIMITS), clients=server.url)
    client, agent = Client(server), Agent(controller)
    agent.poll().hang_up()
    for job_id in ("ended", "running", "queued"):
        client.send(id=job_id)
        client.await_queued(job_id)
        if job_id != "queued":
            agent.take()
    agent.finish("ended", data="kept")
    client.result("ended")
    server.client.flushall()
    assert client.result("ended")["data"] == "kept"
    wait_until(lambda: client.hash("queued"), what="all to be written again")
    assert [client.hash(job_id)["1:10"]["state"] for job_id in ("running", "queued")] == ["RUNNING", "QUEUED"]


def test_a_weak_server_is_named(make_controller: Make, tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--appendfsync", "everysec")
    controller = make_controller(clients=server.url)
    wait_until(lambda: any("may lose commands" in line for line in controller.said), what="the weakness to be said")
    server.stop()


def test_results_are_written_once_each_where_the_controller_starts_anew(
    make_controller: Make, server: RedisServer, tmp_path: Path
) -> None:
    client = FirstClient(server)
    controller = make_controller(state=tmp_path / "state", clients=server.url)
    client.send(id="j", args={"recurring_period": 1})
    agent = Agent(controller)
    agent.take()
    for number in (1, 2):
        agent.finish("j", starttime=number)
    wait_until(lambda: server.client.llen("cmds_queue_j") == 2, what="two results")
    controller.stop()
    assert not server.client.exists(HOLDER)  # so that the next need not wait
    controller = make_controller(state=tmp_path / "state", clients=server.url)
    Agent(controller).finish("j", starttime=3)
    wait_until(lambda: client.hash("j")["1:10"]["starttime"] == 3, what="the third result")
    found = [json.loads(text)["starttime"] for text in server.client.lrange("cmds_queue_j", 0, -1)]
    assert found == [1, 2, 3]


def test_one_controller_at_a_time_serves_them_and_another_takes_its_place(
    make_controller: Make, server: RedisServer, tmp_path: Path
) -> None:
    first = ControllerProcess(
        tmp_path, "--original-clients", server.url
    )  # a short lease might end while it stands still
    wait_until(lambda: server.client.exists(HOLDER), what="the first to serve them")
    second = make_controller(Limits(**LIMITS), clients=server.url)
    wait_until(lambda: any("another controller serves" in line for line in second.said), what="the second to wait")
    first.kill()
    agent = Agent(second)
    FirstClient(server).send(id="j")
    assert agent.take()["id"] == "j"
    assert any("this controller serves" in line for line in second.said)


def test_what_was_just_being_taken_when_a_controller_was_killed_is_taken_by_the_next(
    make_controller: Make, server: RedisServer
) -> None:
    """As it is between the two moves of an element."""
    client = FirstClient(server)
    server.client.rpush(TAKEN, json.dumps(client.command(id="j")))
    agent = Agent(make_controller(clients=server.url))
    assert agent.take()["id"] == "j"
    wait_until(lambda: not server.client.exists(TAKEN), what="it to be through")


def test_commands_survive_kills_of_the_controller_at_any_moment(server: RedisServer, tmp_path: Path) -> None:
    """Each is run by exactly one of its agents, which is told of it once, in order."""
    controller = ControllerProcess(
        tmp_path, "--original-clients", server.url, "--state", tmp_path / "state", limits={"clients_lease": 0.2}
    )
    client = FirstClient(server)
    sent = [f"j{number}" for number in range(300)]
    for number, job_id in enumerate(sent):
        client.send(id=job_id)
        if number % 60 == 30:
            wait_until(lambda least=number - 25: server.client.llen("joblog") > least, what="some to be taken")
            controller.kill()
            controller.start()
    wait_until(lambda: not server.client.exists("cmds_queue", TAKEN), what="all to be taken")
    taken = list(polled(controller, len(sent)))
    assert taken == sent
    logged = [json.loads(text)["id"] for text in server.client.lrange("joblog", 0, -1)]
    assert logged[::-1] == sent
    for job_id in sent:
        result = {"id": job_id, "state": "SUCCESS", "starttime": 1, "time": 1, "data": "", "level": 0}
        answer = plain().post(f"{controller.url}/1/10/result", json=result, timeout=60)
        assert answer.status_code == 200
    for job_id in sent:
        assert client.result(job_id)["state"] == "SUCCESS"
    assert not server.client.keys("cmds_queue_*")
    assert controller.stop() == 0


def polled(controller: ControllerProcess, many: int) -> Iterator[str]:
    """The ids of the commands that an original agent is given."""
    for _ in itertools.repeat(None, many):
        command = Poller(controller.url, 1, 10, user_agent="Go-http-client/1.1").command()
        assert command is not None
        yield command["id"]


def test_a_command_that_was_submitted_when_the_controller_was_killed_is_not_submitted_again(
    make_controller: Make, server: RedisServer, tmp_path: Path
) -> None:
    """As it is when a kill comes between the two: its number is there and so is its job."""
    client = FirstClient(server)
    controller = make_controller(Limits(**LIMITS), tmp_path / "state", clients=server.url)
    client.send(id="j")
    agent = Agent(controller)
    first = agent.take()
    queue, number = first["posting"].split(":")
    assert queue == "cmds_queue"
    wait_until(lambda: not server.client.exists(TAKEN), what="it to be through")
    controller.stop()
    server.client.set(NUMBER, number.replace(".", ":"))
    server.client.rpush(TAKEN, json.dumps(client.command(id="j")))
    server.client.delete("joblog", "jobresult:j")
    controller = make_controller(Limits(**LIMITS), tmp_path / "state", clients=server.url)
    wait_until(lambda: not server.client.exists(TAKEN), what="it to be through")
    assert server.client.llen("joblog") == 1
    assert client.hash("j")["1:10"]["state"] == "RUNNING"
    agent = Agent(controller)
    agent.finish("j")
    assert client.result("j")["state"] == "SUCCESS"
    assert [job["id"] for job in controller.get("jobs")["jobs"]] == ["j"]
    assert not agent.poll().over


def test_commands_that_wait_for_an_id_do_so_after_a_new_start(
    make_controller: Make, server: RedisServer, tmp_path: Path
) -> None:
    client = FirstClient(server)
    controller = make_controller(state=tmp_path / "state", clients=server.url)
    for number in range(3):
        client.send(id="j", data=str(number))
    wait_until(lambda: server.client.llen("greenagent:clients:cmds_queue:waiting") == 2, what="two to wait")
    assert Agent(controller).take()["data"] == "0"
    controller.stop()
    agent = Agent(make_controller(state=tmp_path / "state", clients=server.url))
    for number in range(3):
        agent.finish("j", starttime=number + 1)
        if number < 2:
            assert agent.take()["data"] == str(number + 1)
    assert [client.result("j")["starttime"] for _ in range(3)] == [1, 2, 3]


def test_tls_is_used_and_its_authority_looked_at(make_controller: Make, tmp_path: Path) -> None:
    authority = trustme.CA()
    chain, key = write_pair(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    port = str(reserve_port())
    files = ("--tls-cert-file", str(chain), "--tls-key-file", str(key), "--tls-ca-cert-file", str(chain))
    server = RedisServer(tmp_path, "--tls-port", port, "--tls-auth-clients", "no", *files)
    other = make_controller(clients=f"rediss://127.0.0.1:{port}")
    wait_until(lambda: outages(other), what="the unknown authority to be refused")
    trusted = write_authority(authority, tmp_path / "authority.crt")
    controller = make_controller(clients=f"rediss://127.0.0.1:{port}?ssl_ca_certs={trusted}")
    FirstClient(server).send(id="j")
    assert Agent(controller).take()["id"] == "j"
    server.stop()


@pytest.mark.parametrize("way", ["password", "socket"])
def test_a_password_and_a_socket_are_used_and_no_password_is_said(
    make_controller: Make, tmp_path: Path, way: str
) -> None:
    server = RedisServer(tmp_path, password="secret" if way == "password" else "")
    controller = make_controller(clients=server.url if way == "password" else f"unix://{server.socket}")
    FirstClient(server).send(id="j")
    assert Agent(controller).take()["id"] == "j"
    server.stop(signal.SIGTERM)
    wait_until(lambda: outages(controller), what="the outage to be said")
    assert not [line for line in controller.said if "secret" in line]
