"""All children of the agent, and what was left of earlier ones."""

from __future__ import annotations

from greenagent.process.child import Child, Pipes
from greenagent.process.detached import DetachedProcesses
from greenagent.process.reaper import Reaper


class Children:
    """Knows every child from the instant it can be seen until it is reaped."""

    def __init__(self) -> None:
        self.reaper = Reaper()
        self.detached = DetachedProcesses()
        self.expected: set[str] = set()
        """Tags of runs that an earlier image of the agent handed over and that are not attached yet."""
        self._children: dict[int, Child] = {}

    def attach(self, pid: int, pidfd: int, start_ticks: int, tag: str | None, pipes: Pipes) -> Child:
        """Makes a process that was just started, here or by an earlier image of the agent, a child. In any thread."""
        child = Child(self.reaper, self.detached, pid, pidfd, start_ticks, tag, pipes)
        with self.reaper.lock:
            self.reaper.own.add(pid)
            self._children[pid] = child
            self.expected.discard(tag or "")
        return child

    def live(self) -> list[Child]:
        """Every child not yet reaped."""
        with self.reaper.lock:
            self._children = {pid: child for pid, child in self._children.items() if pid in self.reaper.own}
            return list(self._children.values())

    def live_if_complete(self) -> list[Child] | None:
        """As ``live``; None while one may be missing that has descendants already."""
        return None if self.reaper.is_starting or self.expected else self.live()
