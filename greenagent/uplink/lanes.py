"""More connections to one controller, for a backlog of results that a slow round trip would hold up.

The wire takes one result a request (protocol 1.2): over a line of 50 ms that is 20 a second. More
connections are only taken while the controller accepts all, and given back with the backlog.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import gevent

from greenagent.uplink.delivery import Trouble
from greenagent.uplink.http import HttpClient
from greenagent.values.result import PendingResult

MOST: Final = 4
"""Connections at a time: with ten thousand agents that come back at once these are forty thousand."""
ENOUGH: Final = 8
"""Posts accepted one after the other before there are more at a time, and posts that must wait for that."""
SLOW: Final = 0.005
"""Seconds that these took at the least, each: more connections are no help where the answers come at once."""

Send = Callable[[PendingResult, HttpClient], None]


class Lanes:
    """Sends results over ``first`` and, where that is worth it, over clients that ``another`` makes."""

    def __init__(self, first: HttpClient, another: Callable[[], HttpClient]) -> None:
        self._first = first
        self._another = another
        self._others: list[HttpClient] = []
        self._times: deque[float] = deque(maxlen=ENOUGH)

    def accepted(self, seconds: float) -> None:
        """A post took so long and was accepted."""
        self._times.append(seconds)

    def refused(self) -> None:
        """A post was not accepted: one at a time from now on, until enough are again."""
        self._times.clear()

    def are_worth(self, waiting: int) -> bool:
        """Whether ``waiting`` results should go over more than one connection."""
        return waiting >= ENOUGH and len(self._times) == ENOUGH and min(self._times) >= SLOW

    def send(self, results: Sequence[PendingResult], send: Send) -> None:
        """Calls ``send`` for each, those of one job in their order; raises what one raised once all connections rest.

        What was not begun by then is left.
        """
        jobs: dict[str, deque[PendingResult]] = {}
        for pending in results:
            jobs.setdefault(pending.id, deque()).append(pending)
        waiting = deque(jobs.values())
        raised: list[BaseException] = []

        def work(client: HttpClient) -> None:
            try:
                while waiting and not raised:
                    job = waiting.popleft()
                    while job and not raised:
                        send(job.popleft(), client)
            except BaseException as error:  # for the sender, whose greenlet knows what to do with it
                raised.append(error)

        while len(self._others) < MOST - 1:
            self._others.append(self._another())
        workers = [gevent.spawn(work, client) for client in self._others[: len(waiting) - 1]]
        try:
            work(self._first)
            for client, worker in zip(self._others, workers, strict=False):
                while not worker.ready():
                    self._first.heartbeat.follow(client.heartbeat)
                    worker.join(1.0)
        finally:
            gevent.killall(workers)
        for error in raised:
            if not isinstance(error, Trouble):
                raise error
        if raised:
            raise raised[0]

    def abort(self) -> None:
        """Ends the requests under way on all but the first."""
        for client in self._others:
            client.abort()

    def close(self) -> None:
        """Closes all but the first; they are opened again when they are needed."""
        for client in self._others:
            client.close()
