"""All jobs of a fleet as they are read from Redis, and the names under which they lie there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Final
from weakref import WeakValueDictionary

from greenagent.controller.assignments import Assignments
from greenagent.controller.fleet.connection import FleetRedis, compact, key_of
from greenagent.controller.fleet.job_text import assignment_of, job_of, put_results, result_fields
from greenagent.controller.model import AgentKey, Assignment, Changes, Job, Listener, Target
from greenagent.values import states
from greenagent.values.command import RESERVED_ID

JOBS: Final = key_of("jobs")
FINISHED: Final = key_of("finished")
QUEUES: Final = key_of("queues")
ROLE_QUEUES: Final = key_of("role-queues")
DELIVERING: Final = key_of("delivering")
EXPIRING: Final = key_of("expiring")
SEQUENCE: Final = key_of("sequence")
PAGE: Final = 100
"""Jobs read at a time."""
QUEUE_NEWS: Final = "queue"
JOB_NEWS: Final = "job"

_SHOWN: Final = ("meta", "wait_until", "finished", "away")
"""The fields of a job beside its assignments."""


def job_key(job_id: str) -> str:
    return key_of("job", job_id)


def queue_key(key: AgentKey) -> str:
    return key_of("queue", key)


def role_queue_key(target: Target) -> str:
    return key_of("queue", compact([*target.key, target.fanout, *sorted(target.roles)]))


def target_of(queue: str) -> Target:
    """Whose queue ``role_queue_key`` names."""
    gid, nid, fanout, *roles = json.loads(queue.removeprefix(key_of("queue", "")))
    return Target(AgentKey(gid, nid), tuple(roles), fanout)


def member_of(assignment: Assignment) -> str:
    """An assignment's name in queues and other sets."""
    return f"{assignment.number}:{assignment.job.id}"


class JobReader:
    """The part of ``stores.Jobs`` that only reads. What it gives are copies, which say what news they know of."""

    def __init__(self, redis: FleetRedis) -> None:
        self._redis = redis
        self._listeners: list[Listener] = []
        self._changes: WeakValueDictionary[str, Changes] = WeakValueDictionary()
        redis.listen(JOB_NEWS, self._heard)
        redis.after_silence(self._heard_all)

    # -- news

    def changes_of(self, job_id: str) -> Changes:
        """Announced when any process changes the job."""
        return self._changes.setdefault(job_id, Changes())

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def _heard(self, job_id: str, _is_own: bool) -> None:
        if (changes := self._changes.get(job_id)) is not None:
            changes.announce()
        for listener in self._listeners:
            listener(job_id, None)

    def _heard_all(self) -> None:
        for changes in list(self._changes.values()):
            changes.announce()
        for listener in self._listeners:
            listener(None, None)

    def announce(self, job_ids: Iterable[str]) -> None:
        self._redis.pipeline([self._redis.news(JOB_NEWS, job_id) for job_id in job_ids])

    # -- reading

    def get(self, job_id: str, key: AgentKey | None = None) -> Job | None:
        if key is None:
            return next(self._load([job_id]), None)
        changes = self.changes_of(job_id)
        seen, name = changes.number, job_key(job_id)
        values, number = self._redis.pipeline([("HMGET", name, *_SHOWN), ("HGET", name, f"i{key}")])
        if values[0] is None:
            return None
        job = job_of(dict(zip(_SHOWN, values, strict=True)), changes, seen)
        if number is not None:
            job.assignments = Assignments(self._assignments(job, [int(number)]))
        return job

    def _assignments(self, job: Job, numbers: Sequence[int]) -> list[Assignment]:
        name = job_key(job.id)
        names = [field for number in numbers for field in (f"a{number}", f"w{number}")]
        texts = self._redis.run("HMGET", name, *names)
        found = [
            assignment_of(job, number, texts[2 * place], texts[2 * place + 1])
            for place, number in enumerate(numbers)
            if texts[2 * place] is not None
        ]
        self._read_results(found)
        return found

    def _load(self, job_ids: Sequence[str]) -> Iterator[Job]:
        """Those that are known, whole."""
        watched = [self.changes_of(job_id) for job_id in job_ids]
        seen = [changes.number for changes in watched]
        answers = self._redis.pipeline(("HGETALL", job_key(job_id)) for job_id in job_ids)
        for changes, number, answer in zip(watched, seen, answers, strict=True):
            fields = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
            if "meta" not in fields:
                continue
            job = job_of(fields, changes, number)
            for place in sorted(int(field[1:]) for field in fields if field[0] == "a" and field[1:].isdigit()):
                one = assignment_of(job, place, fields[f"a{place}"], fields.get(f"w{place}"))
                put_results(one, map(fields.get, result_fields(place, one.stored)))
                job.assignments.append(one)
            yield job

    def assignments(self, members: Sequence[str]) -> list[Assignment]:
        """By their names in sets; those that are gone are left out."""
        places = [(job_id, int(number)) for number, _, job_id in (member.partition(":") for member in members)]
        watched = [self.changes_of(job_id) for job_id, _ in places]
        seen = [changes.number for changes in watched]
        answers = self._redis.pipeline(
            ("HMGET", job_key(job_id), *_SHOWN, f"a{number}", f"w{number}") for job_id, number in places
        )
        found: list[Assignment] = []
        for (_, number), changes, shown, answer in zip(places, watched, seen, answers, strict=True):
            *values, text, waits = answer
            if values[0] is not None and text is not None:
                job = job_of(dict(zip(_SHOWN, values, strict=True)), changes, shown)
                job.assignments = Assignments([assignment_of(job, number, text, waits)])
                found += job.assignments
        self._read_results(found)
        return found

    def _read_results(self, assignments: Iterable[Assignment]) -> None:
        wanted = [(one, fields) for one in assignments if (fields := result_fields(one.number, one.stored))]
        answers = self._redis.pipeline(("HMGET", job_key(one.job.id), *fields) for one, fields in wanted)
        for (one, _), texts in zip(wanted, answers, strict=True):
            put_results(one, texts)

    def has_part(self, job_id: str, key: AgentKey) -> bool | None:
        if job_id == RESERVED_ID:
            return True
        name = job_key(job_id)
        known, part = self._redis.pipeline([("EXISTS", name), ("HEXISTS", name, f"i{key}")])
        return bool(part) if known else None

    def newest(self) -> Iterator[Job]:
        first = 0
        while ids := self._redis.run("ZREVRANGE", JOBS, first, first + PAGE - 1):
            yield from self._load(ids)
            first += PAGE

    def ids(self) -> Iterator[str]:
        found: list[str] = self._redis.run("ZRANGE", JOBS, 0, -1)
        return iter(found)

    def running_on(self, key: AgentKey) -> list[Assignment]:
        members = self._redis.run("SMEMBERS", key_of("running", key))
        found = self.assignments(sorted(members))
        return [one for one in found if one.agent == key and one.state == states.RUNNING]

    @property
    def unfinished(self) -> int:
        known, finished = self._redis.pipeline([("ZCARD", JOBS), ("ZCARD", FINISHED)])
        count: int = known - finished
        return count
