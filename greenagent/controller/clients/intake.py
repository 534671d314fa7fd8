"""Commands of original clients, taken one after the other.

They go from their queue to a list of what is just being taken, several at a time, since each move may cost a look at
the disk. They leave that list in the moment in which the clients see what became of them. A controller that is killed
in between finds them there again, with the number by which the job that was made of each is known.
"""

from __future__ import annotations

import json
import uuid
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import gevent
from gevent.event import Event

from greenagent.controller.clients.connection import OUTAGES, PREFIX, ClientsRedis, Command, NotHolderError
from greenagent.controller.clients.publisher import Publisher, Taken, tags_of
from greenagent.controller.clients.wire import (
    JOB_LOG,
    KEPT_FOR,
    Generation,
    hash_key,
    push_queued,
    push_result,
    response,
)
from greenagent.controller.dispatch.submission import (
    MAX_WAIT,
    KnownIdError,
    Posted,
    Submission,
    TooManyJobsError,
    parse_posted,
)
from greenagent.controller.limits import Limits
from greenagent.controller.model import IDENTITY_DIGITS
from greenagent.controller.state.state_file import StateError
from greenagent.controller.stores import Jobs
from greenagent.runtime.agent_log import AgentLog
from greenagent.values import levels, states
from greenagent.values.command import POSTING, problem_of_id
from greenagent.values.errors import CommandError

SET_ASIDE: Final = PREFIX + "malformed"
MOST: Final = 100
"""Elements that are taken at a time."""
MAX_LENGTH: Final = 4 * 1024 * 1024
"""Bytes of them together, about."""
AGAIN: Final = 1.0
"""Seconds until a command is tried again for which there is no room just now."""
MAX_SET_ASIDE: Final = 64 * 1024
"""Bytes of each element that is set aside."""
MAX_REASON: Final = 300
"""Characters of a reason that is said."""


