"""``101::PID`` messages of one run: whom they name, and how much is said and looked up for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from greenagent.process.child import Child

MAX_LOOKED_UP: Final = 200
"""Processes looked up in a second: each costs a walk through /proc."""
MAX_REPORTED: Final = 10
"""Refusals said one by one in a run; further ones are counted."""
_PERIOD: Final = 1.0


class Announcements:
    """Gives the processes a job announces to its child. A flood of them costs little and says little.

    A process is looked up once in a second, however often it is named: it may become the job's later.
    """

    def __init__(self, child: Child, say: Callable[[str], None]) -> None:
        """``say`` puts a warning into the job's own log."""
        self._child = child
        self._say = say
        self._said: set[int | str] = set()
        self._unsaid = 0
        self._passed_over = 0
        self._period_ends = 0.0
        self._looked_up: dict[int, bool] = {}

    def take(self, text: str) -> None:
        """The text of one message."""
        if not (text.isascii() and text.strip().isdigit()) or len(text) > 10:
            self._refuse(text[:40], f"101::{text[:40]} names no process and is left out")
            return
        pid = int(text)
        now = time.monotonic()
        if now >= self._period_ends:
            self._period_ends = now + _PERIOD
            self._looked_up.clear()
        believed = self._looked_up.get(pid)
        if believed is None:
            if len(self._looked_up) >= MAX_LOOKED_UP:
                self._passed_over += 1
                return
            believed = self._looked_up[pid] = self._child.tree.announce(pid)
        if not believed:
            self._refuse(pid, f"process {pid} is not one of this job's and is left alone")

    def end(self) -> None:
        """The run is over, or goes on in another image: says what was only counted."""
        if self._unsaid:
            self._say(f"{self._unsaid} more 101:: lines named no process of this job")
        if self._passed_over:
            self._say(
                f"{self._passed_over} 101:: lines were not looked at: "
                f"more than {MAX_LOOKED_UP} processes were announced in a second"
            )
        self._unsaid = self._passed_over = 0

    def _refuse(self, key: int | str, text: str) -> None:
        if key in self._said or len(self._said) >= MAX_REPORTED:
            self._unsaid += 1
            return
        self._said.add(key)
        self._say(text)
