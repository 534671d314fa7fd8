"""Commands of original clients, taken one after the other.

Each goes from its queue to a list of what is just being taken, and leaves that in the same moment in which the clients
see what became of it. A controller that is killed in between finds it there again, with the ticket by which the job
that was made of it is known.
"""

from __future__ import annotations

import json
import uuid
from collections import deque
from typing import Any, Final

import gevent
from gevent.event import Event

from greenagent.controller.clients.connection import OUTAGES, PREFIX, ClientsRedis, Command, NotHolderError
from greenagent.controller.clients.publisher import Publisher, tags_of
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
        self._ticket = f"{PREFIX}{self._queue}:ticket"
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

    def note(self, job_id: str) -> None:
        """A job has changed; never blocks."""
        if job_id in self._waiting:
            self._ended.add(job_id)
            self._wake.set()

    def take_over(self) -> None:
        """Reads which commands wait for the end of others."""
        self._returned.clear()
        self._waiting.clear()
        for element in self._redis.all_of(self._waiting_key):
            job_id = _value(element).get("id")
            self._waiting.setdefault(str(job_id), deque()).append(element)
        self._ended.update(self._waiting)
        self._wake.set()

    def run(self) -> None:
        """Takes commands, for ever."""
        while True:
            # Also where nothing comes: a controller that stood still may have taken one when it was our turn already.
            for left in self._redis.all_of(self._taken):
                self._handle(left)
            while (element := self._redis.take(self._queue, self._taken)) is not None:
                self._handle(element)

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

    def _handle(self, element: bytes) -> None:
        """Makes a job of an element of the list of what is being taken; it leaves that whatever it is."""
        try:
            posted, command = self._read(element)
        except CommandError as error:
            self._refuse(element, error.reason)
            return
        while True:
            try:
                self._submit(element, posted, command)
            except (TooManyJobsError, StateError) as error:
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

    def _read(self, element: bytes) -> tuple[Posted, dict[str, Any]]:
        """The command with what we add to it. Raises CommandError."""
        if len(element) > self._limits.job_body:
            raise CommandError(f"a command has {self._limits.job_body} bytes at most")
        command = _value(element)
        ticket = self._redis.set_once(self._ticket, uuid.uuid4().hex)
        command[POSTING] = f"{self._queue}:{ticket}"
        if command.get("id") is None:
            command["id"] = ticket
        if self._generation.is_first and not command.get("fanout"):
            command["wait_for_agent"] = MAX_WAIT
        return parse_posted(command), command

    def _submit(self, element: bytes, posted: Posted, command: dict[str, Any]) -> None:
        """Raises CommandError, TooManyJobsError, StateError."""
        job_id = posted.id
        known = self._jobs.get(job_id)
        if known is not None and json.loads(known.command).get(POSTING) == command[POSTING]:
            job = known  # it was submitted before a controller was killed, or Redis went away
        elif self._must_wait(job_id, element):
            self._wait(job_id, element)
            return
        else:
            self._publisher.finish(job_id)
            try:
                job = self._submission.submit(posted, again=True, settled=not self._generation.is_first)
            except KnownIdError:  # posted elsewhere in this moment
                self._wait(job_id, element)
                return
        self._publisher.enter(
            job, self._generation, tags_of(command), [*self._log_commands(element), *self._done(element)]
        )
        self._is_through(job_id, element)

    def _must_wait(self, job_id: str, element: bytes) -> bool:
        if job_id in self._returned:
            return self._returned[job_id] != element
        return job_id in self._waiting or not self._is_free(job_id)

    def _wait(self, job_id: str, element: bytes) -> None:
        """It stays where it is kept until the job that has its id has ended."""
        is_first = self._returned.get(job_id) == element  # another has taken the id, not through this queue
        self._redis.write([("LPUSH" if is_first else "RPUSH", self._waiting_key, element), *self._done(element)])
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
            self._redis.write(
                [
                    ("LPUSH", SET_ASIDE, element[:MAX_SET_ASIDE]),
                    ("LTRIM", SET_ASIDE, 0, self._limits.clients_set_aside - 1),
                    *self._done(element),
                ]
            )
            self._refusals.log(levels.WARNING, f"an element of {self._queue} was set aside in {SET_ASIDE}: {reason}")
            return
        gid, nid = _number(value.get("gid")), _number(value.get("nid"))
        text = response(job_id, gid, nid, states.ERROR, data=reason, tags=tags_of(value))
        told = push_result(self._generation, job_id, f"{gid}:{nid}", text)
        expires = ("EXPIRE", hash_key(job_id), KEPT_FOR)
        queued = () if self._generation.is_first else push_queued(job_id)
        self._redis.write([*self._log_commands(element), *told, expires, *queued, *self._done(element)])
        self._is_through(job_id, element)
        self._refusals.log(levels.WARNING, f"the command {job_id!r} in {self._queue} was refused: {reason}")

    def _log_commands(self, element: bytes) -> list[Command]:
        if not self._generation.is_first:
            return []
        return [("LPUSH", JOB_LOG, element), ("LTRIM", JOB_LOG, 0, self._limits.clients_log - 1)]

    def _done(self, element: bytes) -> list[Command]:
        return [("LREM", self._taken, 1, element), ("DEL", self._ticket)]


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
