"""Results in memory while the ledger's disk is full: bounded, counted, written when space returns."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from greenagent.values.result import PendingResult

FIRST_ROW: Final = 1 << 60
"""Row numbers from here on are of results in memory: above any of the ledger's, since they are newer."""


class Unwritten(NamedTuple):
    """A result that could not be stored yet; ``job`` is its job's row, ``ends`` whether it is the last."""

    job: int
    controller: str
    id: str
    state: str
    body: str
    ends: bool


class Overflow:
    """Results under row numbers from ``FIRST_ROW``, at most ``max_bytes`` of them; the oldest go first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._next = FIRST_ROW
        self._results: OrderedDict[int, Unwritten] = OrderedDict()
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._results)

    def add(self, result: Unwritten) -> None:
        self._results[self._next] = result
        self._next += 1
        self._bytes += len(result.body)
        while self._bytes > self._max_bytes and len(self._results) > 1:
            self.remove(next(iter(self._results)))
            self.dropped += 1

    def remove(self, row: int) -> Unwritten | None:
        result = self._results.pop(row, None)
        if result is not None:
            self._bytes -= len(result.body)
        return result

    def pending(self, controller: str, limit: int, after: int) -> list[PendingResult]:
        """The oldest results for a controller behind row ``after``, at most ``limit``."""
        found: list[PendingResult] = []
        for row, result in self._results.items():
            if result.controller == controller and row > after:
                found.append(PendingResult(row, result.id, result.body.encode()))
                if len(found) >= limit:
                    break
        return found

    def oldest(self) -> tuple[int, Unwritten] | None:
        """The first one to write to the ledger."""
        for row, result in self._results.items():
            return row, result
        return None
