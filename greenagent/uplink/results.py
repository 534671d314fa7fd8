"""Posts results to the controller that asked for them, until it has answered 2xx (protocol 4.3)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import gevent

from greenagent.uplink.answer import Answer, ResponseClass
from greenagent.uplink.backoff import Backoff
from greenagent.uplink.delivery import SERVER_ERRORS, Trouble, post
from greenagent.uplink.figures import UplinkFigures
from greenagent.uplink.health import ControllerHealth
from greenagent.uplink.http import HttpClient
from greenagent.uplink.lanes import Lanes
from greenagent.uplink.sender import Sender
from greenagent.values.result import PendingResult

PAGE = 50
"""Results read from the ledger at a time."""
PAGE_PAUSE = 0.01
"""Seconds between full pages: a backlog must not starve what else uses the hub."""
WAIT = 10.0
"""Seconds after which the ledger is looked at anyway."""


class Outbox(Protocol):
    """The spool as the senders see it. ``path`` is ``result`` or ``stats``."""

    def pending(self, controller: str, limit: int, after: int = 0, path: str = "result") -> list[PendingResult]:
        """The oldest that are not delivered, with rows above ``after``; at least one if there is any.

        May return fewer than ``limit`` to bound memory.
        """
        ...

    def delivered(self, controller: str, rows: list[int], path: str = "result") -> None:
        """The controller has accepted these: no later ``pending`` has them."""
        ...

    def set_aside(self, controller: str, row: int, status: int, answer: str) -> None:
        """The controller refuses this body: it is kept for people and not pending any more."""
        ...

    def wait(self, controller: str, timeout: float, path: str = "result") -> object:
        """Returns once something became pending since the last ``pending``, or after ``timeout`` seconds."""
        ...


class _Suspect:
    """A result answered 500: is it the body or the controller?"""

    def __init__(self, backoff: Backoff) -> None:
        self.since = time.monotonic()
        self.count = 0
        self.not_before = 0.0
        self.backoff = backoff


class ResultSender(Sender):
    """Sends the pending results of one controller, oldest first; one that is refused holds up no other."""

    def __init__(
        self,
        key: str,
        connect: Callable[[], HttpClient],
        outbox: Outbox,
        health: ControllerHealth,
        figures: UplinkFigures | None = None,
        *,
        backoff: Backoff | None = None,
        suspect_backoff: tuple[float, float] = (0.5, 30.0),
    ) -> None:
        """``connect`` makes a client with a connection of its own.

        ``suspect_backoff``: first and longest delay in seconds for a single result answered 500.
        """
        super().__init__("results", connect(), health, backoff)
        self.key = key
        self.figures = figures or UplinkFigures()
        self._outbox = outbox
        self._suspect_backoff = suspect_backoff
        self._suspects: dict[int, _Suspect] = {}
        self._server_errors_in_a_row = 0
        self._set_aside_said = False
        self._to_store: list[int] = []
        self._accepted: set[int] = set()
        self._lanes = Lanes(self._client, connect)

    def _abort(self) -> None:
        super()._abort()
        self._lanes.abort()

    def _wait_for_work(self) -> None:
        timeout = WAIT
        if self._suspects:
            due = min(suspect.not_before for suspect in self._suspects.values())
            # The least is a guard: a store that returns at once must not make this a busy loop.
            timeout = min(WAIT, max(0.05, due - time.monotonic()))
            gevent.sleep(0.05)
        self._outbox.wait(self.key, timeout)

    def _send_some(self) -> bool:
        try:
            # Those answered 500 before come last: the same few must not use up all the tries.
            self._send_pending(again=False)
            if self._suspects:
                self._send_pending(again=True)
        except Trouble:
            self.figures.result_errors += 1
            self._lanes.refused()
            raise
        finally:
            self._store_accepted()
            self._lanes.close()
        return False

    def _send_pending(self, *, again: bool) -> None:
        after = 0
        settled = set(self._accepted)
        while rows := self._outbox.pending(self.key, PAGE, after):
            after = rows[-1].row
            due = []
            for pending in rows:
                if pending.row in self._accepted:
                    # It was posted, but that could not be stored (a full disk): it must not go out again.
                    settled.discard(pending.row)
                    self._to_store.append(pending.row)
                elif self._is_due(pending.row, again):
                    due.append(pending)
            for position, pending in enumerate(due):
                if self._lanes.are_worth(len(due) - position):
                    self._lanes.send(due[position:], self._send)
                    break
                self._send(pending, self._client)
            if self._out_of_time:
                return
            self._store_accepted()
            if len(rows) == PAGE:
                gevent.sleep(PAGE_PAUSE)
        self._accepted -= settled

    def _is_due(self, row: int, again: bool) -> bool:
        suspect = self._suspects.get(row)
        if suspect is None:
            return not again
        return again and suspect.not_before <= time.monotonic()

    def _send(self, pending: PendingResult, client: HttpClient) -> None:
        if self._out_of_time:
            return
        began = time.monotonic()
        answer = post(client, pending.path, pending.body, self._health)
        kind = answer.classify()
        if kind is ResponseClass.ACCEPTED:
            self._lanes.accepted(time.monotonic() - began)
            self._suspects.pop(pending.row, None)
            self._server_errors_in_a_row = 0
            self._to_store.append(pending.row)
            self._accepted.add(pending.row)
            self._health.accepted()
            self._success()
            self.figures.results_sent += 1
        elif kind is ResponseClass.BODY:
            self._set_aside(pending, answer)
        else:
            self._lanes.refused()
            self._suspect(pending, answer)

    def _suspect(self, pending: PendingResult, answer: Answer) -> None:
        """500: refused for its body once it was answered so five times and another post was accepted meanwhile."""
        suspect = self._suspects.setdefault(pending.row, _Suspect(Backoff(*self._suspect_backoff)))
        suspect.count += 1
        suspect.not_before = time.monotonic() + suspect.backoff.next(answer.retry_after)
        accepted = self._health.last_acceptance
        if suspect.count >= SERVER_ERRORS and accepted is not None and accepted > suspect.since:
            self._set_aside(pending, answer)
            return
        self._server_errors_in_a_row += 1
        if self._server_errors_in_a_row >= SERVER_ERRORS:
            raise Trouble(answer.refusal(), answer.retry_after)
        self._health.failed(self._part, answer.refusal())

    def _set_aside(self, pending: PendingResult, answer: Answer) -> None:
        self._suspects.pop(pending.row, None)
        self._outbox.set_aside(self.key, pending.row, answer.status, answer.text)
        self.figures.set_aside += 1
        if not self._set_aside_said:
            self._set_aside_said = True
            self._health.say(
                f"it refuses the result of job {pending.id} (status {answer.status}): set aside, "
                "see greenagent-logs outbox; more of them are counted only"
            )

    def _store_accepted(self) -> None:
        """Writes down what was accepted, many at a time: a commit each would slow short jobs down."""
        if self._to_store:
            rows, self._to_store = self._to_store, []
            self._outbox.delivered(self.key, rows)
