"""What an answer to a POST means, and lists that get through it whole or in parts (design, section 5, Uploads).

2xx is acceptance. 400, 413 and 422 are about the body: a list is halved until the offending record
stands alone, and that one is set aside. 500 may be either (the originals answer it to a body they
cannot read): after five of them the list is halved likewise, and what is still refused alone is set
aside only if some other part was accepted. Everything else is about the controller: all is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from greenagent.uplink.answer import Answer, ResponseClass
from greenagent.uplink.errors import TransportError
from greenagent.uplink.health import ControllerHealth
from greenagent.uplink.http import HttpClient

SERVER_ERRORS = 5
"""Answers 500 to one body before it may be the body."""
FIRST_PROBES = 32
"""Answers 500 within one halving, none accepted since, after which the controller is believed to be at fault.

Doubled every time, so that one good record among thousands is found in the end, but a controller
that fails on everything is not flooded with small requests.
"""
FEW = 8
"""Refused records at the end of a list, none accepted behind them, that are set aside nevertheless.

More of them look like a controller that broke down meanwhile, and are kept.
"""
PROBE_PAUSE = 0.1
MAX_BODY = 4 * 1024 * 1024
SMALLEST_BODY = 64 * 1024

SetAside = Callable[[str, str, bytes, int, str], None]
"""``(controller, path, body, status, answer)``: keeps a refused record for people to look at."""


class Counts(NamedTuple):
    """Bodies and records accepted, and records set aside."""

    bodies: int
    records: int
    set_aside: int


class Trouble(Exception):
    """The controller is at fault: keep everything and come back later."""

    def __init__(self, reason: str, retry_after: float | None = None, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
        self.retry_after = retry_after


def post(client: HttpClient, path: str, body: bytes, health: ControllerHealth) -> Answer:
    """One POST; raises Trouble when no answer came or the answer is about the controller."""
    try:
        answer = client.post(path, body)
    except TransportError as error:
        raise Trouble(error.reason, hint=error.hint) from error
    kind = answer.classify()
    if kind is ResponseClass.CONTROLLER or (kind is ResponseClass.BODY and not health.understands_us):
        raise Trouble(answer.refusal(), answer.retry_after)
    return answer


class ListDelivery:
    """Posts records as JSON lists, in order, until each is accepted or set aside."""

    def __init__(
        self,
        client: HttpClient,
        path: str,
        health: ControllerHealth,
        set_aside: SetAside,
        pause: Callable[[float], object],
        probe_pause: float = PROBE_PAUSE,
    ) -> None:
        """``pause(seconds)`` waits; ``probe_pause`` is how many seconds between posts that are answered 500."""
        self._client = client
        self._path = path
        self._health = health
        self._set_aside = set_aside
        self._pause = pause
        self._probe_pause = probe_pause
        self._largest = MAX_BODY
        self._probes = FIRST_PROBES
        self._stuck: bytes | None = None
        self._server_errors = 0
        self._counts = Counts(0, 0, 0)
        self._set_aside_said = False

    def deliver(self, records: Sequence[bytes], done: Callable[[int], None]) -> bool:
        """``records``: JSON texts. ``done(n)``: the first ``n`` of them are dealt with. Raises Trouble.

        False when the rest is to be given again, since the controller recovered half-way: what came
        after the last ``done`` may have been accepted, but goes out once more to keep the order.
        """
        start = 0
        while start < len(records):
            end, size = start, 0
            while end < len(records) and (end == start or size + len(records[end]) <= self._largest):
                size += len(records[end]) + 1
                end += 1
            offset = start
            try:
                self._deliver_body(records[start:end], lambda count, offset=offset: done(offset + count))  # type: ignore[misc]
            except _Recovered:
                return False
            start = end
        return True

    def take_counts(self) -> Counts:
        """What was done since the last call."""
        counts, self._counts = self._counts, Counts(0, 0, 0)
        return counts

    def _deliver_body(self, records: Sequence[bytes], done: Callable[[int], None]) -> None:
        answer = self._post(records)
        kind = answer.classify()
        if kind is ResponseClass.ACCEPTED:
            self._stuck = None
            done(len(records))
            return
        if answer.status == 413 and len(records) > 1:
            self._largest = max(SMALLEST_BODY, sum(map(len, records)) // 2)
        if kind is ResponseClass.EITHER:
            if records[0] != self._stuck:
                self._stuck, self._server_errors = records[0], 0
            self._server_errors += 1
            if self._server_errors < SERVER_ERRORS:
                raise Trouble(answer.refusal(), answer.retry_after)
        _Halving(self, records, done).run(answer)

    def _post(self, records: Sequence[bytes]) -> Answer:
        answer = post(self._client, self._path, b"[" + b",".join(records) + b"]", self._health)
        if answer.classify() is ResponseClass.ACCEPTED:
            self._probes = FIRST_PROBES
            counts = self._counts
            self._counts = counts._replace(bodies=counts.bodies + 1, records=counts.records + len(records))
        return answer

    def _keep_aside(self, record: bytes, answer: Answer) -> None:
        self._set_aside(self._client.key, self._path, b"[" + record + b"]", answer.status, answer.text)
        self._counts = self._counts._replace(set_aside=self._counts.set_aside + 1)
        if not self._set_aside_said:
            self._set_aside_said = True
            self._health.say(
                f"it refuses a record posted to '{self._path}' (status {answer.status}): set aside, "
                "see greenagent-logs outbox; more of them are counted only"
            )


class _Recovered(Exception):
    """A record that was refused alone is accepted now: what came after it went out too early."""


class _Halving:
    """Finds the records of one body that are refused, going from left to right so that order is kept."""

    def __init__(self, delivery: ListDelivery, records: Sequence[bytes], done: Callable[[int], None]) -> None:
        self._delivery = delivery
        self._records = records
        self._done = done
        self._probes = 0
        self._accepted_any = False
        self._suspects: list[tuple[int, Answer]] = []

    def run(self, answer: Answer) -> None:
        """``answer``: the refusal of the whole. Raises Trouble when the controller is at fault."""
        self._refused(0, len(self._records), answer)
        if not self._suspects:
            return
        if self._accepted_any and len(self._suspects) <= FEW:
            for index, refusal in self._suspects:
                self._delivery._keep_aside(self._records[index], refusal)
            self._done(len(self._records))
            return
        self._delivery._probes = FIRST_PROBES  # every record was tried: there is no more to find out
        self._give_up(self._suspects[-1][1])

    def _try(self, start: int, end: int) -> None:
        answer = self._delivery._post(self._records[start:end])
        if answer.classify() is ResponseClass.ACCEPTED:
            self._accepted(end)
        else:
            self._refused(start, end, answer)

    def _refused(self, start: int, end: int, answer: Answer) -> None:
        either = answer.classify() is ResponseClass.EITHER
        if either:
            self._probes += 1
            if self._probes > self._delivery._probes:
                self._delivery._probes *= 2
                self._give_up(answer)
            self._delivery._pause(self._delivery._probe_pause)
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
            self._delivery._keep_aside(self._records[index], answer)
            self._done(index + 1)

    def _refused_alone(self, index: int, answer: Answer) -> None:
        """A single record gets five answers 500 too: one may be a bad moment."""
        for attempt in range(1, SERVER_ERRORS):
            self._delivery._pause(self._delivery._probe_pause * attempt)
            answer = self._delivery._post(self._records[index : index + 1])
            if answer.classify() is ResponseClass.ACCEPTED:
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
            record = self._records[index]
            if answer.classify() is ResponseClass.EITHER:
                answer = self._delivery._post([record])
            if answer.classify() is ResponseClass.ACCEPTED:
                self._done(index + 1)
                raise _Recovered
            self._delivery._keep_aside(record, answer)
            self._suspects.pop(0)
            self._done(index + 1)
        self._done(end)

    def _give_up(self, answer: Answer) -> NoReturn:
        raise Trouble(answer.refusal(), answer.retry_after)
