"""Records of runs on their way into the database: they go with the lines, and wait while nothing can be written.

In the writer's thread.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

from greenagent.logs.runs import RunRecord

MAX_WAITING: Final = 10_000
"""Records that wait for a disk with room; older ones are counted as lost."""


class Batch(NamedTuple):
    """Records for one transaction, their size in bytes, and how many of them may stand anywhere in the table."""

    records: list[RunRecord]
    size: int
    anywhere: int


class RunRows:
    """What waits. The end of a run that has not been written yet takes the place of its beginning."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[int, RunRecord] = OrderedDict()
        self._lost = 0
        self.highest = 0
        """The highest number in any database: what has a lower one may stand anywhere in the table."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, record: RunRecord) -> None:
        if len(self._waiting) >= MAX_WAITING and record.number not in self._waiting:
            self._waiting.popitem(last=False)
            self._lost += 1
        self._waiting[record.number] = record

    def next(self, limit: int, most: int) -> Batch:
        """The first that wait, at least one where there is one: ``limit`` bytes, ``most`` anywhere in the table."""
        chosen: list[RunRecord] = []
        size = anywhere = 0
        for record in self._waiting.values():
            is_anywhere = record.number <= self.highest
            if chosen and (size + record.stored_size > limit or anywhere + is_anywhere > most):
                break
            chosen.append(record)
            size += record.stored_size
            anywhere += is_anywhere
        return Batch(chosen, size, anywhere)

    def written(self, records: Sequence[RunRecord]) -> None:
        """These are committed."""
        for record in records:
            self._waiting.pop(record.number, None)
            self.highest = max(self.highest, record.number)

    def take_lost(self) -> int:
        """How many were dropped since this was asked last."""
        lost, self._lost = self._lost, 0
        return lost
