"""Orphans: processes of jobs that were reparented to the agent, or that an agent left which crashed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import gevent

from greenagent.process.child import Children, send_signal, why_alive
from greenagent.process.job_tree import is_of, parse_tag, read_tag
from greenagent.runtime import procfs
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.procfs import Process
from greenagent.values import levels

INTERVAL = 5.0
"""Seconds between two checks; also what an orphan of a finished job gets between TERM and KILL."""

LAST_GRACE = 1.0
"""Seconds between TERM and KILL for an orphan at the agent's end."""
LAST_LIMIT = 3.0

_KILLED = 2
_GIVEN_UP = 3


class Orphan(NamedTuple):
    """A process found by its tag, or by its session: then ``tag`` is empty."""

    pid: int
    start_ticks: int
    tag: str
    command: str


class OrphanReaper:
    """Looks after the orphans the agent was given as subreaper.

    Those of a living job are attached to it and end with it. Those of a finished one are ended, unless
    it asked to ``leave_children``. The dead are reaped, each by its pid.

    Untagged orphans are those that nothing tells the job of: they cleared their environment, left their
    session, closed the job's pipes and lost their parent, all before they were seen. They come from
    some job all the same, since nothing else gives the agent children. One is ended as soon as no
    run lives that began before it, and at the latest with the agent; never where it may come from
    what was left on purpose, nor by an agent that is the init process, to which every orphan of the
    system is given.
    """

    def __init__(self, children: Children, agent_log: AgentLog, instance: str, interval: float = INTERVAL) -> None:
        """``instance``: the first part of this agent's tags. ``interval``: seconds between two checks."""
        self._children = children
        self._detached = children.detached
        self._log = agent_log.rate_limited()
        self._instance = instance
        self._interval = interval
        self._signalled: dict[tuple[int, int], int] = {}
        """How many signals an orphan got, by pid and start time, or that it was given up."""
        self._is_init = os.getpid() == 1

    def begin(self) -> None:
        """At a plain start, before any job runs: what is there already is nobody's, and may stay."""
        for process, tag in self._orphans():
            known = {process.pid: process.start_ticks}
            self._detached.leave(tag if is_of(tag, self._instance) else "", 0, known)

    def take_over(self, tags: Collection[str], detached: Iterable[Iterable[Any]]) -> None:
        """In place of ``begin`` in an agent that replaces another, before any job goes on.

        ``tags`` are those of its running jobs, ``detached`` the processes that may stay (``DetachedProcesses.state``).
        """
        self._children.expected.update(tags)
        self._detached.restore(detached)

    def run(self) -> None:
        """The service: a check every interval, for ever."""
        while True:
            gevent.sleep(self._interval)
            self.check()

    def check(self) -> None:
        """Attaches or ends every orphan that is there, and reaps the dead."""
        children = self._children.live()
        for child in children:
            child.tree.find()
            gevent.sleep(0)
        tags_seen: set[str] = set()
        untagged: list[Process] = []
        present: set[tuple[int, int]] = set()
        for process, tag in self._orphans():
            present.add((process.pid, process.start_ticks))
            pipes = procfs.pipes_of(process.pid)
            owner = next((child for child in children if child.tree.knows(process, tag, pipes)), None)
            if owner is not None:
                owner.tree.attach(process)
            elif is_of(tag, self._instance):
                tags_seen.add(tag)
                if self._is_finished(tag):
                    self._end_step(process, tag)
            else:
                may_be = self._detached.may_include(process)
                tags_seen.update(may_be)
                if not may_be and not self._is_init:
                    untagged.append(process)
            gevent.sleep(0)
        living = self._children.live_if_complete()  # asked after the orphans were listed: no owner is missing
        for process in untagged:
            if living is None or any(child.start_ticks <= process.start_ticks for child in living):
                continue
            if not self._detached.may_include(process):  # its run may have ended meanwhile
                self._end_step(process, "")
        self._signalled = {key: times for key, times in self._signalled.items() if key in present}
        self._detached.forget_all_but(tags_seen)

    def end_all(self) -> None:
        """For the agent's end, after that of all jobs: ends orphans that may not stay, within a few seconds."""
        began = time.monotonic()
        self._signalled.clear()
        pause = 0.005
        while True:
            found = [(process, tag) for process, tag in self._orphans() if self._must_end(process, tag)]
            waited = time.monotonic() - began
            if not found or waited > LAST_LIMIT:
                for process, tag in found:
                    self._give_up(process, tag)
                return
            for process, tag in found:
                if waited >= LAST_GRACE or (process.pid, process.start_ticks) not in self._signalled:
                    self._end(process, tag)
            gevent.sleep(pause)
            pause = min(pause * 2, 0.1)

    def _must_end(self, process: Process, tag: str) -> bool:
        if is_of(tag, self._instance):
            return not self._detached.includes(tag)
        return not self._is_init and not self._detached.may_include(process)

    def _orphans(self) -> Iterator[tuple[Process, str]]:
        """The living ones, each with its tag or ""; reaps the dead."""
        for process in self._children.reaper.orphans():
            yield process, read_tag(process.pid) or ""

    def _is_finished(self, tag: str) -> bool:
        """Whether a tag of ours is of a run that is over and did not leave its children on purpose."""
        if tag in self._children.expected or self._detached.includes(tag):
            return False
        return all(child.tag != tag for child in self._children.live())

    def _end_step(self, process: Process, tag: str) -> None:
        """One step of one check: TERM, KILL, then it is given up."""
        if self._signalled.get((process.pid, process.start_ticks)) == _KILLED:
            self._give_up(process, tag)
        else:
            self._end(process, tag)

    def _end(self, process: Process, tag: str) -> None:
        """TERM, and KILL when it was signalled before; logs it."""
        key = (process.pid, process.start_ticks)
        times = self._signalled.get(key, 0)
        number = signal.SIGKILL if times else signal.SIGTERM
        if not send_signal(process.pid, process.start_ticks, number):
            if procfs.is_same(process.pid, process.start_ticks):
                self._give_up(process, tag)
            return
        if not times:
            send_signal(process.pid, process.start_ticks, signal.SIGCONT)  # a stopped one would not see the TERM
        if times < _KILLED:
            self._signalled[key] = times + 1
            self._say(process, tag, f"{number.name} was sent")

    def _give_up(self, process: Process, tag: str) -> None:
        """It may not be signalled, or lives on after KILL: said once."""
        key = (process.pid, process.start_ticks)
        if self._signalled.get(key) != _GIVEN_UP:
            self._signalled[key] = _GIVEN_UP
            reason = why_alive(process)
            self._say(process, tag, f"it could not be ended{reason and f' ({reason})'}")

    def _say(self, process: Process, tag: str, what: str) -> None:
        parsed = parse_tag(tag)
        name = f"job {parsed.job_id}" if parsed is not None else "a job that is over"
        self._log.log(levels.WARNING, f"{name} left process {process.pid} ({process.command}) behind: {what}")


