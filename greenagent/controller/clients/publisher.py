"""What becomes of the clients' jobs, written where the clients look for it.

The job as it is now is compared with what was written of it, and the difference is written. So nothing is missed
while Redis is away, and it does not matter at which moment a controller is killed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple

from gevent.event import Event
from gevent.lock import BoundedSemaphore

from greenagent.controller.clients.connection import ClientsRedis, Command
from greenagent.controller.clients.wire import (
    GENERATIONS,
    KEPT_FOR,
    Generation,
    field_of,
    hash_key,
    push_queued,
    push_result,
    queued_key,
    set_field,
    text_of_placeholder,
    text_of_result,
)
from greenagent.controller.model import Assignment, Job
from greenagent.controller.stores import Jobs
from greenagent.runtime.clock import monotonic_epoch
from greenagent.runtime.greenlets import give_way
from greenagent.values import states
from greenagent.values.command import POSTING

MOST: Final = 100
"""Jobs whose changes are written in one go."""
MAX_LENGTH: Final = 4 * 1024 * 1024
"""Characters of results written in one go; a single one may be longer."""


class Mark(NamedTuple):
    """What was written of a job on one agent."""

    field: str
    state: str
    received: int
    """How many of its results, as ``Assignment.received`` counts them."""


@dataclass(slots=True)
class Entry:
    """A job that came from a client, and what was written of it."""

    seq: int
    """That of the job: another job may have the id later."""
    generation: Generation
    tags: str
    is_queued: bool = False
    """Clients were told that all agents of the job are known."""
    marks: dict[int, Mark] = field(default_factory=dict)
    """By the number of the assignment."""


class Difference(NamedTuple):
    """What is to be written of a job, and what is true once it is."""

    entry: Entry
    commands: list[Command]
    marks: dict[int, Mark]
    is_queued: bool

    @property
    def length(self) -> int:
        """Characters of its texts."""
        return sum(len(value) for command in self.commands for value in command if isinstance(value, str))

    def note_written(self) -> None:
        self.entry.marks.update(self.marks)
        self.entry.is_queued = self.is_queued


class Taken(NamedTuple):
    """A command that was taken from a queue."""

    generation: Generation
    commands: list[Command]
    """What is to be written beside the job."""
    job: Job | None = None
    tags: str = ""


class Publisher:
    """Writes what changes. Who calls a method that writes may have ``OUTAGES`` and NotHolderError raised."""

    def __init__(self, redis: ClientsRedis, jobs: Jobs) -> None:
        self._redis = redis
        self._jobs = jobs
        self._entries: dict[str, Entry] = {}
        self._changed: dict[str, set[int] | None] = {}
        """By the id of the job: the numbers of assignments, None for all."""
        self._wake = Event()
        self._lock = BoundedSemaphore()
        """Held from the look at a job until what it showed is written: it would be written twice otherwise."""

    def note(self, job_id: str, number: int | None = None) -> None:
        """An assignment of a job has changed, or any of them; never blocks."""
        if job_id not in self._entries:
            return
        numbers = self._changed.setdefault(job_id, set())
        if number is None:
            self._changed[job_id] = None
        elif numbers is not None:
            numbers.add(number)
        self._wake.set()

    def note_all(self) -> None:
        """Any job may have changed; never blocks."""
        self._changed = dict.fromkeys(self._entries)
        self._wake.set()

    def run(self) -> None:
        """Writes, for ever, what has changed."""
        while True:
            self._wake.wait()
            self._wake.clear()
            self.write_all()

    def write_all(self) -> None:
        """Writes all that has changed."""
        while self._changed:
            self._write(list(islice(self._changed, MOST)))

    def finish(self, job_id: str) -> None:
        """Writes at once what is still to be written of a job: another is about to take its id."""
        if job_id in self._changed:
            self._write([job_id])

    def _write(self, ids: list[str]) -> None:
        """Writes what has changed of some jobs, as far as it is not too much at once."""
        with self._lock:
            found: list[Difference] = []
            length = 0
            for job_id in ids:
                if job_id not in self._changed or length > MAX_LENGTH:
                    continue
                # What changes from here on is told again. Where it cannot be written, ``take_over`` finds that out.
                difference = self._difference(job_id, self._changed.pop(job_id))
                if difference is not None:
                    length += difference.length
                    found.append(difference)
            self._redis.write([command for one in found for command in one.commands])
            for one in found:
                one.note_written()

    def _difference(self, job_id: str, numbers: set[int] | None) -> Difference | None:
        entry, job = self._entries.get(job_id), self._jobs.get(job_id)
        if entry is None:
            return None
        if job is None:
            del self._entries[job_id]
            return None
        return difference_of(job, entry, numbers) if job.seq == entry.seq else None

    def enter(self, taken: Sequence[Taken], more: Iterable[Command]) -> None:
        """Writes what there is of jobs that clients asked for, and ``more`` behind it, in one go."""
        with self._lock:
            commands: list[Command] = []
            found: list[tuple[Job, Difference]] = []
            for one in taken:
                commands += one.commands
                if one.job is not None:
                    entry = self._entries.get(one.job.id)
                    if entry is None or entry.seq != one.job.seq:
                        entry = Entry(one.job.seq, one.generation, one.tags)
                    difference = difference_of(one.job, entry)
                    commands += difference.commands
                    found.append((one.job, difference))
            self._redis.write([*commands, *more])
            for job, difference in found:
                difference.note_written()
                self._entries[job.id] = difference.entry
        for job, _ in found:
            self.note(job.id)  # it may have changed meanwhile

    # -- after an outage, or another controller

    def take_over(self) -> None:
        """Finds out what was written of each job of a client, and writes the rest."""
        self._entries.clear()
        self._changed.clear()
        page: list[tuple[Job, Entry]] = []
        for job in self._jobs.newest():
            give_way()
            if (entry := _entry_of(job)) is not None:
                page.append((job, entry))
            if len(page) == MOST:
                self._look(page)
                page = []
        self._look(page)
        self.write_all()

    def _look(self, page: list[tuple[Job, Entry]]) -> None:
        """Sets the marks of jobs to what Redis has."""
        if not page:
            return
        shown = [(job, entry, one) for job, entry in page for one in job.assignments]
        digests = self._redis.digests([(hash_key(job.id), field_of(one)) for job, _, one in shown])
        for (_, entry, one), digest in zip(shown, digests, strict=True):
            if (mark := _mark_of(one, entry.tags, digest)) is not None:
                entry.marks[one.number] = mark
        queued = self._redis.exist([queued_key(job.id) for job, _ in page])
        for (job, entry), is_queued in zip(page, queued, strict=True):
            entry.is_queued = is_queued
            self._entries[job.id] = entry
            self.note(job.id)


def _entry_of(job: Job) -> Entry | None:
    """None for one that no client asked for, or whose clients do not find it any more in any case."""
    if job.finished and monotonic_epoch() - job.finished > KEPT_FOR:
        return None
    if f'"{POSTING}"' not in job.command:
        return None
    command = json.loads(job.command)
    generation = generation_of(command)
    return None if generation is None else Entry(job.seq, generation, tags_of(command))


def generation_of(command: dict[str, Any]) -> Generation | None:
    """Whose clients a command came from."""
    return GENERATIONS.get(str(command.get(POSTING) or "").partition(":")[0])


def tags_of(command: dict[str, Any]) -> str:
    tags = command.get("tags")
    return tags if isinstance(tags, str) else ""


def _mark_of(one: Assignment, tags: str, digest: str) -> Mark | None:
    """What Redis has of it, by the sha1 of that; None where it is none of what we would write."""
    if not digest:
        return None
    for place, result in enumerate(reversed(one.results)):
        if _digest(text_of_result(result, tags)) == digest:
            return Mark(field_of(one), one.state if not place else states.RUNNING, one.received - place)
    is_placeholder = _digest(text_of_placeholder(one, tags)) == digest
    return Mark(field_of(one), one.state, 0) if is_placeholder else None


def _digest(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def difference_of(job: Job, entry: Entry, numbers: set[int] | None = None) -> Difference:
    """What is to be written of a job, or of some of its assignments. Nothing lets others run here."""
    commands: list[Command] = []
    marks: dict[int, Mark] = {}
    # Each agent's answer to a fan-out is a change of its own: all others must not be looked at for it.
    looked_at = job.assignments if numbers is None else [job.assignments[number] for number in sorted(numbers)]
    for one in looked_at:
        mark = entry.marks.get(one.number)
        now = Mark(field_of(one), one.state, one.received)
        if mark == now or _is_unsaid(one, entry.generation):
            continue
        marks[one.number] = now
        if mark is not None and mark.field != now.field:
            commands.append(("HDEL", hash_key(job.id), mark.field))  # another agent has taken it
        commands += _commands_of(one, entry, mark)
    if commands:
        commands.append(("EXPIRE", hash_key(job.id), KEPT_FOR))
    is_queued = entry.is_queued or entry.generation.is_first
    if not is_queued and not any(one.agent is None and not one.ended for one in job.assignments):
        commands += push_queued(job.id)
        is_queued = True
    return Difference(entry, commands, marks, is_queued)


def _is_unsaid(one: Assignment, generation: Generation) -> bool:
    """Clients hear nothing of what no agent has; those of the first generation know no QUEUED."""
    return one.state == states.QUEUED and not one.results and (one.agent is None or generation.is_first)


def _commands_of(one: Assignment, entry: Entry, mark: Mark | None) -> Iterator[Command]:
    job_id, name = one.job.id, field_of(one)
    unsaid = one.received - (mark.received if mark is not None else 0)
    if one.results:
        for result in one.results[-unsaid:] if unsaid else ():
            yield from push_result(entry.generation, job_id, name, text_of_result(result, entry.tags))
    elif mark is None or (mark.field, mark.state) != (name, one.state):
        yield set_field(job_id, name, text_of_placeholder(one, entry.tags))
