"""What the ledger cannot write for now (a full disk, a lock held by another program), in order and bounded.

Jobs accepted meanwhile have negative rows until they are written. Results are pending from here and
stay, delivered, until their job's end is written: else a crash would have them reported or run anew.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable
from functools import partial
from typing import Final, NamedTuple

from greenagent.runtime.clock import monotonic_epoch
from greenagent.spool import statements
from greenagent.spool.records import Accepted, Unwritten
from greenagent.spool.transactions import store
from greenagent.values.result import PendingResult

FIRST_ROW: Final = 1 << 60
"""Row numbers from here on are of results in memory: above any of the ledger's, since they are newer."""
MAX_SETTLED: Final = 10_000
"""Delivered results kept for their job's end."""
MAX_MOVED: Final = 10_000
PART: Final = 200
PART_BYTES: Final = 4 * 1024 * 1024
"""What is written in one transaction."""


class Change(NamedTuple):
    """A later one of equal ``key`` takes its place; ``job`` is the row it is about, 0 for none."""

    key: Hashable
    job: int
    function: Callable[[sqlite3.Connection, int], object]
    weight: int = 0


Entry = Accepted | Unwritten | Change
Part = list[tuple[int, Entry]]


class Written(NamedTuple):
    """What became of a part: the rows of its jobs, and those of its results by their numbers here."""

    jobs: dict[int, int]
    results: dict[int, int]


