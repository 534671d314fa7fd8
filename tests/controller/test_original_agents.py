"""Original agents: the end of an idle poll (protocol 1.3 and 13.1, defect 5), and statistics of the earliest."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

import gevent
import pytest

from greenagent.controller.limits import Limits
from tests.support.local_controller import ORIGINAL, Agent, LocalController
from tests.support.originals import PATIENCE, OriginalAgent
from tests.support.waiting import wait_until

SCALE = 25
"""The test goes so many times as fast as originals do."""
AGENTS = 16
COMMANDS = 48
NEAR = 0.003
"""Seconds around a boundary within which commands are posted."""


@pytest.fixture
def agents(make_controller: Callable[..., LocalController]) -> Iterator[list[OriginalAgent]]:
    """Agents that give up a poll, and a controller that answers it, after times in the ratio of the real ones."""
    controller = make_controller(Limits(poll=Limits().poll / SCALE))
    started = [OriginalAgent(controller, nid=nid, patience=PATIENCE / SCALE) for nid in range(1, AGENTS + 1)]
    yield started
    for one in started:
        one.stop()


def test_no_command_is_lost_at_the_end_of_an_idle_poll(agents: list[OriginalAgent]) -> None:
    """Half of them where the controller ends the poll, half where the agent would give it up; each runs once."""
    controller = agents[0].agent.controller

    def post_at(agent: OriginalAgent, after: float, number: int) -> None:
        """Posts a command so long after a poll has begun, on a connection that is open already."""
        known = controller.services.agents.get((1, agent.agent.nid))
        last = known.parked[-1] if known.parked else None
        poll = wait_until(lambda: known.parked and known.parked[-1] is not last and known.parked[-1], interval=0.001)
        time.sleep(max(0.0, poll.arrived + after - time.monotonic()))
        controller.submit(id=f"job {number}", gid=1, nid=agent.agent.nid, cmd="ping")

    def post_some(which: int) -> None:
        for number in range(which, COMMANDS, AGENTS):
            boundary = (Limits().poll if number < COMMANDS / 2 else PATIENCE) / SCALE
            place = number % (COMMANDS // 2) / (COMMANDS / 2 - 1)  # from 0 to 1
            post_at(agents[which], boundary + NEAR * (2 * place - 1), number)

    gevent.joinall([gevent.spawn(post_some, which) for which in range(AGENTS)], raise_error=True)
    jobs = [f"job {number}" for number in range(COMMANDS)]
    wait_until(lambda: {controller.state(job) for job in jobs} == {"SUCCESS"}, what="the end of all jobs")
    taken = Counter(command["id"] for agent in agents for command in agent.commands)
    assert taken == Counter(jobs)
    assert not any(agent.given_up for agent in agents)


def test_a_flush_object_without_a_list_is_taken(controller: LocalController) -> None:
    """So original agents of before 21 September 2015 post each one."""
    agent = Agent(controller, user_agent=ORIGINAL)
    assert agent.post("stats", {"timestamp": 60, "series": [["1.10.web.crawl.cpu", 7]]}).text == '"ok"'
    [shown] = controller.get("stats")["agents"]
    assert shown["figures"] == {"1.10.web.crawl.cpu": {"timestamp": 60, "value": 7.0, "interval": None}}
