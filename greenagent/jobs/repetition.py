"""What follows a run: the end, a restart, or the next period (protocol 5.3, 5.4; design, section 5)."""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

from greenagent.values import states

LONG_LIFE: Final = 300.0
"""Seconds: a run that lived longer forgives the restarts before it."""
FIRST_DELAY: Final = 1.0
MAX_DELAY: Final = 30.0


class Next(Enum):
    END = "end"
    RESTART = "restart"
    RECUR = "recur"


class Step(NamedTuple):
    """What to do after a run: whether its result is reported, what comes next, after how many seconds.

    ``gave_up`` is true when the restart limit was reached just now.
    """

    report: bool
    next: Next
    delay: float = 0.0
    gave_up: bool = False


class Repetition:
    """Counts the restarts of one job and decides about each run that ended."""

    def __init__(
        self, max_restart: int, recurring_period: int, jitter: Callable[[], float] = random.random, restarts: int = 0
    ) -> None:
        self._max_restart = max_restart
        self._period = recurring_period
        self._jitter = jitter
        self.restarts = restarts

    def after(self, state: str, lived: float, has_result: bool, can_restart: bool = True) -> Step:
        """Decides after a run that ended in ``state`` and lived ``lived`` seconds.

        ``can_restart`` is false when the executable is missing. Killed runs are not for this
        method: a killed job ends.
        """
        if lived > LONG_LIFE:
            self.restarts = 0
        failed = state != states.SUCCESS
        gave_up = False
        if failed and self._max_restart and can_restart:
            if self.restarts < self._max_restart:
                self.restarts += 1
                return Step(report=False, next=Next.RESTART, delay=self._restart_delay())
            gave_up = True
        if self._period:
            self.restarts = 0
            return Step(report=failed or has_result, next=Next.RECUR, delay=self._period, gave_up=gave_up)
        return Step(report=True, next=Next.END, gave_up=gave_up)

    def _restart_delay(self) -> float:
        """1 s, then doubling with jitter up to 30 s."""
        if self.restarts <= 1:
            return FIRST_DELAY
        longest = min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(self.restarts - 1, 10))
        return longest / 2 + longest / 2 * self._jitter()
