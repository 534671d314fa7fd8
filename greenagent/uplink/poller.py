"""Asks one controller for commands, for ever (protocol 1.3)."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import gevent
from gevent.event import Event

from greenagent.runtime.greenlets import give_way
from greenagent.uplink.answer import Answer, TransportError
from greenagent.uplink.changes import HEADERS
from greenagent.uplink.health import Backoff, ControllerHealth, UplinkMetrics
from greenagent.uplink.http import POLL_TIMEOUT, TIMEOUT_MARGIN, HttpClient
from greenagent.values.command import Command, read_early_id
from greenagent.values.errors import CommandError

ACKNOWLEDGE = "Greenagent-Acknowledge"
COMMANDS = "Greenagent-Commands"
"""In a poll: how many commands the answer may hold. In an answer that holds several, a line each: how many it does."""
DELIVERY = "Greenagent-Delivery"
FREE_SLOTS = "Greenagent-Free-Slots"
STARTUP_EVENT = json.dumps({"name": "startup"}).encode()
SHUTDOWN_EVENT = json.dumps({"name": "shutdown"}).encode()
"""For controllers of ours alone: an original would look for a handler of that name."""
EVENT_TIMEOUT = 10.0
"""Seconds; a controller that does not answer events must not keep us from its commands."""
GATEWAY_ERRORS = (502, 503, 504)
NOBODY_THERE = ("refused", "name", "unreachable")
"""Kinds of TransportError that hold for every request alike: there was nobody to send it to."""
MAX_COMMANDS = 100
"""In one answer, where so many slots are free: all of them are accepted in one go."""
BEGINNING = 60.0
SOON = 5.0
"""Seconds of an outage in which polls are not further apart than ``SOON``: a controller that was only restarted refuses
commands for an agent that has not polled again."""
READING = 600.0
"""Seconds for a large command to be read: those of ten controllers, one after the other."""
QUICK = 0.5
"""Seconds; an empty answer that comes faster than this three times in a row is not from a long poll."""

_TOKEN = re.compile(r"[\x21-\x7e]{1,200}")


class CommandSink(Protocol):
    """Where commands go: the admission of jobs."""

    def accept(self, commands: Sequence[Command], controller: str) -> None:
        """Returns once the commands are in the spool; may block, and the next poll waits as long."""
        ...

    def refuse(self, error: CommandError, controller: str) -> None:
        """Answers what cannot be understood."""
        ...

    def acknowledges(self, controller: str) -> None:
        """The controller asks for acknowledgements: it may deliver a command again. Before ``accept``."""
        ...


ReadCommand = Callable[[bytes, str], Command]
"""Makes a command of the answer to a poll of a controller; may block. Raises CommandError."""


class Poller:
    """The poll loop of one controller: ``run`` is the body of a service, ``stop`` ends it.

    A delivery is acknowledged only once ``sink`` has accepted all that came with it.
    """

    def __init__(
        self,
        key: str,
        client: HttpClient,
        *,
        roles: Callable[[], Sequence[str]],
        free_slots: Callable[[], int],
        read: ReadCommand,
        sink: CommandSink,
        health: ControllerHealth,
        metrics: UplinkMetrics,
        backoff: Backoff | None = None,
        poll_timeout: float = POLL_TIMEOUT,
    ) -> None:
        """``roles`` and ``free_slots`` are asked before every poll and must not block; ``poll_timeout`` in seconds."""
        self.key = key
        self.state = "starting"
        """One of starting, polling, accepting, waiting, stopped."""
        self.metrics = metrics
        self.health = health
        self.heartbeat = client.heartbeat
        health.is_polled = True
        self._client = client
        self._roles = roles
        self._free_slots = free_slots
        self._read = read
        self._sink = sink
        self._backoff = backoff or Backoff()
        self._quick_backoff = Backoff(first=0.25, longest=2.0)
        self._poll_timeout = poll_timeout
        self._stopping = Event()
        self.ended = Event()
        """Set once it takes nothing more: after ``stop``, and after what had begun to arrive then."""
        self._owes_startup = True
        self._was_behind_gateway = False
        self._in_event = False
        self._acknowledge = ""
        self._quick_answers = 0
        self._failing_since: float | None = None
        self._is_woken = False
        """Whether nobody answered, so that an answer to anything that is posted ends the wait."""

    def run(self) -> None:
        """Polls until ``stop``; goes on where it was when it is started again after an error."""
        while not self._stopping.is_set():
            self._is_woken = False
            try:
                if self._owes_startup:
                    self._send_startup_event()
                    if self._stopping.is_set():
                        break
                delay = self._poll()
            except TransportError as error:
                delay = self._failed(error)
            if delay > 0:
                self.state = "waiting"
                self.heartbeat.expect_within(delay + TIMEOUT_MARGIN, "waiting")
                if self._is_woken:
                    gevent.wait([self._stopping, self.health.answered], delay, count=1)
                    if self.health.answered.is_set():
                        self._backoff.reset()
                else:
                    self._stopping.wait(delay)
        self.state = "stopped"
        self.heartbeat.clear()
        self.ended.set()

    def stop(self) -> None:
        """Takes no more: a poll that still waits is called off; an answer that has begun is accepted yet."""
        self._stopping.set()
        if self._in_event:
            self._client.abort()
        else:
            self._client.interrupt()

    def _send_startup_event(self) -> None:
        """Says that we are here; any answer clears the debt, and without one polling goes on (protocol 1.3).

        Not where no connection came about, which is raised: a poll would find the same, or find a controller
        that came back just now, be held for a minute, and the event be owed as long.
        """
        self._in_event = True
        try:
            answer = self._client.post("event", STARTUP_EVENT, EVENT_TIMEOUT)
        except TransportError as error:
            if error.kind in NOBODY_THERE:
                self.metrics.polls += 1  # it stands for the poll that would have found the same
                raise
            if error.kind != "interrupted":
                self.health.failed("startup event", error.reason, error.hint, unreached=error.is_unreached)
        else:
            self._owes_startup = False
            self._notice_kind(answer)
            self.health.worked("startup event")
            if answer.ok:
                self.health.reached()
        finally:
            self._in_event = False

    def _poll(self) -> float:
        """One poll; returns the seconds to wait before the next."""
        self.state = "polling"
        self.metrics.polls += 1
        began = time.monotonic()
        free = max(0, self._free_slots())
        headers = {
            ACKNOWLEDGE: self._acknowledge,
            FREE_SLOTS: str(free),
            COMMANDS: str(min(max(1, free), MAX_COMMANDS)),
        }
        answer = self._client.get("cmd", [("role", role) for role in self._roles()], headers, self._poll_timeout)
        if not answer.ok:
            self.metrics.poll_errors += 1
            self._was_behind_gateway = self._was_behind_gateway or answer.status in GATEWAY_ERRORS
            self.health.failed("poll", answer.refusal())
            return self._delay(answer.status in GATEWAY_ERRORS, answer.retry_after)
        self.health.contact()
        self._notice_kind(answer)
        self._failing_since = None
        if self._was_behind_gateway:
            # A server in front told of the outage; the controller behind it may have forgotten us.
            self._was_behind_gateway = False
            self._owes_startup = True
        if answer.body.strip():
            return self._take(answer)
        self.health.worked("poll")
        self._backoff.reset()
        return self._after_empty(time.monotonic() - began)

    def _notice_kind(self, answer: Answer) -> None:
        self.health.takes = frozenset(header for header in HEADERS if header.lower() in answer.headers)

    def _after_empty(self, took: float) -> float:
        """Empty means again at once, unless the controller does not hold polls at all: that would be a busy loop."""
        if took >= QUICK:
            self._quick_answers = 0
            self._quick_backoff.reset()
            return 0.0
        self._quick_answers += 1
        return self._quick_backoff.next() if self._quick_answers > 2 else 0.0

    def _take(self, answer: Answer) -> float:
        self.state = "accepting"
        self._quick_answers = 0
        delay = 0.0
        if DELIVERY.lower() in answer.headers:
            self._sink.acknowledges(self.key)
        commands: list[Command] = []
        bodies = answer.body.splitlines() if COMMANDS.lower() in answer.headers else [answer.body]
        for body in bodies:
            self.heartbeat.expect_within(READING, "reading a command")
            try:
                commands.append(self._read(body, self.key))
            except CommandError as error:
                self.heartbeat.expect_within(TIMEOUT_MARGIN, "refusing a command")
                delay = max(delay, self._refuse_command(error))
            give_way()  # a hundred of some size, one after the other, would keep all else waiting
        if commands:
            self.heartbeat.expect_within(TIMEOUT_MARGIN, "accepting commands")
            self.metrics.commands += len(commands)
            self.health.worked("poll")
            self._backoff.reset()
            self._sink.accept(commands, self.key)
        self._remember_token(answer)
        return delay

    def _refuse_command(self, error: CommandError) -> float:
        self.metrics.commands_refused += 1
        self._sink.refuse(error, self.key)
        if error.command_id is not None:
            self._backoff.reset()
            return 0.0
        # Rubbish without an id comes from something that is no controller: no need to hurry.
        self.health.failed("poll", "it hands out what is no command", error.reason)
        return self._backoff.next()

    def _remember_token(self, answer: Answer) -> None:
        token = answer.headers.get(DELIVERY.lower(), "")
        if _TOKEN.fullmatch(token):
            self._acknowledge = token

    def _failed(self, error: TransportError) -> float:
        if error.kind == "interrupted":
            return 0.0  # we called it off ourselves: to stop, or to use new certificates
        if error.kind == "too-large" and error.answer is not None and error.answer.ok:
            self.health.contact()
            delay = self._refuse_command(CommandError(_too_large(error), read_early_id(error.answer.body)))
            self._remember_token(error.answer)
            return delay
        self.metrics.poll_errors += 1
        self._owes_startup = True
        self.health.failed("poll", error.reason, error.hint, unreached=error.is_unreached)
        return self._delay(error.is_unreached or error.kind == "timeout")

    def _delay(self, nobody_answered: bool, retry_after: float | None = None) -> float:
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        self._is_woken = nobody_answered
        self.health.answered.clear()
        return self._backoff.next(retry_after, SOON if now - self._failing_since < BEGINNING else math.inf)


def _too_large(error: TransportError) -> str:
    return f"the command is too large: {error.reason}"
