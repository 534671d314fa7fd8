"""The children the agent started and those it was given, and the lock that keeps the two apart.

A child of ours must never be waited for by anybody but its owner: a wait for any child shows and
eats exit codes (design, section 3). So everything that reaps goes by pid and under this lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greenagent.process import tree
from greenagent.process.tree import Process
from greenagent.runtime.native import NativeLock

if TYPE_CHECKING:
    from greenagent.process.child import Child


@dataclass(slots=True)
class Left:
    """What a run left on purpose: the processes seen, and since when others may have come from it."""

    start_ticks: int
    known: dict[int, int]
    missed: int = 0

    def may_include(self, process: Process) -> bool:
        """Whether a process without a tag can be one of these, or come from one."""
        return self.known.get(process.pid) == process.start_ticks or (
            bool(self.known) and process.start_ticks >= self.start_ticks
        )


class Registry:
    """Knows every child from the instant it can be seen until it is reaped."""

    def __init__(self) -> None:
        self.lock = NativeLock()
        self._children: dict[int, Child] = {}
        self._starting = 0
        self._started = 0
        self._left: dict[str, Left] = {}
        self.awaited: set[str] = set()
        """Tags of runs that an earlier image of the agent handed over and that are not registered yet."""

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
            if child.tag is not None:
                self.awaited.discard(child.tag)

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

    def live_if_settled(self) -> list[Child] | None:
        """As ``live``; None while one may be missing that has descendants already."""
        with self.lock:
            return None if self._starting or self.awaited else list(self._children.values())

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

    def leave(self, tag: str, start_ticks: int = 0, known: Mapping[int, int] | None = None) -> None:
        """What carries this tag may outlive its job (``leave_children``), and so may ``known``, by start time.

        ``start_ticks``: of the run; what is younger and carries no tag may have come from it, too.
        """
        left = self._left.get(tag)
        if left is None:
            self._left[tag] = Left(start_ticks, dict(known or {}))
        else:
            left.known.update(known or {})

    def is_left(self, tag: str) -> bool:
        return tag in self._left

    def may_be_left(self, process: Process) -> list[str]:
        """The tags of the runs that may have left this process, which carries none, on purpose."""
        return [tag for tag, left in self._left.items() if left.may_include(process)]

    def forget_left(self, seen: set[str]) -> None:
        """Drops the tags of which nothing was there in two passes."""
        for tag, left in list(self._left.items()):
            left.missed = 0 if tag in seen else left.missed + 1
            if left.missed >= 2:
                del self._left[tag]

    def left(self) -> list[list[Any]]:
        """What was left on purpose, for ``restore_left`` in another image of the agent."""
        return [[tag, left.start_ticks, list(left.known.items())] for tag, left in self._left.items()]

    def restore_left(self, state: Iterable[Iterable[Any]]) -> None:
        """Goes on where another image was."""
        for tag, start_ticks, known in state:
            self.leave(tag, start_ticks, {int(pid): int(start) for pid, start in known})