class Intake:
    """One queue of commands. Who calls a method may have ``OUTAGES`` and NotHolderError raised."""

    def __init__(
        self,
        generation: Generation,
        redis: ClientsRedis,
        publisher: Publisher,
        submission: Submission,
        jobs: Jobs,
        limits: Limits,
        log: AgentLog,
    ) -> None:
        self._generation = generation
        self._queue = generation.queue
        self._taken = f"{PREFIX}{self._queue}:taken"
        self._number_key = f"{PREFIX}{self._queue}:number"
        self._waiting_key = f"{PREFIX}{self._queue}:waiting"
        self._redis = redis
        self._publisher = publisher
        self._submission = submission
        self._jobs = jobs
        self._limits = limits
        self._log = log
        self._refusals = log.rate_limited()
        self._trouble = log.on_change()
        self._waiting: dict[str, deque[bytes]] = {}
        """By the id that another job has: commands that wait for its end."""
        self._returned: dict[str, bytes] = {}
        """Those of them that are in the queue again: no other of the id may go first."""
        self._ended: set[str] = set()
        self._wake = Event()
        self._series, self._number = "", 0
        """The number of the first element of what is just being taken, within a series that is nowhere else."""
        self._handled: list[Taken] = []
        """The elements from that one on of which clients do not know yet."""

    def note(self, job_id: str) -> None:
        """A job has changed; never blocks."""
        if job_id in self._waiting:
            self._ended.add(job_id)
            self._wake.set()

    def note_all(self) -> None:
        """Any job may have changed; never blocks."""
        self._ended.update(self._waiting)
        self._wake.set()

    def take_over(self) -> None:
        """Reads which commands wait for the end of others."""
        self._returned.clear()
        self._waiting.clear()
        for element in self._redis.all_of(self._waiting_key):
            try:
                job_id = str(_value(element).get("id"))
            except CommandError:
                continue  # somebody else has put it there
            self._waiting.setdefault(job_id, deque()).append(element)
        self.note_all()

    def run(self) -> None:
        """Takes commands, for ever."""
        self._handled.clear()
        series, _, number = self._redis.text(self._number_key).partition(":")
        is_known = number.isascii() and number.isdigit()
        self._series, self._number = (series, int(number)) if is_known else (uuid.uuid4().hex, 0)
        # Before anything is taken: where Redis has forgotten the number, it has forgotten the list, too.
        self._redis.write([self._said_number(0)])
        while True:
            # Also where nothing comes: a controller that stood still may have taken one when it was our turn already.
            self._handle_all(self._redis.all_of(self._taken))
            while (element := self._redis.take(self._queue, self._taken)) is not None:
                self._handle_all([element, *self._redis.take_more(self._queue, self._taken, MOST - 1, MAX_LENGTH)])

    def return_waiting(self) -> None:
        """For ever: puts commands whose id is free again to the head of the queue."""
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._ended:
                job_id = self._ended.pop()
                waiting = self._waiting.get(job_id)
                if not waiting or job_id in self._returned or not self._is_free(job_id):
                    continue
                element = waiting[0]
                self._returned[job_id] = element  # before it can be taken
                self._redis.write([("LREM", self._waiting_key, 1, element), ("LPUSH", self._queue, element)])
                waiting.popleft()
                if not waiting:
                    self._waiting.pop(job_id, None)

    def _is_free(self, job_id: str) -> bool:
        job = self._jobs.get(job_id)
        return job is None or job.adopted or bool(job.finished)

    def _handle_all(self, elements: Sequence[bytes]) -> None:
        """Makes jobs of all elements of the list of what is being taken; they leave that whatever they are."""
        for element in elements:
            self._redis.require_holder()
            self._handle(element)
        self._flush()

    def _flush(self) -> None:
        """Lets clients see what became of the elements, and takes these out of the list, in one moment."""
        if not self._handled:
            return
        many = len(self._handled)
        self._publisher.enter(self._handled, [("LTRIM", self._taken, many, -1), self._said_number(many)])
        self._number += many
        self._handled.clear()

    def _said_number(self, more: int) -> Command:
        return ("SET", self._number_key, f"{self._series}:{self._number + more}")

    def _handle(self, element: bytes) -> None:
        try:
            posted, tags = self._read(element)
        except CommandError as error:
            self._refuse(element, error.reason)
            return
        while True:
            try:
                self._submit(element, posted, tags)
            except (TooManyJobsError, StateError) as error:
                self._flush()
                self._trouble.warning(f"commands wait in {self._queue}: {error}")
                gevent.sleep(AGAIN)
            except CommandError as error:
                self._refuse(element, error.reason)
                return
            except (*OUTAGES, NotHolderError):
                raise
            except Exception as error:  # the next element is somebody else's
                what = f"{type(error).__name__}: {error}; please report this"
                self._log.error(f"internal error at a command in {self._queue}: {what}")
                self._refuse(element, "internal error")
                return
            else:
                self._trouble.resolved(f"commands of {self._queue} are taken again")
                return

    def _read(self, element: bytes) -> tuple[Posted, str]:
        """The command with what we add to it, and its tags. Raises CommandError."""
        if len(element) > self._limits.job_body:
            raise CommandError(f"a command has {self._limits.job_body} bytes at most")
        command = _value(element)
        posting = f"{self._series}.{self._number + len(self._handled)}"
        command[POSTING] = f"{self._queue}:{posting}"
        if command.get("id") is None:
            command["id"] = posting
        if self._generation.is_first and not command.get("fanout"):
            command["wait_for_agent"] = MAX_WAIT
        return parse_posted(command), tags_of(command)

    def _submit(self, element: bytes, posted: Posted, tags: str) -> None:
        """Raises CommandError, TooManyJobsError, StateError."""
        job_id = posted.id
        known = self._jobs.get(job_id)
        if known is not None and _posting_of(known.command) == _posting_of(posted.text):
            job = known  # it was submitted before a controller was killed, or Redis went away
        elif self._must_wait(job_id, element):
            self._wait(job_id, element)
            return
        else:
            if known is not None:  # it is about to be forgotten
                self._flush()
                self._publisher.finish(job_id)
                posted = self._read(element)[0]
            try:
                job = self._submission.submit(posted, again=True, settled=not self._generation.is_first)
            except KnownIdError:  # posted elsewhere in this moment
                self._wait(job_id, element)
                return
        self._handled.append(Taken(self._generation, self._log_commands(element), job, tags))
        self._is_through(job_id, element)

    def _must_wait(self, job_id: str, element: bytes) -> bool:
        if job_id in self._returned:
            return self._returned[job_id] != element
        return job_id in self._waiting or not self._is_free(job_id)

    def _wait(self, job_id: str, element: bytes) -> None:
        """It stays where it is kept until the job that has its id has ended."""
        is_first = self._returned.get(job_id) == element  # another has taken the id, not by way of this queue
        kept: Command = ("LPUSH" if is_first else "RPUSH", self._waiting_key, element)
        self._handled.append(Taken(self._generation, [kept]))
        self._flush()  # before it can be put back
        waiting = self._waiting.setdefault(job_id, deque())
        if is_first:
            waiting.appendleft(element)
        else:
            waiting.append(element)
        text = f"a command in {self._queue} waits for the end of the job that has its id, {job_id!r}"
        self._refusals.log(levels.LOG, text)
        self._is_through(job_id, element)

    def _is_through(self, job_id: str, element: bytes) -> None:
        """An element has left the list of what is being taken."""
        if self._returned.get(job_id) == element:
            del self._returned[job_id]
        self.note(job_id)  # the job that others wait for may have ended meanwhile

    def _refuse(self, element: bytes, reason: str) -> None:
        """Answers a command whose client can be told, and sets aside what is none."""
        reason = reason[:MAX_REASON]
        try:
            value = _value(element)
        except CommandError:
            value = {}
        job_id = value.get("id")
        if not isinstance(job_id, str) or problem_of_id(job_id):
            kept: list[Command] = [
                ("LPUSH", SET_ASIDE, element[:MAX_SET_ASIDE]),
                ("LTRIM", SET_ASIDE, 0, self._limits.clients_set_aside - 1),
            ]
            self._handled.append(Taken(self._generation, kept))
            self._refusals.log(levels.WARNING, f"an element of {self._queue} was set aside in {SET_ASIDE}: {reason}")
            return
        gid, nid = _number(value.get("gid")), _number(value.get("nid"))
        text = response(job_id, gid, nid, states.ERROR, data=reason, tags=tags_of(value))
        told = push_result(self._generation, job_id, f"{gid}:{nid}", text)
        expires = ("EXPIRE", hash_key(job_id), KEPT_FOR)
        queued = () if self._generation.is_first else push_queued(job_id)
        told_all = [*self._log_commands(element), *told, expires, *queued]
        self._handled.append(Taken(self._generation, told_all))
        self._is_through(job_id, element)
        self._refusals.log(levels.WARNING, f"the command {job_id!r} in {self._queue} was refused: {reason}")

    def _log_commands(self, element: bytes) -> list[Command]:
        if not self._generation.is_first:
            return []
        return [("LPUSH", JOB_LOG, element), ("LTRIM", JOB_LOG, 0, self._limits.clients_log - 1)]


def _posting_of(command: str) -> str:
    """Which posting of a command a job was made of; "" where it was posted otherwise."""
    return str(json.loads(command).get(POSTING) or "") if POSTING in command else ""


def _value(element: bytes) -> dict[str, Any]:
    """The JSON object of an element. Raises CommandError."""
    try:
        value = json.loads(element)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"it is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CommandError("a command is a JSON object")
    return value


def _number(value: Any) -> int:
    is_one = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**IDENTITY_DIGITS
    return value if is_one else 0
