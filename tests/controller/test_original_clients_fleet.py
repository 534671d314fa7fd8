"""Original clients in front of several processes of one controller (docs/originals.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.controllers import ControllerProcess
from tests.support.local_controller import Poller, plain
from tests.support.original_clients import Client, FirstClient
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

TAKEN = "greenagent:clients:cmds_queue:taken"
HOLDER = "greenagent:clients:holder"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path)
    yield started
    started.stop()


@pytest.fixture
def processes(server: RedisServer, tmp_path: Path) -> Iterator[list[ControllerProcess]]:
    """Two of them; the first one serves the clients."""
    options = ("--redis", server.url, "--original-clients", server.url)
    started = [ControllerProcess(tmp_path, *options, limits={"clients_lease": 1.0})]
    wait_until(lambda: server.client.exists(HOLDER), what="the first to serve them")
    started.append(ControllerProcess(tmp_path, *options, limits={"clients_lease": 1.0}))
    yield started
    for one in started:
        one.kill()


def take(process: ControllerProcess, nid: int = 10) -> str:
    """Polls as an original agent; the id of what it is given."""
    command = Poller(process.url, 1, nid, user_agent="Go-http-client/1.1").command()
    assert command is not None
    return str(command["id"])


def finish(process: ControllerProcess, job_id: str, nid: int = 10) -> None:
    result = {"id": job_id, "state": "SUCCESS", "starttime": 1, "time": 1, "data": "", "level": 0, "cmd": "execute"}
    assert plain().post(f"{process.url}/1/{nid}/result", json=result, timeout=60).status_code == 200


def test_an_agent_of_one_process_serves_clients_of_another(
    server: RedisServer, processes: list[ControllerProcess]
) -> None:
    client, polled = Client(server), processes[1]
    poll = Poller(polled.url, 1, 10, user_agent="Go-http-client/1.1")
    wait_until(lambda: "1:10" in processes[0].live(), what="the agent to be live")
    job_id = client.send()
    assert set(client.await_queued(job_id)) == {"1:10"}
    command = poll.command()
    assert command is not None
    assert command["id"] == job_id
    wait_until(lambda: client.hash(job_id)["1:10"]["state"] == "RUNNING", what="the placeholder")
    finish(polled, job_id)
    assert client.result(job_id)["state"] == "SUCCESS"


def test_kills_of_the_process_that_serves_them_lose_and_repeat_no_command(
    server: RedisServer, processes: list[ControllerProcess]
) -> None:
    client = FirstClient(server)
    sent = [f"j{number}" for number in range(200)]
    for number, job_id in enumerate(sent):
        client.send(id=job_id)
        if number % 50 == 25:
            wait_until(lambda least=number - 20: server.client.llen("joblog") > least, what="some to be taken")
            served = processes[(number // 50) % 2]
            served.kill()
            served.start()
            other = processes[(number // 50 + 1) % 2]
            wait_until(lambda: server.client.exists(HOLDER), what=f"{other.url} to serve them")
    wait_until(lambda: not server.client.exists("cmds_queue", TAKEN), what="all to be taken")
    assert [take(processes[number % 2]) for number in range(len(sent))] == sent
    assert [json.loads(text)["id"] for text in server.client.lrange("joblog", 0, -1)][::-1] == sent
    for job_id in sent:
        finish(processes[0], job_id)
    for job_id in sent:
        assert client.result(job_id)["state"] == "SUCCESS"
    assert not server.client.keys("cmds_queue_*")
