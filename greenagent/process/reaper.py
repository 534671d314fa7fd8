"""Freeing the pids of ended children, and the lock that keeps ours apart from those the kernel gives us.

A child of ours must never be waited for by anybody but its owner: a wait for any child shows and
eats exit codes (design, section 3). So everything that reaps goes by pid and under this lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from greenagent.runtime import procfs
from greenagent.runtime.native import NativeLock
from greenagent.runtime.procfs import Process


class Reaper:
    """Tells the children the agent started (``own``) from orphans that were reparented to it."""

    def __init__(self) -> None:
        self.lock = NativeLock()
        self.own: dict[int, Any] = {}
        """The children the agent started, by pid (``Child``): from before one can be seen ended until it is reaped."""
        self._starting = 0
        self._started = 0

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Around a start and its ``own.add``: there may be a child that is not in ``own`` yet. In any thread."""
        with self.lock:
            self._starting += 1
        try:
            yield
        finally:
            with self.lock:
                self._starting -= 1
                self._started += 1

    @property
    def is_starting(self) -> bool:
        """Whether a start is under way just now."""
        return self._starting > 0

    def reap(self, pid: int, pidfd: int) -> None:
        """Frees the number of a child of ours; it must have ended."""
        with self.lock:
            try:
                os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                pass
            self.own.pop(pid, None)

    def reparented(self) -> list[int]:
        """The agent's children that it did not start: orphans of jobs, given to the subreaper.

        The kernel gives them to the main thread, while those of ``posix_spawn`` belong to the
        spawner's threads: so a child that is just being started is never among them.
        """
        agent = os.getpid()
        pids = procfs.children_of_thread(agent, agent)
        if pids is None:
            pids = self._reparented_by_parent(agent)
        with self.lock:
            return [pid for pid in pids if pid not in self.own]

    def orphans(self) -> Iterator[Process]:
        """The living ones among ``reparented``; reaps the dead."""
        for pid in self.reparented():
            process = procfs.read_process(pid)
            if process is not None and process.is_dead:
                self.reap_reparented(pid)
            elif process is not None:
                yield process

    def _reparented_by_parent(self, agent: int) -> list[int]:
        """For kernels that do not list children by thread; tells of none while a start is under way."""
        before = self._started
        pids = procfs.children_by_parent(agent)
        with self.lock:
            return pids if self._starting == 0 and self._started == before else []

    def reap_reparented(self, pid: int) -> None:
        """Frees the number of an ended orphan; harmless if it lives."""
        with self.lock:
            if pid in self.own:
                return
            try:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                pass
