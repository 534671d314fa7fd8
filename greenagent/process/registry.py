"""The children the agent started and those it was given, and the lock that keeps the two apart.

A child of ours must never be waited for by anybody but its owner: a wait for any child shows and
eats exit codes (design, section 3). So everything that reaps goes by pid and under this lock.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from greenagent.process import tree
from greenagent.runtime.native import NativeLock

if TYPE_CHECKING:
    from greenagent.process.child import Child


class Registry:
    """Knows every child from the instant it can be seen until it is reaped."""

    def __init__(self) -> None:
        self.lock = NativeLock()
        self._children: dict[int, Child] = {}
        self._starting = 0
        self._started = 0
        self._left: dict[str, int] = {}

    def starting(self) -> None:
        """A start is under way: a child may exist that is not registered yet. From the starting thread."""
        with self.lock:
            self._starting += 1

    def started(self) -> None:
        """The start is over: its child is registered or never was."""
        with self.lock:
            self._starting -= 1
            self._started += 1

    def add(self, child: Child) -> None:
        with self.lock:
            self._children[child.pid] = child

    def reap(self, child: Child) -> None:
        """Frees the number of an ended child; it must have ended."""
        with self.lock:
            try:
                os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                pass
            self._children.pop(child.pid, None)

    def live(self) -> list[Child]:
        """Every child not yet reaped."""
        with self.lock:
            return list(self._children.values())

    def __contains__(self, pid: int) -> bool:
        return pid in self._children

    def adopted(self) -> list[int]:
        """The agent's children that it did not start: orphans of jobs, given to the subreaper.

        The kernel gives them to the main thread, while those of ``posix_spawn`` belong to the
        spawner's threads: so a child that is just being started is never among them.
        """
        own = os.getpid()
        pids = tree.children_of_thread(own, own)
        if pids is None:
            pids = self._adopted_by_parent(own)
        with self.lock:
            return [pid for pid in pids if pid not in self._children]

    def _adopted_by_parent(self, own: int) -> list[int]:
        """For kernels that do not list children by thread; says nothing while a start is under way."""
        before = self._started
        pids = tree.children_by_parent(own)
        with self.lock:
            return pids if self._starting == 0 and self._started == before else []

    def reap_adopted(self, pid: int) -> None:
        """Frees the number of an ended orphan; harmless if it lives."""
        with self.lock:
            if pid in self._children:
                return
            try:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                pass

    def leave(self, tag: str) -> None:
        """What carries this tag may outlive its job (``leave_children``)."""
        self._left[tag] = 0

    def is_left(self, tag: str) -> bool:
        return tag in self._left

    def forget_left(self, seen: set[str]) -> None:
        """Drops the tags that nothing carried in two passes."""
        for tag in list(self._left):
            self._left[tag] = 0 if tag in seen else self._left[tag] + 1
            if self._left[tag] >= 2:
                del self._left[tag]
