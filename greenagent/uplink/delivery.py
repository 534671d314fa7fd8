"""Posts batches until every body is accepted or a dead letter (design, section 5 "Uploads").

400, 413 and 422 are about the body: a list is halved until the record that is refused stands alone
at its head, and that one becomes a dead letter. 500 may be about the body or the controller: the
originals answer it to a body they cannot read. After five of them a list is halved likewise; a record
that is refused alone becomes a dead letter only if a record behind it is accepted. Everything else is
about the controller: all is kept.

At a sink 400 and 422 may be about either, too, but need not come five times: no poll shows that it is one, and whatever
answers them to everything (a web server under a wrong URL) must not make dead letters of all.

A result waits for no other. Answered 500 five times, it becomes a dead letter only if another post to the
controller was accepted meanwhile. Controllers of ours take several in one post and judge each by itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from greenagent.uplink.answer import Answer, ResponseClass, TransportError
from greenagent.uplink.changes import RESULTS
from greenagent.uplink.encoding import Form, Rejection, as_list
from greenagent.uplink.health import Backoff, ControllerHealth
from greenagent.uplink.http import HttpClient
from greenagent.values.text import visible

MAX_SERVER_ERRORS = 5
"""Answers 500 to one body before it may be the body; in a row, before it is the controller."""
FIRST_PROBES = 32
"""Answers 500 in the search of one batch, none accepted since, after which the controller is believed to be at fault.

Doubled every time, so that one good record among thousands is found in the end, but a controller
that fails on everything is not flooded with small requests.
"""
MAX_LAST_REFUSED = 8
"""Refused records at the end of a list, none accepted behind them, that become dead letters nevertheless.

