"""Many agents whose controller comes back do not come in step."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

from greenagent.uplink.health import Backoff
from tests.support.recording_controller import RecordingController
from tests.support.uplink import Uplink, running
from tests.support.waiting import wait_until

AGENTS = 300
STEP = 0.1
"""Seconds in which no more than a part of them may come."""


class NotedBackoff(Backoff):
    """Keeps when the next try is due: on a busy machine all that were due for a while come at once."""

    due = 0.0

    def next(self, *arguments: Any, **options: Any) -> float:
        delay = super().next(*arguments, **options)
        self.due = time.monotonic() + delay
        return delay


def test_after_an_outage_hundreds_of_agents_come_back_spread_out() -> None:
    with RecordingController() as controller, ExitStack() as stack:
        pauses = [NotedBackoff() for _ in range(AGENTS)]
        pollers = [Uplink(controller.url).poller(backoff=backoff)[0] for backoff in pauses]
        for poller in pollers:
            stack.enter_context(running(poller))
        wait_until(lambda: len(controller.polls) >= AGENTS, 30, "all of them")
        controller.stop()
        wait_until(lambda: all(poller.metrics.poll_errors >= 3 for poller in pollers), 30, "three failures of each")
        seen = len(controller.polls)
        controller.start()
        wait_until(lambda: len(controller.polls) - seen >= AGENTS, 60, "all of them again")
        due = sorted(backoff.due for backoff in pauses)
        most = max(sum(begin <= at < begin + STEP for at in due) for begin in due)
        assert most < AGENTS / 4, "a herd"
        assert due[-1] - due[0] > 1, "they are spread over seconds"
        arrivals = sorted(poll.at for poll in controller.polls[seen : seen + AGENTS])
        assert all(came >= wanted - STEP for came, wanted in zip(arrivals, due, strict=True)), "none comes early"
        wait_until(lambda: len(controller.events) >= 2 * AGENTS, what="each to say that it is there again")
