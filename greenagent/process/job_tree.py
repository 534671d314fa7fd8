"""Which processes belong to a job, wherever they went."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence

import gevent

from greenagent.process.reaper import Reaper
from greenagent.process.tags import parse_tag, read_tag
from greenagent.runtime import procfs
from greenagent.runtime.procfs import Process, Snapshot

LEADERS_REMEMBERED = 60.0
"""Seconds for which a session or group is known as the job's after its leader was last seen."""

Pipe = tuple[int, int]
"""Device and inode."""


class JobTree:
    """The processes of one run beside its leader, the child the agent started.

    ``known`` are those seen so far, each pid with its start time in ticks: announced by the job, found
    below the leader, or orphans that were found to be the job's. They stay known when they leave the tree.
    """

    __slots__ = ("_leaders", "_pipes", "_reaper", "known", "leader", "leader_is_reaped", "start_ticks", "tag")

    def __init__(
        self, reaper: Reaper, leader: int, start_ticks: int, tag: str | None = None, pipes: Collection[Pipe] = ()
    ) -> None:
        self._reaper = reaper
        self.leader = leader
        self.start_ticks = start_ticks
        self.tag = tag
        self._pipes = frozenset(pipes)
        self.known: dict[int, int] = {}
        self._leaders: dict[int, float] = {}
        self.leader_is_reaped = False
        """From then on its pid, and its group's number, may be those of strangers."""

    def announce(self, pid: int) -> bool:
        """A ``101::PID`` message: the process belongs to the job from now on.

        Believed only for descendants and for processes with the job's tag; False otherwise
        (design, section 5 "Commands and admission").
        """
        if pid <= 1 or pid == os.getpid() or pid in self._reaper.own:
            return pid == self.leader
        process = procfs.read_process(pid)
        if process is None or process.is_dead:
            return False
        if not procfs.is_descendant(pid, self.leader) and (self.tag is None or read_tag(pid) != self.tag):
            return False
        self.attach(process)
        return True

    def attach(self, process: Process) -> None:
        """An orphan that is known to be the job's: it ends with it."""
        self.known[process.pid] = process.start_ticks

    def find(self) -> list[Process]:
        """The living processes below the leader and below those known; remembers them all."""
        return self._look([], [self.leader])

    def find_all(self, leader_has_exited: bool) -> list[Process]:
        """As ``find``, with the orphans of the job that were given to the agent.

        ``leader_has_exited`` must be asked before: what it had below it is the agent's then.
        """
        orphans = [process.pid for process in self._reaper.orphans() if self._owns(process)]
        return self._look(orphans, [] if leader_has_exited else [self.leader])

    def find_in(self, snapshot: Snapshot) -> list[Process]:
        """The leader and all that is below it or known, zombies included; for the meter.

        The snapshot is older than what ``find`` has seen since: it adds to ``known`` and takes nothing away.
        """
        roots = [] if self.leader_is_reaped else [self.leader]
        for pid, start_ticks in self.known.items():
            process = snapshot.process(pid)
            if process is not None and process.start_ticks == start_ticks:
                roots.append(pid)
        found = []
        for pid in dict.fromkeys([*roots, *procfs.descendants(roots, snapshot.children)]):
            process = snapshot.process(pid)
            if process is not None:
                found.append(process)
                if pid != self.leader and not process.is_dead:
                    self.known.setdefault(pid, process.start_ticks)
        return found

    def _look(self, orphans: Sequence[int], leader: Sequence[int]) -> list[Process]:
        self.known = {pid: start for pid, start in self.known.items() if procfs.is_same(pid, start)}
        roots = [*self.known, *orphans]
        below = procfs.descendants(roots if self.leader_is_reaped else [*leader, *roots], pause=_let_others_run)
        found = []
        now = time.monotonic()
        self._leaders = {pid: seen for pid, seen in self._leaders.items() if now - seen < LEADERS_REMEMBERED}
        for number, pid in enumerate(dict.fromkeys(roots + below), start=1):
            if number % procfs.SLICE == 0:
                _let_others_run()
            process = procfs.read_process(pid)
            if process is None or pid == self.leader:
                continue
            if process.is_dead:
                self._reaper.reap_reparented(pid)
                continue
            self.attach(process)
            if pid in (process.session, process.group):
                self._leaders[pid] = now
            found.append(process)
        return found

    def _owns(self, orphan: Process) -> bool:
        """Whether an orphan came from this job (see ``knows``)."""
        if self._has_seen(orphan):
            return True
        if orphan.start_ticks < self.start_ticks:
            return False  # older than the job: known at once, since others may have left many
        tag = read_tag(orphan.pid) or ""
        return self.knows(orphan, tag, procfs.pipes_of(orphan.pid) if parse_tag(tag) is None else ())

    def knows(self, process: Process, tag: str, pipes: Collection[Pipe]) -> bool:
        """Whether a process is known as the job's: by earlier sight, session, group, its tag, or the job's pipes.

        ``pipes``: what a process without a tag has open (``procfs.pipes_of``). They tell also of one
        that cleared its environment and left its session, unless it closed them.
        """
        return self._has_seen(process) or (bool(tag) and tag == self.tag) or not self._pipes.isdisjoint(pipes)

    def _has_seen(self, process: Process) -> bool:
        if self.known.get(process.pid) == process.start_ticks:
            return True
        if not self.leader_is_reaped and self.leader in (process.session, process.group):
            return True
        return process.session in self._leaders or process.group in self._leaders


def _let_others_run() -> None:
    gevent.sleep(0)
