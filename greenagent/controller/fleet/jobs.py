"""All jobs of a fleet, in Redis: a transaction changes an assignment only where it is still what was looked at.

With that go its place in a queue, the delivery that its agent has not acknowledged, and the news for other processes,
so that a process that dies at any moment leaves nothing half done. Queues are sorted by the order of posting.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Final

from gevent.event import Event

from greenagent.controller.fleet.connection import (
    CLOSE,
    Command,
    Condition,
    FleetRedis,
    absent,
    compact,
    key_of,
    present,
    same,
)
from greenagent.controller.fleet.job_reader import (
    DELIVERING,
    EXPIRING,
    FINISHED,
    JOB_NEWS,
    JOBS,
    QUEUE_NEWS,
    QUEUES,
    ROLE_QUEUES,
    SEQUENCE,
    JobReader,
    job_key,
    member_of,
    queue_key,
    role_queue_key,
)
from greenagent.controller.fleet.job_text import fields_of_job, text_of, wall
from greenagent.controller.limits import Limits
from greenagent.controller.model import TOLD_FOR, AgentKey, Assignment, Brief, Job, Result, Target
from greenagent.controller.state.job_rows import that_fit
from greenagent.controller.state.job_store import LEFT_OUT
from greenagent.controller.state.state_file import ChangedError
from greenagent.runtime.clock import monotonic_epoch
from greenagent.values import states

TRIES: Final = 5
"""Of a change, where others change what it does not depend on."""

_LOOKED_AT: Final = ("state", "token", "deliveries", "received")
"""What a change of an assignment depends on."""


class FleetJobs(JobReader):
    """See ``stores.Jobs``."""

    def __init__(self, redis: FleetRedis, limits: Limits) -> None:
        super().__init__(redis)
        self._limits = limits
        self._locks: dict[str | tuple[str, int], Event] = {}
        self.unfinished_bytes = 0
        """Not counted: Redis has a limit of its own."""

    # -- writing

    @contextmanager
    def lock(self, key: str | Assignment) -> Iterator[None]:
        """Within this process: it spares a transaction that would be in vain. Redis decides between processes."""
        name = key if isinstance(key, str) else (key.job.id, key.number)
        while (held := self._locks.get(name)) is not None:
            held.wait()
        released = self._locks[name] = Event()
        try:
            yield
        finally:
            del self._locks[name]
            released.set()

    def new(self, job_id: str, command: str, brief: Brief, target: Target, **values: Any) -> Job:
        seq = self._redis.run("INCR", SEQUENCE)
        now = time.time()
        changes = self.changes_of(job_id)
        offset = now - monotonic_epoch()
        return Job(seq, job_id, command, brief, target, now, wall_offset=offset, changes=changes, **values)

    def add(self, job: Job) -> None:
        name = job_key(job.id)
        fields = chain.from_iterable(fields_of_job(job).items())
        commands: list[Command] = [("HSET", name, *fields), ("ZADD", JOBS, job.seq, job.id)]
        if job.finished:
            commands += [("ZADD", FINISHED, wall(job.finished), job.id), ("EXPIRE", name, self._keep_for)]
        elif job.adopted:  # it never counts as unfinished, and may never end
            commands += [("ZADD", FINISHED, time.time(), job.id), ("EXPIRE", name, self._keep_for)]
        if job.brief.expires and not job.finished:
            commands.append(("ZADD", EXPIRING, job.created + job.brief.expires, job.id))
        if job.adopted:
            kept = key_of("adopted", job.target.key)
            commands += [("RPUSH", kept, job.id), ("EXPIRE", kept, self._keep_for)]
        results = (
            ("HSET", name, f"r{one.number}.{serial}", result.text)
            for one in job.assignments
            for serial, result in enumerate(one.results, one.received - len(one.results) + 1)
        )
        self._redis.write([absent(name)], chain(commands, self._new(job.assignments), results))

    def extend(self, job: Job, added: list[Assignment]) -> None:
        name = job_key(job.id)
        opened = sum(not one.ended for one in added)
        self._redis.write([present(name)], chain([("HINCRBY", name, "open", opened)], self._new(added)))
        job.assignments.extend(added)

    def update(self, assignment: Assignment, **changes: Any) -> None:
        self._change([(assignment, changes)])

    def update_all(self, changes: Mapping[Assignment, dict[str, Any]]) -> None:
        self._change(list(changes.items()))

    def expand(self, assignment: Assignment, agent: AgentKey, added: Sequence[Assignment]) -> None:
        job = assignment.job
        name = job_key(job.id)
        more: Iterable[Command] = chain(
            [("HSET", name, "away", compact(job.away)), ("HINCRBY", name, "open", len(added))], self._new(added)
        )
        self._change([(assignment, {"agent": agent, "unassigned": False})], more)
        job.assignments.extend(added)

    def stop_waiting(self, job: Job) -> None:
        self._redis.write([present(job_key(job.id))], [("HSET", job_key(job.id), "wait_until", 0)])
        job.wait_until = 0.0

    def note_waiting(self, job_id: str, key: AgentKey, waits: bool) -> None:
        name = job_key(job_id)
        number = self._redis.run("HGET", name, f"i{key}")
        if number is not None:
            now = time.time()
            text = compact([now + TOLD_FOR, 0] if waits else [0, now])
            self._redis.write([present(name)], [("HSET", name, f"w{number}", text)])

    def hold_refusal(self, assignment: Assignment, result: Result) -> None:
        field = f"r{assignment.number}.{assignment.received + 1}"
        more = [
            ("HSET", job_key(assignment.job.id), field, result.text),
            ("SADD", key_of("refused"), member_of(assignment)),
        ]
        self._change([(assignment, {"refused": result, "refused_at": monotonic_epoch()})], more)

    def record(self, assignment: Assignment, result: Result, state: str) -> None:
        job = assignment.job
        name = job_key(job.id)
        goes_on = not job.adopted and not states.is_terminal(state)
        if goes_on and result.size > self._limits.unfinished_bytes // 2:
            result = result.without_output(LEFT_OUT)
        keep = 1 + that_fit(assignment.results, self._limits.results_per_agent - 1)
        received = assignment.received + 1
        results = [*assignment.results, result][-keep:]
        dropped = range(received - len(assignment.results), received - len(results) + 1)
        more: list[Command] = [("HSET", name, f"r{assignment.number}.{received}", result.text)]
        if dropped:
            more.append(("HDEL", name, *(f"r{assignment.number}.{serial}" for serial in dropped)))
        if job.adopted:
            more.append(("EXPIRE", name, self._keep_for))
        changes = {
            "agent": assignment.agent or (result.key if result.delivered else None),
            "state": state,
            "token": "",
            "received": received,
            "refused": None,
            "results": results,
        }
        self._change([(assignment, changes)], more)
        assignment.seen[(result.starttime, result.state)] = None

    def is_repeat(self, assignment: Assignment, result: Result) -> bool:
        return (result.starttime, result.state) in assignment.seen

    @property
    def _keep_for(self) -> int:
        return int(max(self._limits.keep_for, self._limits.keep_least))

    def _new(self, added: Iterable[Assignment]) -> Iterator[Command]:
        for one in added:
            one.stored = text_of(one)
            yield from self._rows(one, None)

    def _change(self, wanted: list[tuple[Assignment, dict[str, Any]]], more: Iterable[Command] = ()) -> None:
        """Changes assignments in one transaction. Raises ChangedError where another process was first."""
        more = list(more)
        for attempt in range(TRIES):
            conditions: list[Condition] = []
            commands: list[Command] = []
            changed = []
            for assignment, changes in wanted:
                new = copy.copy(assignment)
                new.change(**changes)
                new.stored = text_of(new)
                conditions.append(same(job_key(assignment.job.id), f"a{assignment.number}", assignment.stored))
                commands += self._rows(new, assignment)
                changed.append(new)
            try:
                self._redis.write(conditions, chain(more, commands))
            except ChangedError:
                if attempt == TRIES - 1 or not all(self._is_the_same(assignment) for assignment, _ in wanted):
                    raise
                continue
            for (assignment, changes), new in zip(wanted, changed, strict=True):
                assignment.change(**changes, stored=new.stored)
            return

    def _is_the_same(self, assignment: Assignment) -> bool:
        """Whether what a change depends on is as it was when it was looked at; it is read anew then."""
        found = self._assignments(assignment.job, [assignment.number])
        if not found or any(getattr(found[0], name) != getattr(assignment, name) for name in _LOOKED_AT):
            return False
        if not assignment.unassigned and found[0].agent != assignment.agent:
            return False  # an unassigned one names whom it is just offered to
        assignment.change(stored=found[0].stored, handed_to=found[0].handed_to | assignment.handed_to)
        return True

    def _rows(self, new: Assignment, old: Assignment | None) -> Iterator[Command]:
        """The commands that store an assignment, and with it all that follows from it."""
        job = new.job
        name, member = job_key(job.id), member_of(new)
        yield ("HSET", name, f"a{new.number}", new.stored)
        for key in {new.agent, *new.handed_to} - {None}:
            yield ("HSET", name, f"i{key}", new.number)
        was, now = _queue_of(old), _queue_of(new)
        if was != now and was is not None:
            yield ("ZREM", was, member)
        if was != now and now is not None:
            yield ("ZADD", now, job.seq, member)
            yield ("SADD", QUEUES if new.agent is not None and not new.unassigned else ROLE_QUEUES, now)
            yield self._redis.news(QUEUE_NEWS, now)
        for name_of, remove, whose in (("running", "SREM", _running_on), ("deliveries", "HDEL", _delivered_to)):
            before = None if old is None else whose(old)
            if before is not None and before != whose(new):
                yield (remove, key_of(name_of, before), member)
        if (agent := _running_on(new)) is not None and (old is None or _running_on(old) != agent):
            yield ("SADD", key_of("running", agent), member)
        if (agent := _delivered_to(new)) is not None:
            yield ("HSET", key_of("deliveries", agent), member, new.token)
            yield ("SADD", DELIVERING, str(agent))
        if new.ended and old is not None and not old.ended:
            yield (CLOSE, name, job.id, time.time(), self._keep_for, FINISHED)
        yield self._redis.news(JOB_NEWS, job.id)

    # -- what is too old, or too much

    def forget(self, drop: Sequence[Job]) -> None:
        self._forget([job.id for job in drop])

    def trim_adopted(self, key: AgentKey) -> None:
        """Each goes by itself after the time for which finished jobs are kept; an agent has so many at the most."""
        name = key_of("adopted", key)
        excess = self._redis.run("LLEN", name) - self._limits.adopted_per_agent
        if excess > 0:
            self._forget(self._redis.run("LPOP", name, excess))

    def trim(self) -> None:
        now = time.time()
        self._forget(self._redis.run("ZRANGEBYSCORE", FINISHED, 0, now - self._keep_for))
        excess = self._redis.run("ZCARD", FINISHED) - self._limits.keep_jobs
        if excess > 0:
            oldest = self._redis.run("ZRANGE", FINISHED, 0, excess - 1, "WITHSCORES")
            self._forget([job_id for job_id, finished in oldest if now - finished >= self._limits.keep_least])

    def _forget(self, job_ids: Sequence[str]) -> None:
        if job_ids:
            keys = [job_key(job_id) for job_id in job_ids]
            self._redis.pipeline([("DEL", *keys), *(("ZREM", name, *job_ids) for name in (JOBS, FINISHED, EXPIRING))])
            self.announce(job_ids)

    def take_expired(self) -> list[Job]:
        """Those that have ended before stay among the others until then."""
        job_ids = self._redis.run("ZRANGEBYSCORE", EXPIRING, 0, time.time())
        if not job_ids:
            return []
        self._redis.run("ZREM", EXPIRING, *job_ids)
        return [job for job in self._load(job_ids) if not job.finished]

    def refused(self) -> list[Assignment]:
        """Those with a refusal that is held back."""
        members = self._redis.run("SMEMBERS", key_of("refused"))
        found = self.assignments(sorted(members))
        held = [one for one in found if one.refused is not None and not one.ended]
        if over := set(members) - set(map(member_of, held)):
            self._redis.pipeline([("SREM", key_of("refused"), *over)])
        return held


def _queue_of(assignment: Assignment | None) -> str | None:
    if assignment is None or assignment.state != states.QUEUED:
        return None
    if assignment.agent is not None and not assignment.unassigned:
        return queue_key(assignment.agent)
    return role_queue_key(assignment.job.target)


def _running_on(assignment: Assignment) -> AgentKey | None:
    return assignment.agent if assignment.state == states.RUNNING else None


def _delivered_to(assignment: Assignment) -> AgentKey | None:
    return assignment.agent if assignment.token and not assignment.ended else None
