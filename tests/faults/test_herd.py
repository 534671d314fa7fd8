"""Many agents whose controller comes back do not come in step."""

from __future__ import annotations

import time
from contextlib import ExitStack

from greenagent.uplink.health import Backoff
from tests.support.recording_controller import RecordingController
from tests.support.uplink import Uplink, running
from tests.support.waiting import wait_until

AGENTS = 300
STEP = 0.1
"""Seconds in which no more than a part of them may come."""


def test_after_an_outage_hundreds_of_agents_come_back_spread_out() -> None:
    with RecordingController() as controller, ExitStack() as stack:
        pollers = [Uplink(controller.url).poller(backoff=Backoff())[0] for _ in range(AGENTS)]
        for poller in pollers:
            stack.enter_context(running(poller))
        wait_until(lambda: len(controller.polls) >= AGENTS, 30, "all of them")
        controller.stop()
        wait_until(lambda: all(poller.metrics.poll_errors >= 3 for poller in pollers), 30, "three failures of each")
        seen = len(controller.polls)
        controller.start()
        back = time.monotonic()
        wait_until(lambda: len(controller.polls) - seen >= AGENTS, 60, "all of them again")
        arrivals = sorted(poll.at - back for poll in controller.polls[seen : seen + AGENTS])
        assert sum(at < STEP for at in arrivals) < AGENTS / 4, "a herd at the first moment"
        most = max(sum(begin <= at < begin + STEP for at in arrivals) for begin in arrivals)
        assert most < AGENTS / 3, "a herd later"
        assert arrivals[-1] > 1, "they are spread over seconds"
        wait_until(lambda: len(controller.events) >= 2 * AGENTS, what="each to say that it is there again")
