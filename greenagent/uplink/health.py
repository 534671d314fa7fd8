"""How one controller does, as its poller and uploaders see it (each problem is logged once), and when to try again."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from gevent.event import Event

from greenagent.runtime.agent_log import AgentLog
from greenagent.uplink.answer import MAX_RETRY_AFTER
from greenagent.uplink.proxy import proxy_variable
from greenagent.values.text import hide_passwords

REPEAT_AFTER = 60.0
"""Seconds in which a reason that comes back is not logged again: an answer that flaps must not fill the log."""


@dataclass(slots=True)
class UplinkMetrics:
    """Counters that only rise, from the start of the agent."""

    polls: int = 0
    poll_errors: int = 0
    commands: int = 0
    commands_refused: int = 0
    results_sent: int = 0
    result_errors: int = 0
    log_batches_sent: int = 0
    log_lines_sent: int = 0
    log_errors: int = 0
    statistics_sent: int = 0
    statistics_errors: int = 0
    set_aside: int = 0
    rejected: int = 0
    """Records that a sink left out of batches it took, without telling which."""


class ControllerHealth:
    """Shared by everything that talks to one controller, or to one sink."""

    def __init__(self, key: str, url: str, agent_log: AgentLog, *, is_sink: bool = False) -> None:
        self.key = key
        self.last_contact: float | None = None
        """Monotonic time of the last usable answer to a poll; None before the first."""
        self.last_contact_wall: float | None = None
        """The same as seconds since 1970."""
        self.last_acceptance: float | None = None
        """Monotonic time of the last result or log batch that was accepted."""
        self.takes: frozenset[str] = frozenset()
        """What it said it takes: of ``changes.HEADERS``."""
        self.is_polled = False
        """True where commands are asked for."""
        self.answered = Event()
        """Set when anything that was posted is accepted; whoever waits for the controller to come back clears it."""
        way = f", through the proxy of {variable}" if (variable := proxy_variable(url)) else ""
        self.is_sink = is_sink
        self._name = f"{'sink' if is_sink else 'controller'} {key} ({hide_passwords(url)}{way})"
        self._agent_log = agent_log
        self._reasons: dict[str, str] = {}
        self._logged: dict[str, float] = {}
        self._has_complained = False
        self._unreached: set[str] = set()

    @property
    def problem(self) -> str:
        """What is wrong at present, one reason, or an empty text."""
        return next(filter(None, self._reasons.values()), "")

    @property
    def understands_us(self) -> bool:
        """False while no poll is answered properly.

        Something that is no controller (a front server, plain HTTP sent to a TLS port) answers 400
        to everything: as long as polls fail too, that says nothing about what was posted.
        """
        return not self.is_polled or (self.last_contact is not None and "poll" not in self._reasons)

    def failed(self, part: str, reason: str, detail: str = "", *, unreached: bool = False) -> None:
        """``part`` (poll, results, ...) could not do its work; a reason that is known already is not logged again.

        ``detail`` is logged along with it, but does not make it another reason. ``unreached``: no
        connection came about, so that any answer shows it to be over.
        """
        (self._unreached.add if unreached else self._unreached.discard)(part)
        if self._reasons.get(part) == reason:
            return
        known = reason in self._reasons.values()
        self._reasons[part] = reason
        now = time.monotonic()
        if known or now - self._logged.get(reason, -REPEAT_AFTER) < REPEAT_AFTER:
            return
        if len(self._logged) > 50:
            self._logged.clear()
        self._logged[reason] = now
        self._has_complained = True
        more = f" ({detail[:200]})" if detail else ""
        self._agent_log.warning(f"{self._name}: {part}: {reason}{more}; will be tried again")

    def reached(self) -> None:
        """An answer came: what kept us from connecting is over, though a poll may take its time to show it."""
        for part in self._unreached.intersection(self._reasons):
            self._reasons[part] = ""  # not yet shown to work, see understands_us
        self._log_recovery()

    def worked(self, part: str) -> None:
        """``part`` did its work."""
        if self._reasons.pop(part, None) is not None:
            self._log_recovery()

    def _log_recovery(self) -> None:
        if self._has_complained and not self.problem:
            self._has_complained = False
            self._agent_log.info(f"{self._name} answers again")

    def contact(self) -> None:
        """A poll was answered."""
        self.last_contact = time.monotonic()
        self.last_contact_wall = time.time()

    def accepted(self) -> None:
        """A result or a log batch was accepted: what it refuses otherwise is about the body.

        See design, section 5 "Uploads".
        """
        self.last_acceptance = time.monotonic()

    def accepted_since(self, moment: float) -> bool:
        """Whether a result or log batch was accepted after ``moment`` (monotonic time)."""
        return self.last_acceptance is not None and self.last_acceptance > moment

    def warn(self, text: str) -> None:
        """A warning about this controller."""
        self._agent_log.warning(f"{self._name}: {text}")


class Backoff:
    """Delays that double from ``first`` to ``longest`` seconds, each drawn between nothing and that.

    With jitter from the first retry: ten thousand agents that lost the same controller must not come back in step.
    """

    def __init__(self, first: float = 0.5, longest: float = 30.0, draw: Callable[[], float] = random.random) -> None:
        """``draw`` gives numbers in [0, 1)."""
        self._first = first
        self._longest = longest
        self._draw = draw
        self._failures = 0

    def next(self, retry_after: float | None = None, longest: float = math.inf) -> float:
        """Seconds to wait now, less than ``longest``.

        ``retry_after``: what the controller asked for, which is the least we wait.
        """
        ceiling = min(self._longest, longest, self._first * 2.0 ** min(self._failures, 30))
        self._failures += 1
        if retry_after is None:
            return self._draw() * ceiling
        asked = min(max(retry_after, 0.0), MAX_RETRY_AFTER)
        # One that asks for nothing, again and again, is in trouble all the same: the own backoff goes on.
        return asked + self._draw() * max(ceiling if asked < ceiling else 0.0, asked / 2)

    def reset(self) -> None:
        """It worked: the next failure starts from ``first`` again."""
        self._failures = 0
