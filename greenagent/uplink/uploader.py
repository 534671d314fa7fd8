"""Posts what one source holds for one controller: wait, take, post, and back off while the controller is away.

Results, each log pair and statistics have an uploader each, with a connection of its own: a backlog
of one holds up no other.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable

import gevent
from gevent.event import Event

from greenagent.runtime.greenlets import Interrupted, Interruptible
from greenagent.uplink.delivery import PROBE_PAUSE, Batch, ControllerUnavailable, Delivery
from greenagent.uplink.health import Backoff, ControllerHealth
from greenagent.uplink.http import TIMEOUT_MARGIN, HttpClient
from greenagent.uplink.sources import Source
from greenagent.values.errors import GreenagentError

UNDER_WAY_TIMEOUT = 2.0
"""Seconds that requests get which are under way when a link ends and another goes on in its place."""
DRAIN_TRIES = 2
"""While stopping, failures after which the rest stays on disk until the next start."""
MAX_CONNECTIONS = 4
"""For a backlog of independent batches: with ten thousand agents that come back at once these are forty thousand."""
PARALLEL_FROM = 8
"""Batches that must have been accepted in a row, and that must be waiting, before several go out at a time."""
SLOW_ANSWER = 0.005
"""Seconds that each of these took or more: further connections are no help where the answers come at once."""


class Uploader:
    """Body of a service that delivers one source. What is not accepted stays in the source, whatever happens."""

    def __init__(
        self,
        source: Source,
        connect: Callable[[], HttpClient],
        health: ControllerHealth,
        *,
        backoff: Backoff | None = None,
        probe_pause: float = PROBE_PAUSE,
    ) -> None:
        """``connect`` makes a client with a connection of its own; ``probe_pause`` is in seconds."""
        self._source = source
        self._connect = connect
        self._client = connect()
        self._others: list[HttpClient] = []
        self.heartbeat = self._client.heartbeat
        self._health = health
        self._backoff = backoff or Backoff()
        self._delivery = Delivery(source.part, health, self._accepted, self._pause, probe_pause)
        self._times: deque[float] = deque(maxlen=PARALLEL_FROM)
        """Seconds that the last batches took, all of them accepted."""
        self._stopping = Event()
        self._finished = Event()
        self._is_running = False
        self._is_out_of_time = False
        self._is_due = True
        """True when something goes out without waiting for more: what an earlier run left, or must be sent again."""
        self._waiting = Interruptible()

    def run(self) -> None:
        """Uploads until ``stop``."""
        self._finished.clear()
        self._is_running = True
        try:
            self._serve()
        finally:
            self._is_running = False
            self._finished.set()

    def stop(self, drain_timeout: float = 0.0, under_way: float = 0.0) -> None:
        """Sends what waits for at most ``drain_timeout`` seconds, then ends ``run``; returns when it has ended.

        With ``under_way`` nothing new is sent, but a request that has begun gets this many seconds to be
        answered: called off, it would go out once more.
        """
        self._stopping.set()
        self._waiting.interrupt()
        if under_way:
            self._is_out_of_time = True
        if self._is_running and not self._finished.wait(drain_timeout + under_way):
            self._is_out_of_time = True
            for client in (self._client, *self._others):
                client.abort()
            self._finished.wait(1.0)

    def _serve(self) -> None:
        failures = 0
        while not self._is_out_of_time:
            if not self._is_due and not self._stopping.is_set():
                self._wait()
            self.heartbeat.expect_within(TIMEOUT_MARGIN, "reading what waits")
            try:
                found = self._upload()
            except ControllerUnavailable as failure:
                failures += 1
                self._source.failed()
                self._times.clear()
                self._close_others()
                self._health.failed(self._source.part, failure.reason, failure.hint)
                if self._stopping.is_set() and failures >= DRAIN_TRIES:
                    return
                self._pause(self._backoff.next(failure.retry_after))
                self._is_due = True
                continue
            failures = 0
            if not found and self._stopping.is_set():
                return

    def _wait(self) -> None:
        self.heartbeat.clear()
        try:
            with self._waiting:
                self._source.wait()
        except Interrupted:
            pass

    def _upload(self) -> bool:
        """Sends what the source gives now; False when that is nothing."""
        self._is_due = False
        try:
            batches = deque(self._source.next())
        except (GreenagentError, sqlite3.Error) as error:
            # Whatever the databases are like: the agent lives, and everything stays where it is.
            raise ControllerUnavailable(f"nothing can be sent: {error}") from error
        if not batches:
            self._source.settle()
            self._close_others()
            return False
        try:
            while batches and not self._is_out_of_time:
                if len(batches) >= PARALLEL_FROM and self._answers_are_slow():
                    self._deliver_in_parallel(batches)
                else:
                    self._deliver(batches.popleft(), self._client)
        finally:
            self._source.settle()
        return True

    def _answers_are_slow(self) -> bool:
        return len(self._times) == PARALLEL_FROM and min(self._times) >= SLOW_ANSWER

    def _deliver(self, batch: Batch, client: HttpClient) -> None:
        began = time.monotonic()
        if self._delivery.deliver(batch, client):
            self._times.append(time.monotonic() - began)
        else:
            self._times.clear()
            self._is_due = True

    def _deliver_in_parallel(self, batches: deque[Batch]) -> None:
        """Over more connections; raises what one raised once all of them rest. What was not begun by then is left."""
        raised: list[BaseException] = []

        def work(client: HttpClient) -> None:
            try:
                while batches and not raised and not self._is_out_of_time:
                    self._deliver(batches.popleft(), client)
            except BaseException as error:  # for the uploader, whose greenlet knows what to do with it
                raised.append(error)

        while len(self._others) < MAX_CONNECTIONS - 1:
            self._others.append(self._connect())
        workers = [gevent.spawn(work, client) for client in self._others[: len(batches) - 1]]
        try:
            work(self._client)
            for client, worker in zip(self._others, workers, strict=False):
                while not worker.ready():
                    self.heartbeat.follow(client.heartbeat)
                    worker.join(1.0)
        finally:
            gevent.killall(workers)
        if raised:
            raise next((error for error in raised if not isinstance(error, ControllerUnavailable)), raised[0])

    def _accepted(self, records: int) -> None:
        self._source.accepted(records)
        if self._source.vouches:
            self._health.accepted()
        self._health.worked(self._source.part)
        self._health.answered.set()
        self._backoff.reset()

    def _close_others(self) -> None:
        """They are opened again when they are needed."""
        for client in self._others:
            client.close()

    def _pause(self, seconds: float) -> None:
        """Waits, but not once it is time to stop."""
        self.heartbeat.expect_within(seconds + TIMEOUT_MARGIN, "waiting")
        self._stopping.wait(seconds)