class Journal:
    """Entries under numbers from ``FIRST_ROW``; results beyond ``max_bytes`` go, the oldest first."""

    def __init__(self, max_bytes: int, max_aside_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._max_aside_bytes = max_aside_bytes
        self._next = FIRST_ROW
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._pending: defaultdict[str, OrderedDict[int, Unwritten]] = defaultdict(OrderedDict)
        self._settled: OrderedDict[int, None] = OrderedDict()
        self._keyed: dict[Hashable, int] = {}
        self._accepted: dict[int, int] = {}
        self._ended: defaultdict[str, list[int]] = defaultdict(list)
        self._bytes = self._aside_bytes = 0
        self._rows: dict[int, int] = {}
        self._moved: OrderedDict[int, int] = OrderedDict()
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._entries)

    # -- in

    def accept(self, job: Accepted) -> None:
        self._accepted[job.row] = self._put(job)

    def change(self, key: Hashable, job: int, function: Callable[[sqlite3.Connection, int], object]) -> None:
        """Something to write about the job in row ``job``, or about none (0)."""
        known = self._keyed.get(key)
        if known is not None:
            self._remove(known)
        self._keyed[key] = self._put(Change(key, job, function))

    def aside(self, function: Callable[[sqlite3.Connection, int], object], weight: int) -> int:
        """A refused record of ``weight`` bytes; returns how many old ones had to go for it."""
        dropped = 0
        key = ("aside", self._next)
        self._keyed[key] = self._put(Change(key, 0, function, weight))
        while self._aside_bytes > self._max_aside_bytes:
            oldest = next(n for n, entry in self._entries.items() if isinstance(entry, Change) and entry.weight)
            self._remove(oldest)
            dropped += 1
        return dropped

    def report(self, result: Unwritten) -> int:
        """One more result; returns its number."""
        number = self._put(result)
        self._pending[result.controller][number] = result
        if result.ends:
            self._ended[result.id].append(number)
        elif result.job:
            self._forget_earlier(result.job, number)
        while self._bytes > self._max_bytes and self._drop_oldest():
            pass
        return number

    def settle(self, number: int, now: float) -> int | None:
        """A result needs no sending any more; returns its row in the file when it was written meanwhile."""
        entry = self._entries.get(number)
        if not isinstance(entry, Unwritten):
            return self._moved.get(number)
        if not entry.settled:
            self._entries[number] = entry._replace(settled=now)
            self._settled[number] = None
            self._pending[entry.controller].pop(number, None)
            if not entry.job:
                self._remove(number)  # nobody asks for it again
            elif len(self._settled) > MAX_SETTLED:
                self._drop_oldest()
        return None

    # -- out

    def pending(self, controller: str, limit: int, after: int) -> list[PendingResult]:
        """The oldest results for a controller behind row ``after``, at most ``limit``."""
        found: list[PendingResult] = []
        for number, result in self._pending[controller].items():
            if number > after:
                found.append(PendingResult(number, result.id, result.body.encode()))
                if len(found) >= limit:
                    break
        return found

    def result(self, number: int) -> Unwritten | None:
        entry = self._entries.get(number)
        return entry if isinstance(entry, Unwritten) else None

    def waiting(self) -> dict[str, int]:
        """How many results wait, by controller."""
        return {controller: len(results) for controller, results in self._pending.items() if results}

    def ended(self, job_id: str) -> list[Unwritten]:
        """The last result of each job of an id that ended in memory, newest first."""
        results = [self.result(number) for number in reversed(self._ended.get(job_id, ()))]
        return [result for result in results if result is not None]

    def command(self, row: int) -> str | None:
        """The command of a job that is in memory only, as JSON text."""
        entry = self._entries.get(self._accepted.get(row, 0))
        return entry.command if isinstance(entry, Accepted) else None

    def is_pending(self, result: Unwritten) -> bool:
        """Whether a result of the same job waits here for its controller."""
        return any(one.job == result.job for one in self._pending[result.controller].values())

    def has(self, key: Hashable) -> bool:
        """Whether a change of this key is to be written."""
        return key in self._keyed

    def row_of(self, job: int) -> int:
        """The row of a job in the file; the negative one it was given as long as it is not there."""
        return self._rows.get(job, job)

    # -- to the file

    def part(self) -> Part:
        """The oldest entries, as many as are written at once."""
        found: Part = []
        size = 0
        for number, entry in self._entries.items():
            size += _weight(entry)
            if found and (len(found) >= PART or size > PART_BYTES):
                break
            found.append((number, entry))
        return found

    def write(self, connection: sqlite3.Connection, part: Part) -> Written:
        """Writes a part: in the database's thread, changing nothing here."""
        jobs: dict[int, int] = {}
        results: dict[int, int] = {}
        for number, entry in part:
            if isinstance(entry, Accepted):
                jobs[entry.row] = statements.accept(connection, *entry[1:])
                continue
            job = jobs.get(entry.job) or self._rows.get(entry.job, entry.job)
            if isinstance(entry, Unwritten):
                results[number] = store(connection, entry._replace(job=job))
            elif job >= 0:
                entry.function(connection, job)
        return Written(jobs, results)

    def written(self, part: Part, written: Written) -> list[int]:
        """A part is in the file; returns the rows of those results that were settled meanwhile."""
        self._rows.update(written.jobs)
        settled: list[int] = []
        for number, entry in part:
            now = self._entries.get(number)
            if isinstance(entry, Unwritten):
                self._moved[number] = written.results[number]
                if now is None or (isinstance(now, Unwritten) and now.settled and not entry.settled):
                    settled.append(written.results[number])
            if now is not None:
                self._remove(number)
        while len(self._moved) > MAX_MOVED:
            self._moved.popitem(last=False)
        return settled

    # -- inside

    def _put(self, entry: Entry) -> int:
        number = self._next
        self._next += 1
        self._entries[number] = entry
        self._weigh(entry, 1)
        return number

    def _remove(self, number: int) -> None:
        entry = self._entries.pop(number)
        self._weigh(entry, -1)
        if isinstance(entry, Unwritten):
            self._pending[entry.controller].pop(number, None)
            self._settled.pop(number, None)
            if entry.ends:
                self._ended[entry.id].remove(number)
                if not self._ended[entry.id]:
                    del self._ended[entry.id]
        elif isinstance(entry, Accepted):
            del self._accepted[entry.row]
        elif self._keyed.get(entry.key) == number:
            del self._keyed[entry.key]

    def _weigh(self, entry: Entry, sign: int) -> None:
        if isinstance(entry, Change):
            self._aside_bytes += sign * entry.weight
        else:
            self._bytes += sign * _weight(entry)

    def _forget_earlier(self, job: int, number: int) -> None:
        """A recurring job's settled results: else they would pile up."""
        earlier = [
            one
            for one in self._settled
            if (result := self.result(one)) is not None and result.job == job and not result.ends
        ]
        for one in earlier:
            if one < number:
                self._remove(one)

    def _drop_oldest(self) -> bool:
        """A settled result rather than one that waits; that its job has ended is kept. False when one is left."""
        number = next(iter(self._settled), 0)
        if not number:
            waiting = [next(iter(results)) for results in self._pending.values() if results]
            if not waiting or sum(map(len, self._pending.values())) == 1:
                return False
            number = min(waiting)
            self.dropped += 1
        result = self.result(number)
        assert result is not None
        self._remove(number)
        if result.ends and result.job in self._accepted:
            self._remove(self._accepted[result.job])
        elif result.ends and result.job:
            self.change((result.job, "end"), result.job, partial(_end, now=monotonic_epoch()))
        return True


def _weight(entry: Entry) -> int:
    if isinstance(entry, Unwritten):
        return len(entry.body) + 200
    return len(entry.command) + 200 if isinstance(entry, Accepted) else entry.weight


def _end(connection: sqlite3.Connection, row: int, now: float) -> None:
    statements.end(connection, row, now)
