"""A service's promise to be back by a deadline: how a watchdog tells stuck from busy."""

from __future__ import annotations

import time


class Heartbeat:
    """Set by a service, read by the watchdog; both on the hub."""

    def __init__(self) -> None:
        self.activity = ""
        """What the service is doing, in words for people."""
        self._deadline: float | None = None

    def expect_within(self, seconds: float, activity: str) -> None:
        """``activity`` ends within ``seconds``; a service that takes longer is stuck."""
        self._deadline = time.monotonic() + seconds
        self.activity = activity

    def clear(self) -> None:
        """The service waits for something that may never come, and is not stuck while it does."""
        self._deadline = None
        self.activity = ""

    def follow(self, other: Heartbeat) -> None:
        """The service waits for the one behind ``other``: takes over its deadline and activity."""
        self._deadline = other._deadline
        self.activity = other.activity

    def postpone(self, seconds: float) -> None:
        """Moves the deadline: the whole process stood still for ``seconds``."""
        if self._deadline is not None:
            self._deadline += seconds

    @property
    def overdue(self) -> float:
        """Seconds past the deadline; 0 when all is well."""
        return 0.0 if self._deadline is None else max(0.0, time.monotonic() - self._deadline)