def find_by_tag(*prefixes: str) -> list[Orphan]:
    """Every living process whose tag begins with one of ``prefixes``, by one pass over all environments.

    For the agent's start only: it costs about a millisecond per hundred processes (design, section 3).
    """
    found = []
    for pid in procfs.all_pids():
        process = procfs.read_process(pid) if pid != os.getpid() else None
        tag = read_tag(pid) or ""
        if process is not None and tag.startswith(prefixes) and procfs.is_same(pid, process.start_ticks):
            found.append(Orphan(pid, process.start_ticks, tag, process.command))
    return found


def find_by_session(leaders: Mapping[int, int]) -> dict[int, list[Orphan]]:
    """Living processes without a tag in the session or group of one of ``leaders``, or below such a one; by leader.

    ``leaders``: the pids of runs that an agent of this boot began, each with its start time. Once a leader is gone its
    number may have been another session's, so that only those count of which nothing can be read: programs that
    became another user's. For the agent's start only.
    """
    processes = {pid: process for pid in procfs.all_pids() if (process := procfs.read_process(pid)) is not None}
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: dict[int, list[Orphan]] = {}
    for leader, start_ticks in leaders.items():
        known = processes.get(leader)
        if leader <= 1 or (known is not None and known.start_ticks != start_ticks):
            continue  # a stranger's number
        members = [
            process.pid
            for process in processes.values()
            if leader in (process.pid, process.session, process.group) and process.start_ticks >= start_ticks
        ]
        for pid in dict.fromkeys([*members, *procfs.descendants(members, lambda pid: children.get(pid, []))]):
            process = processes[pid]
            if pid == os.getpid() or procfs.is_descendant(os.getpid(), pid) or read_tag(pid):
                continue  # this agent may have been started by such a process
            if (known is not None or not procfs.is_readable(pid)) and procfs.is_same(pid, process.start_ticks):
                found.setdefault(leader, []).append(Orphan(pid, process.start_ticks, "", process.command))
    return found


def living_owner(pid: int, instance: str) -> Process | None:
    """The living process that a process with a tag of ``instance`` runs under; None for an orphan.

    That is who started the uppermost one with such a tag. An orphan was given to init, or to a subreaper above
    this agent. An agent that carries such a tag itself was started by a job: all that is above it counts as an owner.
    """
    above = procfs.read_process(pid)
    while above is not None and is_of(read_tag(above.pid) or "", instance):
        above = procfs.read_process(above.parent) if above.parent > 1 else None
    if above is None or above.pid == os.getpid():
        return None
    inside = is_of(read_tag(os.getpid()) or "", instance)
    return None if not inside and procfs.is_descendant(os.getpid(), above.pid) else above


def end_orphan(orphan: Orphan, grace: float) -> bool:
    """Ends a process if pid, start time and tag ("" for none) all are those given: TERM, ``grace`` seconds, KILL.

    True when that process is gone (also when it was gone before), False at once when it may not be signalled.
    Another owner of the pid is not touched.
    """
    pid, start_ticks, tag = orphan[:3]
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, LAST_LIMIT)):
        if procfs.is_same(pid, start_ticks) and (read_tag(pid) or "") != tag:
            return False
        if not send_signal(pid, start_ticks, number) and procfs.is_same(pid, start_ticks):
            return False
        send_signal(pid, start_ticks, signal.SIGCONT)  # a stopped one would not see the TERM
        deadline = time.monotonic() + seconds
        while procfs.is_same(pid, start_ticks) and time.monotonic() < deadline:
            gevent.sleep(0.01)
    return not procfs.is_same(pid, start_ticks)
