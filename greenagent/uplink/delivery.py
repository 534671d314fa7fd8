"""Posts batches until every body is accepted or a dead letter (design, section 5, Uploads).

400, 413 and 422 are about the body: a list is halved until the record that is refused stands alone,
and that one becomes a dead letter. 500 may be about the body or the controller: the originals answer
it to a body they cannot read. After five of them a list is halved likewise; what is refused alone
becomes a dead letter only if another post is accepted. Everything else is about the controller: all
is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from greenagent.uplink.answer import Answer, ResponseClass
from greenagent.uplink.backoff import Backoff
from greenagent.uplink.errors import TransportError
from greenagent.uplink.health import ControllerHealth
from greenagent.uplink.http import HttpClient

MAX_SERVER_ERRORS = 5
"""Answers 500 to one body before it may be the body; in a row, before it is the controller."""
FIRST_PROBES = 32
"""Answers 500 within one search, none accepted since, after which the controller is believed to be at fault.

Doubled every time, so that one good record among thousands is found in the end, but a controller
that fails on everything is not flooded with small requests.
"""
MAX_LAST_REFUSED = 8
"""Refused records at the end of a list, none accepted behind them, that become dead letters nevertheless.

More of them look like a controller that broke down meanwhile, and are kept.
"""
PROBE_PAUSE = 0.1
MAX_BODY = 4 * 1024 * 1024
MIN_BODY = 64 * 1024


class ControllerUnavailable(Exception):
    """The controller is at fault: keep everything and come back later."""

    def __init__(self, reason: str, retry_after: float | None = None, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
        self.retry_after = retry_after


@dataclass(slots=True)
class Doubt:
    """A result that was answered 500: is it the body or the controller?"""

    backoff: Backoff
    since: float = field(default_factory=time.monotonic)
    count: int = 0
    not_before: float = 0.0
    """Monotonic time of the next try."""


@dataclass(slots=True)
class Batch:
    """Bodies to post, oldest first, and what to call when their fate is known."""

    path: str
    bodies: Sequence[bytes]
    done: Callable[[int, int], None]
    """``(start, end)``: those from ``start`` up to ``end`` are accepted or dead letters."""
    dead_letter: Callable[[int, Answer], str]
    """``(index, answer)``: keeps one that is refused for good, and says what it is; ``done`` follows."""
    doubt: Callable[[int], Doubt] | None = None
    """Set where each body is a request of its own, and none has to wait for another that is in doubt."""


class Delivery:
    """Delivers the batches of one source to one controller."""

    def __init__(
        self,
        part: str,
        health: ControllerHealth,
        accepted: Callable[[int], None],
        pause: Callable[[float], object],
        probe_pause: float = PROBE_PAUSE,
    ) -> None:
        """``accepted(n)`` is called for every post accepted, with its number of records; ``pause(seconds)`` waits."""
        self.probe_limit = FIRST_PROBES
        self._part = part
        self._health = health
        self._accepted = accepted
        self._pause = pause
        self._probe_pause = probe_pause
        self._max_body = MAX_BODY
        self._stuck: bytes | None = None
        self._server_errors = 0
        self._dead_letter_logged = False

    def deliver(self, batch: Batch, client: HttpClient) -> bool:
        """Posts all of a batch. Raises ControllerUnavailable.

        False when something was refused, or when the rest of a list must be given again: the controller
        recovered half-way, and what came after the last ``done`` may have been accepted, but goes out
        once more to keep the order.
        """
        if batch.doubt is not None:
            accepted = [self._deliver_single(batch, index, client) for index in range(len(batch.bodies))]
            return all(accepted)
        start = 0
        while start < len(batch.bodies):
            end, size = start, 0
            while end < len(batch.bodies) and (end == start or size + len(batch.bodies[end]) <= self._max_body):
                size += len(batch.bodies[end]) + 1
                end += 1
            try:
                self._deliver_list(batch, start, end, client)
            except _Recovered:
                return False
            start = end
        return True

    def _deliver_single(self, batch: Batch, index: int, client: HttpClient) -> bool:
        answer = self._post(batch.path, batch.bodies[index], 1, client)
        kind = answer.classify()
        if kind is ResponseClass.EITHER:
            assert batch.doubt is not None
            doubt = batch.doubt(index)
            doubt.count += 1
            doubt.not_before = time.monotonic() + doubt.backoff.next(answer.retry_after)
            if doubt.count < MAX_SERVER_ERRORS or not self._health.accepted_since(doubt.since):
                self._server_errors += 1
                if self._server_errors >= MAX_SERVER_ERRORS:
                    raise ControllerUnavailable(answer.refusal(), answer.retry_after)
                self._health.failed(self._part, answer.refusal())
                return False
        if kind is ResponseClass.ACCEPTED:
            self._server_errors = 0
        else:
            self.bury(batch, index, answer)
        batch.done(index, index + 1)
        return kind is not ResponseClass.EITHER

    def _deliver_list(self, batch: Batch, start: int, end: int, client: HttpClient) -> None:
        answer = self.post_list(batch, start, end, client)
        kind = answer.classify()
        if kind is ResponseClass.ACCEPTED:
            self._stuck = None
            batch.done(start, end)
            return
        if answer.status == 413 and end - start > 1:
            self._max_body = max(MIN_BODY, sum(map(len, batch.bodies[start:end])) // 2)
        if kind is ResponseClass.EITHER:
            if batch.bodies[start] != self._stuck:
                self._stuck, self._server_errors = batch.bodies[start], 0
            self._server_errors += 1
            if self._server_errors < MAX_SERVER_ERRORS:
                raise ControllerUnavailable(answer.refusal(), answer.retry_after)
        _Search(self, batch, client).run(start, end, answer)

    def post_list(self, batch: Batch, start: int, end: int, client: HttpClient) -> Answer:
        answer = self._post(batch.path, b"[" + b",".join(batch.bodies[start:end]) + b"]", end - start, client)
        if answer.ok:
            self.probe_limit = FIRST_PROBES
        return answer

    def _post(self, path: str, body: bytes, records: int, client: HttpClient) -> Answer:
        """Raises ControllerUnavailable when no answer came or the answer is about the controller."""
        try:
            answer = client.post(path, body)
        except TransportError as error:
            raise ControllerUnavailable(error.reason, hint=error.hint) from error
        kind = answer.classify()
        if kind is ResponseClass.CONTROLLER or (kind is ResponseClass.BODY and not self._health.understands_us):
            raise ControllerUnavailable(answer.refusal(), answer.retry_after)
        if kind is ResponseClass.ACCEPTED:
            self._accepted(records)
        return answer

    def bury(self, batch: Batch, index: int, answer: Answer) -> None:
        """Makes one body a dead letter."""
        what = batch.dead_letter(index, answer)
        if not self._dead_letter_logged:
            self._dead_letter_logged = True
            self._health.warn(
                f"it refuses {what} (status {answer.status}): set aside, see greenagent-logs outbox; "
                "more of them are counted only"
            )

    def wait_to_probe(self, times: int = 1) -> None:
        self._pause(self._probe_pause * times)


class _Recovered(Exception):
    """A record that was refused alone is accepted now: what came after it went out too early."""


class _Search:
    """Finds the records of one list that are refused, going from left to right so that order is kept."""

    def __init__(self, delivery: Delivery, batch: Batch, client: HttpClient) -> None:
        self._delivery = delivery
        self._batch = batch
        self._client = client
        self._start = 0
        self._probes = 0
        self._accepted_any = False
        self._suspects: list[tuple[int, Answer]] = []
        """Records refused alone, with nothing accepted behind them yet."""

    def run(self, start: int, end: int, answer: Answer) -> None:
        """``answer``: the refusal of the whole. Raises ControllerUnavailable."""
        self._start = start
        self._refused(start, end, answer)
        if not self._suspects:
            return
        if self._accepted_any and len(self._suspects) <= MAX_LAST_REFUSED:
            for index, refusal in self._suspects:
                self._delivery.bury(self._batch, index, refusal)
            self._done(end)
            return
        self._delivery.probe_limit = FIRST_PROBES  # every record was tried: there is no more to find out
        self._give_up(self._suspects[-1][1])

    def _try(self, start: int, end: int) -> None:
        answer = self._delivery.post_list(self._batch, start, end, self._client)
        if answer.ok:
            self._accepted(end)
        else:
            self._refused(start, end, answer)

    def _refused(self, start: int, end: int, answer: Answer) -> None:
        either = answer.classify() is ResponseClass.EITHER
        if either:
            self._probes += 1
            if self._probes > self._delivery.probe_limit:
                self._delivery.probe_limit *= 2
                self._give_up(answer)
            self._delivery.wait_to_probe()
        if end - start > 1:
            middle = (start + end) // 2
            self._try(start, middle)
            self._try(middle, end)
        elif either:
            self._refused_alone(start, answer)
        else:
            self._refused_for_its_body(start, answer)

    def _refused_for_its_body(self, index: int, answer: Answer) -> None:
        if self._suspects:
            # Earlier ones are in doubt: should this go all over again, it must not be set aside twice.
            self._suspects.append((index, answer))
        else:
            self._delivery.bury(self._batch, index, answer)
            self._done(index + 1)

    def _refused_alone(self, index: int, answer: Answer) -> None:
        """A single record gets five answers 500 too: one may be a bad moment."""
        for attempt in range(1, MAX_SERVER_ERRORS):
            self._delivery.wait_to_probe(attempt)
            answer = self._delivery.post_list(self._batch, index, index + 1, self._client)
            if answer.ok:
                self._accepted(index + 1)
                return
            if answer.classify() is ResponseClass.BODY:
                self._refused_for_its_body(index, answer)
                return
        self._suspects.append((index, answer))

    def _accepted(self, end: int) -> None:
        """Something was accepted, so what is still refused is refused for its body."""
        self._accepted_any = True
        self._probes = 0
        while self._suspects:
            index, answer = self._suspects[0]
            if answer.classify() is ResponseClass.EITHER:
                answer = self._delivery.post_list(self._batch, index, index + 1, self._client)
            if answer.ok:
                self._done(index + 1)
                raise _Recovered
            self._delivery.bury(self._batch, index, answer)
            self._suspects.pop(0)
            self._done(index + 1)
        self._done(end)

    def _done(self, end: int) -> None:
        self._batch.done(self._start, end)
        self._start = end

    def _give_up(self, answer: Answer) -> NoReturn:
        raise ControllerUnavailable(answer.refusal(), answer.retry_after)
