"""What the three uploaders have in common: work, wait, back off, stop within a time budget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from gevent.event import Event

from greenagent.runtime.interrupt import Interrupted, Interruptible
from greenagent.uplink.backoff import Backoff
from greenagent.uplink.delivery import Trouble
from greenagent.uplink.health import ControllerHealth
from greenagent.uplink.http import TIMEOUT_MARGIN, HttpClient

UNDER_WAY = 2.0
"""Seconds that requests get which are under way when a link ends and another goes on in its place."""
DRAIN_TRIES = 2
"""While stopping, troubles after which the rest stays on disk until the next start."""


class Sender(ABC):
    """Body of a service that posts what a store holds; subclasses say what and how."""

    def __init__(self, part: str, client: HttpClient, health: ControllerHealth, backoff: Backoff | None) -> None:
        """``part`` names the work in what is said about the controller."""
        self.heartbeat = client.heartbeat
        self._part = part
        self._client = client
        self._health = health
        self._backoff = backoff or Backoff()
        self._stopping = Event()
        self._finished = Event()
        self._running = False
        self._out_of_time = False
        self._waiting = Interruptible()

    def run(self) -> None:
        """Sends until ``stop``; what is not accepted stays in the store, whatever happens."""
        self._finished.clear()
        self._running = True
        try:
            self._serve()
        finally:
            self._running = False
            self._finished.set()

    def stop(self, drain_timeout: float = 0.0, under_way: float = 0.0) -> None:
        """Sends what waits for at most ``drain_timeout`` seconds, then ends ``run``; returns when it has ended.

        With ``under_way`` nothing new is sent, but a request that has begun gets so many seconds to be
        answered: called off, it would go out once more.
        """
        self._stopping.set()
        self._waiting.interrupt()
        if under_way:
            self._out_of_time = True
        if self._running and not self._finished.wait(drain_timeout + under_way):
            self._out_of_time = True
            self._abort()
            self._finished.wait(1.0)

    @abstractmethod
    def _wait_for_work(self) -> None:
        """Waits until there may be something to send; may be interrupted anywhere."""

    @abstractmethod
    def _send_some(self) -> bool:
        """Sends a bounded amount; True when more may be waiting. Raises Trouble."""

    def _abort(self) -> None:
        """Ends the requests under way."""
        self._client.abort()

    def _serve(self) -> None:
        troubles = 0
        while not self._out_of_time:
            self.heartbeat.expect_within(TIMEOUT_MARGIN, "reading what waits")
            try:
                more = self._send_some()
            except Trouble as trouble:
                troubles += 1
                self._health.failed(self._part, trouble.reason, trouble.hint)
                if self._stopping.is_set() and troubles >= DRAIN_TRIES:
                    return
                self._pause(self._backoff.next(trouble.retry_after))
                continue
            troubles = 0
            if not more:
                if self._stopping.is_set():
                    return
                self._interruptibly(self._wait_for_work)

    def _success(self) -> None:
        self._backoff.reset()
        self._health.worked(self._part)

    def _pause(self, seconds: float) -> None:
        """Waits, but not once it is time to stop."""
        self.heartbeat.expect_within(seconds + TIMEOUT_MARGIN, "waiting")
        self._stopping.wait(seconds)

    def _interruptibly(self, wait: Callable[[], None]) -> None:
        self.heartbeat.clear()
        try:
            with self._waiting:
                wait()
        except Interrupted:
            pass
