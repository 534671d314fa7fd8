"""What was asked about the agent's end: by signals, commands and its own watchdog."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import gevent
from gevent.event import AsyncResult, Event

from greenagent.jobs.job import Job
from greenagent.process.child import end

EXIT: Final = "exit"
RESTART: Final = "restart"
REBOOT: Final = "reboot"
DRAIN: Final = "drain"

_STRENGTH: Final = ("", DRAIN, EXIT, REBOOT)
"""Of what is asked while the agent is being replaced, the last of these is done."""

LAST_KILL: Final = 5.0
"""Seconds for what is killed without grace at the agent's end."""

LAST_COMMAND: Final = 10.0
"""Seconds for what controllers have begun to hand over when the agent is replaced."""


class ShutdownRequests:
    """Who waits for the agent's end learns how it shall be; who asks again skips what is left of the waiting."""

    def __init__(self) -> None:
        self._asked: AsyncResult = AsyncResult()
        self.asked_meanwhile = ""
        """What was asked while the agent was being replaced."""
        self._skip_waiting = Event()

    def ask(self, how: str = EXIT) -> None:
        """Ends ``wait``; EXIT asked again skips the rest of the waiting.

        What is asked while the agent is being replaced holds for the one that goes on.
        """
        if not self._asked.ready():
            self._asked.set(how)
        elif self._asked.value == RESTART:
            if how in _STRENGTH and _STRENGTH.index(how) > _STRENGTH.index(self.asked_meanwhile):
                self.asked_meanwhile = how
        elif how == EXIT:
            self._skip_waiting.set()

    def wait(self) -> str:
        """Returns how the agent shall end, once somebody asked for it."""
        how: str = self._asked.get()
        return how

    @property
    def is_to_end(self) -> bool:
        """True when an end was asked for while the agent was being replaced."""
        return bool(self.asked_meanwhile)

    def call_off_replacement(self) -> None:
        """The agent goes on as it is; what was asked in the meantime is asked now."""
        self._asked = AsyncResult()
        if self.asked_meanwhile:
            self._asked.set(self.asked_meanwhile)
        self.asked_meanwhile = ""

    def wait_again(self) -> None:
        """What is waited for from now on is to be skipped by a request of its own."""
        self._skip_waiting.clear()

    def wait_for(self, events: Iterable[Any], seconds: float | None) -> None:
        """Waits for all of them, until the time is over or somebody asks again."""
        waiter = gevent.spawn(gevent.wait, list(events), seconds)
        gevent.wait([waiter, self._skip_waiting], count=1)
        waiter.kill()


def end_at_once(jobs: Sequence[Job]) -> None:
    """The waiting was skipped or in vain: no grace any more, but still no process is left behind."""
    kills = [gevent.spawn(end, job.child, 0) for job in jobs if job.child is not None]
    gevent.joinall(kills, timeout=LAST_KILL)
    gevent.wait([job.ended for job in jobs], timeout=LAST_KILL)
