"""The assignments of one job: a fan-out may have ten thousand, each of which is looked for several times."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import chain
from typing import Final, Protocol, TypeVar

from greenagent.values import states

FEW: Final = 8
"""So many are looked through faster than a table is made of them."""


class _HasState(Protocol):
    @property
    def state(self) -> str: ...


class _Assignment(_HasState, Protocol):
    @property
    def agent(self) -> Hashable: ...

    @property
    def results(self) -> Sequence[_HasState]: ...


One = TypeVar("One", bound=_Assignment)


class Assignments(list[One]):
    """A list that is only made longer, whose members change.

    That all have ended is asked at the end of each: a look begins where the one before found one that had not, so that
    all looks together pass each member a few times.
    """

    __slots__ = ("_by_agent", "_indexed", "_unanswered", "_unended")

    def __init__(self, members: Iterable[One] = ()) -> None:
        super().__init__(members)
        self._by_agent: dict[Hashable, One] = {}
        self._indexed = self._unended = self._unanswered = 0

    def of(self, agent: Hashable) -> One | None:
        """The one that is for the agent or was delivered to it."""
        if len(self) > FEW:
            if self._indexed != len(self):
                self._by_agent = {one.agent: one for one in reversed(self)}
                self._indexed = len(self)
            found = self._by_agent.get(agent)
            if found is not None and found.agent == agent:  # as before
                return found
        return next((one for one in self if one.agent == agent), None)

    def have_ended(self, but: One | None = None) -> bool:
        """Whether all have, ``but`` left aside."""
        found = self._find(self._unended, lambda one: one is not but and not states.is_terminal(one.state))
        self._unended = found or 0
        return found is None

    def are_answered(self) -> bool:
        """Whether there are some, and what is shown of each is terminal: its newest result, else its state."""
        found = self._find(self._unanswered, lambda one: not states.is_terminal((one.results or [one])[-1].state))
        self._unanswered = found or 0
        return found is None and bool(self)

    def _find(self, begin: int, is_wanted: Callable[[One], bool]) -> int | None:
        """The place of the next that is wanted, from one on and around."""
        places = chain(range(begin, len(self)), range(min(begin, len(self))))
        return next((place for place in places if is_wanted(self[place])), None)
