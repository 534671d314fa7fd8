"""The waiting lines: one per agent, one per set of roles."""

from __future__ import annotations

from collections import deque

from greenagent.controller.agents import Agent
from greenagent.controller.jobs import Assignment, Target


class RoleLines:
    """Role commands that have found no agent yet, in order of arrival for each set of roles."""

    def __init__(self) -> None:
        self._lines: dict[Target, deque[Assignment]] = {}

    def add(self, assignment: Assignment, first: bool = False) -> None:
        """Puts a command at the end, or back at the head of its line."""
        line = self._lines.setdefault(assignment.job.target, deque())
        enter(line, assignment, first)

    def take(self, agent: Agent) -> Assignment | None:
        """The oldest command this agent may run, removed from its line."""
        best: deque[Assignment] | None = None
        for target, line in list(self._lines.items()):
            drop_ended(line)
            if not line:
                del self._lines[target]
            elif target.matches(agent.key, agent.roles) and (best is None or line[0].job.seq < best[0].job.seq):
                best = line
        return leave(best) if best is not None else None

    def remove(self, assignment: Assignment) -> None:
        """Takes a command out of its line, wherever it stands."""
        self._lines[assignment.job.target].remove(assignment)
        assignment.in_line = False

    def groups(self) -> list[tuple[Target, list[Assignment]]]:
        """What waits, by whom it is for."""
        return [(target, [one for one in line if not one.ended]) for target, line in self._lines.items()]


def enter(line: deque[Assignment], assignment: Assignment, first: bool = False) -> None:
    """Puts an assignment into a line unless it is there already."""
    if assignment.in_line:
        return
    assignment.in_line = True
    if first:
        line.appendleft(assignment)
    else:
        line.append(assignment)


def leave(line: deque[Assignment]) -> Assignment | None:
    """The first that is still to be done."""
    drop_ended(line)
    if not line:
        return None
    assignment = line.popleft()
    assignment.in_line = False
    return assignment


def drop_ended(line: deque[Assignment]) -> None:
    """Those that were ended while they waited (killed, or answered after all)."""
    while line and line[0].ended:
        line.popleft().in_line = False
