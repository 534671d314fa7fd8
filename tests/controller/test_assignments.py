"""The assignments of one job: what is asked of all of them, and how many of them that looks at."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import strategies

from greenagent.controller.assignments import FEW, Assignments
from greenagent.values import states
from tests.support.properties import given


@dataclass(eq=False)
class One:
    agent: int | None
    state: str = states.RUNNING
    results: list[One] = field(default_factory=list)


class Counted(One):
    looks = 0

    def __getattribute__(self, name: str) -> object:
        if name in ("agent", "state"):
            Counted.looks += 1
        return super().__getattribute__(name)


STATES = strategies.sampled_from([states.QUEUED, states.RUNNING, states.SUCCESS, states.ERROR])
CHANGES = strategies.tuples(
    strategies.integers(0, 2 * FEW), strategies.integers(0, 3), STATES, strategies.sampled_from(["", "add", "result"])
)


@given(strategies.integers(0, 2 * FEW), strategies.lists(CHANGES))
def test_answers_are_those_of_the_members_as_they_are_now(count: int, changes: list[tuple[int, int, str, str]]) -> None:
    members = Assignments([One(number) for number in range(count)])
    for place, agent, state, how in changes:
        if how == "add" or not members:
            members.append(One(agent))
        one = members[place % len(members)]
        one.agent, one.state = agent, state
        if how == "result":
            one.results.append(One(agent, state))
        for key in (0, agent, 99):
            assert members.of(key) in ([one for one in members if one.agent == key] or [None])
        assert members.have_ended() == all(states.is_terminal(one.state) for one in members)
        assert members.have_ended(one) == all(states.is_terminal(other.state) for other in members if other is not one)
        shown = [(one.results or [one])[-1].state for one in members]
        assert members.are_answered() == all(map(states.is_terminal, shown))


def test_none_are_not_answered() -> None:
    assert not Assignments[One]().are_answered()


def test_the_end_of_each_looks_at_a_few() -> None:
    count = 2000
    members = Assignments([Counted(number) for number in range(count)])
    for one in random.Random(1).sample(members, count):
        assert members.of(one.agent) is one
        one.state = states.SUCCESS
        members.have_ended(one)
        members.have_ended()
        members.are_answered()
    assert members.have_ended()
    assert Counted.looks < 30 * count