More of them look like a controller that broke down meanwhile, and are kept.
"""
PROBE_PAUSE = 0.1
PATH_OF_LISTS = "results"
NO_SUCH_PATH = (404, 405)
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

    form: Form
    bodies: Sequence[bytes]
    done: Callable[[int, int], None]
    """``(start, end)``: those from ``start`` up to ``end`` are accepted or dead letters."""
    dead_letter: Callable[[int, Answer], str]
    """``(index, answer)``: keeps one that is refused for good, and says what it is; ``done`` follows."""
    doubt: Callable[[int], Doubt] | None = None
    """Set where each body is judged by itself, and none has to wait for another that is in doubt."""
    rejected: Callable[[int], None] = lambda records: None
    """Counts records that an acceptance leaves out, without telling which."""


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
        self._part = part
        self._health = health
        self._accepted = accepted
        self._pause = pause
        self._probe_pause = probe_pause
        self._max_body = MAX_BODY
        self._stuck: bytes | None = None
        """First record of the list that was answered 500 last."""
        self._server_errors = 0
        self._probe_limit = FIRST_PROBES
        self._probes = 0
        self._dead_letter_logged = False
        self._said: set[bool] = set()
        """See ``_say``."""

    def deliver(self, batch: Batch, client: HttpClient) -> bool:
        """Posts all of a batch. Raises ControllerUnavailable.

        False when a result is in doubt, or when the rest of a list must be given again: the controller
        recovered half-way, and what came after the last ``done`` may have been accepted, but goes out
        once more to keep the order.
        """
        if batch.doubt is None:
            return self._deliver_list(batch, client)
        accepted, start = True, 0
        while start < len(batch.bodies):
            end = self._end_of_body(batch.bodies, start, len(batch.bodies))
            answers = self._post_several(batch, start, end, client) if end > start + 1 else None
            for index in range(start, end):
                answer = answers[index - start] if answers else self._post(batch, batch.bodies[index], 1, client)
                accepted = self._judge_single(batch, index, answer) and accepted
            start = end
        return accepted

    def _post_several(self, batch: Batch, start: int, end: int, client: HttpClient) -> list[Answer] | None:
        """The answer to each of the bodies, posted together; None: they are to be posted one by one."""
        if RESULTS not in self._health.takes or batch.form.path != "result":
            return None
        answer = self._send(PATH_OF_LISTS, as_list(batch.bodies[start:end]), client)
        if answer.classify() is ResponseClass.CONTROLLER and answer.status not in NO_SUCH_PATH:
            raise self._unavailable(answer)
        refused = _read_refused(answer, end - start) if answer.ok else None
        if refused is None:
            # It was an earlier controller that took lists, or something in front does not: one by one shows it.
            self._health.takes -= {RESULTS}  # until an answer to a poll says so again
            if answer.status == 413:
                self._halve_bodies(batch.bodies[start:end])
            return None
        accepted = end - start - len(refused)
        if accepted:
            self._accepted(accepted)
        return [refused.get(index, answer) for index in range(end - start)]

    def _judge_single(self, batch: Batch, index: int, answer: Answer) -> bool:
        """What becomes of a body that is judged by itself; False while it is in doubt. Raises ControllerUnavailable."""
        kind = self._classify(answer)
        if kind is ResponseClass.EITHER:
            assert batch.doubt is not None
            doubt = batch.doubt(index)
            doubt.count += 1
            doubt.not_before = time.monotonic() + doubt.backoff.next(answer.retry_after)
            if doubt.count < MAX_SERVER_ERRORS or not self._health.accepted_since(doubt.since):
                self._server_errors += 1
                if self._server_errors >= MAX_SERVER_ERRORS:
                    raise self._unavailable(answer)
                self._health.failed(self._part, answer.refusal())
                return False
        if kind is ResponseClass.ACCEPTED:
            self._server_errors = 0
            self._took(batch, index, index + 1, answer)
        else:
            self._make_dead_letter(batch, index, answer)
        return True

    def _deliver_list(self, batch: Batch, client: HttpClient) -> bool:
        """Always posts the head of what is left, so that order is kept: less of it after a refusal, then more again."""
        start, size = 0, len(batch.bodies)
        is_searching = accepted_any = False
        self._probes = 0
        while start < len(batch.bodies):
            end = self._end_of_body(batch.bodies, start, size)
            answer = self._post_list(batch, start, end, client)
            kind = self._classify(answer)
            if kind is ResponseClass.ACCEPTED:
                self._took(batch, start, end, answer)
                start, size, accepted_any = end, 2 * size, True
                continue
            if kind is ResponseClass.EITHER:
                if not is_searching and answer.status == 500:
                    self._count_server_error(batch.bodies[start], answer)
                is_searching = True
                self._probed(answer)
            if end - start > 1:
                if answer.status == 413:
                    self._halve_bodies(batch.bodies[start:end])
                size = (end - start) // 2
            elif kind is ResponseClass.BODY:
                self._make_dead_letter(batch, start, answer)
                start += 1
            else:
                start, in_order = self._judge_head(batch, start, client, accepted_any)
                if not in_order:
                    return False
        return True

    def _end_of_body(self, bodies: Sequence[bytes], start: int, size: int) -> int:
        """Where a post that begins at ``start`` ends: after ``size`` records, or before it is too large."""
        end, length = start + 1, len(bodies[start])
        while end < min(len(bodies), start + size) and length + len(bodies[end]) <= self._max_body:
            length += len(bodies[end]) + 1
            end += 1
        return end

    def _halve_bodies(self, bodies: Sequence[bytes]) -> None:
        """What was posted together was too large."""
        self._max_body = max(MIN_BODY, sum(map(len, bodies)) // 2)

    def _count_server_error(self, first: bytes, answer: Answer) -> None:
        """Raises ControllerUnavailable until the list that begins with ``first`` was answered 500 often enough."""
        if first != self._stuck:
            self._stuck, self._server_errors = first, 0
        self._server_errors += 1
        if self._server_errors < MAX_SERVER_ERRORS:
            raise self._unavailable(answer)

    def _probed(self, answer: Answer) -> None:
        """Counts an answer 500 of a search. Raises ControllerUnavailable when there were too many."""
        self._probes += 1
        if self._probes > self._probe_limit:
            self._probe_limit *= 2
            raise self._unavailable(answer)
        self._pause(self._probe_pause)

    def _judge_head(self, batch: Batch, start: int, client: HttpClient, accepted_any: bool) -> tuple[int, bool]:
        """The record at ``start`` was answered 500 even alone: is it the record, or the controller?

        The records behind it are tried alone, one by one, until one is accepted. Of A, B and C say A and B are refused:

        - C is accepted: the controller works. A and B are posted once more, since it may have failed only until then.
          Still refused, they become dead letters, and it goes on behind C: ``(behind C, True)``. But if A is accepted
          now, C went out too early: ``(behind A, False)``, and B and C are delivered (again) to keep the order.
        - C is refused too: it is the controller, and all are kept: raises ControllerUnavailable. Only if records before
          A were accepted (``accepted_any``) and no more than MAX_LAST_REFUSED are left, these become dead letters.

        Returns where to go on, and whether all is in order so far.
        """
        end = len(batch.bodies)
        accepted = end  # no record has been, as yet
        suspects: list[tuple[int, Answer]] = []
        for index in range(start, end):
            answer = self._try_alone(batch, index, client)
            if answer.ok:
                accepted = index
                break
            suspects.append((index, answer))
            if self._classify(answer) is ResponseClass.EITHER:
                self._probed(answer)
        controller_works = accepted < end
        if not controller_works and (not accepted_any or len(suspects) > MAX_LAST_REFUSED):
            self._probe_limit = FIRST_PROBES  # every record was tried: there is no more to find out
            raise self._unavailable(suspects[-1][1])
        for suspect, refusal in suspects:
            if controller_works and self._classify(refusal) is ResponseClass.EITHER:
                refusal = self._post_list(batch, suspect, suspect + 1, client)
                if refusal.ok:
                    self._took(batch, suspect, suspect + 1, refusal)
                    return suspect + 1, False
            self._make_dead_letter(batch, suspect, refusal)
        if controller_works:
            self._took(batch, accepted, accepted + 1, answer)
        return accepted + 1, True

    def _try_alone(self, batch: Batch, index: int, client: HttpClient) -> Answer:
        """A single record gets five answers 500 too: one may be a bad moment."""
        for attempt in range(MAX_SERVER_ERRORS):
            self._pause(self._probe_pause * attempt)
            answer = self._post_list(batch, index, index + 1, client)
            if answer.status != 500:
                break
        return answer

    def _post_list(self, batch: Batch, start: int, end: int, client: HttpClient) -> Answer:
        answer = self._post(batch, batch.form.join(batch.bodies[start:end]), end - start, client)
        if answer.ok:
            self._stuck = None
            self._probe_limit = FIRST_PROBES
            self._probes = 0
        return answer

    def _post(self, batch: Batch, body: bytes, records: int, client: HttpClient) -> Answer:
        """Raises ControllerUnavailable when no answer came or the answer is about the controller."""
        answer = self._send(batch.form.path, body, client)
        if self._classify(answer) is ResponseClass.ACCEPTED:
            self._accepted(records)
        return answer

    def _send(self, path: str, body: bytes, client: HttpClient) -> Answer:
        try:
            return client.post(path, body)
        except TransportError as error:
            raise ControllerUnavailable(error.reason, hint=error.hint) from error

    def _classify(self, answer: Answer) -> ResponseClass:
        """Raises ControllerUnavailable when the answer is about the controller."""
        kind = answer.classify()
        if kind is ResponseClass.CONTROLLER or (kind is ResponseClass.BODY and not self._health.understands_us):
            raise self._unavailable(answer)
        is_unsure = kind is ResponseClass.BODY and self._health.is_sink and answer.status != 413
        return ResponseClass.EITHER if is_unsure else kind

    def _unavailable(self, answer: Answer) -> ControllerUnavailable:
        """What it says of itself is for people to know: of a controller it is always the same."""
        hint = _one_line(answer.text) if self._health.is_sink else ""
        return ControllerUnavailable(answer.refusal(), answer.retry_after, hint)

    def _took(self, batch: Batch, start: int, end: int, answer: Answer) -> None:
        """These are accepted, but for what the answer says besides: rejected all, they are dead letters."""
        found = batch.form.rejection(answer)
        if found is not None and found.records >= sum(map(batch.form.count, batch.bodies[start:end])):
            for index in range(start, end):
                self._make_dead_letter(batch, index, answer)
            return
        batch.done(start, end)
        if found is not None:
            batch.rejected(found.records)
            self._say(found)

    def _say(self, found: Rejection) -> None:
        """The first that rejects something, and the first that is a mere remark."""
        is_remark = not found.records
        if is_remark in self._said:
            return
        self._said.add(is_remark)
        what = "it says" if is_remark else f"it takes a batch without {found.records} of its records, not telling which"
        more = "" if is_remark else "; more of them are counted only"
        self._health.warn(f"{self._part}: {what}: {_one_line(found.reason)[:200] or 'no reason given'}{more}")

    def _make_dead_letter(self, batch: Batch, index: int, answer: Answer) -> None:
        """Makes one body a dead letter."""
        what = batch.dead_letter(index, answer)
        batch.done(index, index + 1)
        if not self._dead_letter_logged:
            self._dead_letter_logged = True
            self._health.warn(
                f"it refuses {what} (status {answer.status}): set aside, see greenagent-logs outbox; "
                "more of them are counted only"
            )


def _one_line(text: str) -> str:
    """What a destination says, made fit for a log."""
    return visible(" ".join(text.split()), keep="")


def _read_refused(answer: Answer, count: int) -> dict[int, Answer] | None:
    """What was refused of so many bodies, as the answer to each would have been; None where that cannot be read."""
    try:
        found = {
            one["index"]: Answer(one["status"], answer.headers, str(one["reason"]).encode())
            for one in json.loads(answer.body)["refused"]
        }
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    is_sound = all(type(index) is int and 0 <= index < count for index in found)
    return found if is_sound and all(type(one.status) is int and not one.ok for one in found.values()) else None
