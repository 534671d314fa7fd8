"""A queue of commands: one for each agent, one for each set of roles."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator

from greenagent.controller.model import Assignment
from greenagent.values import states


class CommandQueue:
    """Commands that wait, in the order they were posted, also where one comes back.

    One that is no longer QUEUED (killed, or answered after all) is left where it is and passed over.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[Assignment] = []

    def add(self, assignment: Assignment) -> None:
        insort(self._waiting, assignment, key=_place)

    def remove(self, assignment: Assignment) -> None:
        """Takes a command out, wherever it stands, if it is still there."""
        if assignment in self._waiting:
            self._waiting.remove(assignment)

    def first(self) -> Assignment | None:
        """The command that has waited longest."""
        while self._waiting and self._waiting[0].state != states.QUEUED:
            del self._waiting[0]
        return self._waiting[0] if self._waiting else None

    def take(self) -> Assignment | None:
        """The command that has waited longest, taken out."""
        return self._waiting.pop(0) if self.first() else None

    def __iter__(self) -> Iterator[Assignment]:
        return iter([one for one in self._waiting if one.state == states.QUEUED])


def _place(assignment: Assignment) -> tuple[int, int]:
    return assignment.job.seq, assignment.number
