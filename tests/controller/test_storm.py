"""After a storm of everything at once, memory and the state file agree, and every result counts once."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import gevent
import pytest
import requests

from greenagent.controller.limits import Limits
from tests.support.local_controller import LocalController, plain
from tests.support.waiting import wait_until

AGENTS = range(10, 14)
JOBS = 60


class StormAgent:
    """Polls, sometimes hangs up on a command, runs each command once and sends its result up to three times."""

    def __init__(self, url: str, nid: int, seed: int) -> None:
        self._url = f"{url}/1/{nid}"
        self._random = random.Random(f"{seed} {nid}")
        self.ran: Counter[str] = Counter()
        self.is_stopping = False
        self.greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        session = plain()
        token = ""
        while not self.is_stopping:
            headers = {"Greenagent-Acknowledge": token, "Greenagent-Free-Slots": str(self._random.choice([0, 1, 5]))}
            try:
                patience = self._random.choice([0.01, 0.05, 1])
                answer = session.get(f"{self._url}/cmd", params={"role": "web"}, headers=headers, timeout=patience)
            except requests.RequestException:
                session.close()
                session = plain()
                continue
            if not answer.text:
                continue
            command = answer.json()
            token = answer.headers["Greenagent-Delivery"]
            if command["id"] in self.ran:
                continue  # offered again, since the poll that brought it was given up
            self.ran[command["id"]] += 1
            result = {"id": command["id"], "state": "SUCCESS", "starttime": 5, "data": command["id"]}
            for _ in range(self._random.choice([1, 1, 3])):
                gevent.spawn(plain().post, f"{self._url}/result", data=json.dumps(result), timeout=60)


@pytest.mark.parametrize("seed", range(2))
def test_memory_and_state_file_agree_after_a_storm(make_controller, tmp_path, seed) -> None:
    state = tmp_path / "state.db"
    limits = Limits(full_poll=0.05, live=30)
    controller = make_controller(limits, state=state)
    agents = [StormAgent(controller.url, nid, seed) for nid in AGENTS]
    wait_until(lambda: len(controller.live()) == len(AGENTS), what="the agents to poll")
    chosen = random.Random(seed)

    def post(number: int) -> None:
        whom: dict[str, Any] = chosen.choice(
            [{"gid": 1, "nid": chosen.choice(AGENTS)}, {"roles": ["web"]}, {"roles": ["web"], "fanout": True}]
        )
        kills = chosen.random() < 0.2
        controller.submit(id=f"job {number}", **whom)
        if kills:
            controller.post(f"jobs/job%20{number}/kill", {})

    gevent.joinall([gevent.spawn(post, number) for number in range(JOBS)], timeout=60, raise_error=True)
    wait_until(lambda: not controller.services.jobs.unfinished, timeout=60, what="all jobs to end")
    for agent in agents:
        agent.is_stopping = True
    gevent.joinall([agent.greenlet for agent in agents], timeout=60, raise_error=True)
    assert not [text for text in controller.said if "two polls" not in text]
    live = everything(controller)
    for job in live.values():
        assert [(one["results"], one["state"] in ("SUCCESS", "KILLED")) for one in job["agents"]] == [
            (1, True) for _ in job["agents"]
        ], job
        assert job["earlier"] == []
    controller.stop()
    assert everything(make_controller(limits, state=state)) == live
    for nid, agent in zip(AGENTS, agents, strict=True):
        given = {
            job_id
            for job_id, job in live.items()
            for one in job["agents"]
            if one["nid"] == nid and one["state"] == "SUCCESS"
        }
        assert given == set(agent.ran)


def everything(controller: LocalController) -> dict[str, Any]:
    return {job.id: json.loads("".join(job.full())) for job in controller.services.jobs.newest()}
