"""Children that left home: orphans of jobs, given to the agent or left by an agent that crashed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import gevent
from gevent import socket

from greenagent.process import tree
from greenagent.process.registry import Registry
from greenagent.process.tags import is_of, parse_tag
from greenagent.process.tree import Process
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.native import close_descriptor
from greenagent.values import levels

INTERVAL = 5.0
"""Seconds between two looks at the orphans; also what an orphan of a finished job gets between TERM and KILL."""

LAST_GRACE = 1.0
"""Seconds between TERM and KILL for an orphan at the agent's end."""
LAST_LIMIT = 3.0


class Orphan(NamedTuple):
    """A process found by its tag."""

    pid: int
    start_ticks: int
    tag: str
    command: str


class Sweeper:
    """Looks after the orphans the agent was given as subreaper.

    Those of a living job are noted and end with it. Those of a finished one are ended, unless it
    said ``leave_children``. All are reaped when they are dead, one by one.

    Strays are orphans that nothing tells the job of: they cleared their environment, left their
    session, closed the job's pipes and lost their parent, all before they were seen. They come from
    some job all the same, since nothing else gives the agent children. One is ended as soon as no
    run lives that began before it, and at the latest with the agent; never where it may come from
    what was left on purpose, nor by an agent that is the init process, to which every orphan of the
    system is given.
    """

    def __init__(self, registry: Registry, agent_log: AgentLog, instance: str, interval: float = INTERVAL) -> None:
        """``instance``: the first part of this agent's tags. ``interval``: seconds between two passes."""
        self._registry = registry
        self._remarks = agent_log.rate_limited()
        self._instance = instance
        self._interval = interval
        self._told: dict[tuple[int, int], int] = {}
        self._has_begun = False
        self._is_init = os.getpid() == 1

    def begin(
        self,
        going_on: Mapping[int, int] | None = None,
        tags: Collection[str] = (),
        left: Iterable[Iterable[Any]] | None = None,
    ) -> None:
        """Before any job runs: what is there already and is not known is nobody's, and may stay.

        In an agent that replaces another: ``going_on`` are the processes of its running jobs with
        their start times, ``tags`` the tags of these, and ``left`` what may stay
        (``Registry.left``; None from an older agent).
        """
        self._has_begun = True
        self._registry.awaited.update(tags)
        self._registry.restore_left(left or ())
        if left is not None:
            return
        for pid in self._registry.adopted():
            process = tree.read_process(pid)
            tag = tree.read_tag(pid) or ""
            if process is None or process.is_dead or (going_on or {}).get(pid) == process.start_ticks or tag in tags:
                continue
            self._registry.leave(tag if is_of(tag, self._instance) else "", 0, {pid: process.start_ticks})

    def run(self) -> None:
        """The service: a pass every interval, for ever."""
        if not self._has_begun:
            self.begin()
        while True:
            gevent.sleep(self._interval)
            self.sweep()

    def sweep(self) -> None:
        """One pass."""
        children = self._registry.live()
        for child in children:
            child.note()
            gevent.sleep(0)
        seen: set[str] = set()
        told: dict[tuple[int, int], int] = {}
        strays: list[Process] = []
        for process, tag in self._orphans():
            pipes = tree.pipes_of(process.pid) if parse_tag(tag) is None else ()
            owner = next((child for child in children if child.knows(process, tag, pipes)), None)
            if owner is not None:
                owner.adopt(process)
            elif is_of(tag, self._instance):
                seen.add(tag)
                if self._is_finished(tag):
                    self._end(process, tag, told)
            else:
                may_be = self._registry.may_be_left(process)
                seen.update(may_be)
                if not may_be and not self._is_init:
                    strays.append(process)
            gevent.sleep(0)
        living = self._registry.live_if_settled()  # asked after the orphans were listed: no owner is missing
        for process in strays:
            if living is None or any(child.start_ticks <= process.start_ticks for child in living):
                continue
            if not self._registry.may_be_left(process):  # its run may have ended meanwhile
                self._end(process, "", told)
        self._told = told
        self._registry.forget_left(seen)

    def end_all(self) -> None:
        """For the agent's end, after that of all jobs: ends orphans that may not stay, within a few seconds."""
        began = time.monotonic()
        told: dict[tuple[int, int], int] = {}
        pause = 0.005
        while True:
            found = [(process, tag) for process, tag in self._orphans() if self._must_end(process, tag)]
            waited = time.monotonic() - began
            if not found or waited > LAST_LIMIT:
                return
            for process, tag in found:
                if waited >= LAST_GRACE or told.get((process.pid, process.start_ticks)) is None:
                    self._told = told
                    self._end(process, tag, told)
            gevent.sleep(pause)
            pause = min(pause * 2, 0.1)

    def _must_end(self, process: Process, tag: str) -> bool:
        if is_of(tag, self._instance):
            return not self._registry.is_left(tag)
        return not self._is_init and not self._registry.may_be_left(process)

    def _orphans(self) -> Iterator[tuple[Process, str]]:
        """The living ones, each with its tag or ""; reaps the dead."""
        for pid in self._registry.adopted():
            process = tree.read_process(pid)
            if process is None:
                continue
            if process.is_dead:
                self._registry.reap_adopted(pid)
                continue
            yield process, tree.read_tag(pid) or ""

    def _is_finished(self, text: str) -> bool:
        """Whether a tag of ours is of a run that is over and said nothing about leaving children."""
        if text in self._registry.awaited or self._registry.is_left(text):
            return False
        return all(child.tag != text for child in self._registry.live())

    def _end(self, process: Process, tag: str, told: dict[tuple[int, int], int]) -> None:
        """TERM, and KILL when it was told before; says so."""
        key = (process.pid, process.start_ticks)
        times = self._told.get(key, 0)
        number = signal.SIGKILL if times else signal.SIGTERM
        if not tree.send_signal(process.pid, process.start_ticks, number):
            return
        if not times:
            tree.send_signal(process.pid, process.start_ticks, signal.SIGCONT)  # a stopped one would not see the TERM
        told[key] = times + 1
        if times >= 2:  # one that does not even die of KILL is said no more
            return
        parsed = parse_tag(tag)
        name = f"job {parsed.job_id}" if parsed is not None else "a job that is over"
        what = f"{name} left process {process.pid} ({process.command}) behind: ended with {number.name}"
        self._remarks.log(levels.WARNING, what)


def find_by_tag(prefix: str) -> list[Orphan]:
    """Every living process whose tag begins with ``prefix``, by one pass over all environments.

    For the agent's start only: it costs about a millisecond per hundred processes (design, section 3).
    """
    found = []
    for pid in tree.all_pids():
        if pid == os.getpid():
            continue
        process = tree.read_process(pid)
        tag = tree.read_tag(pid)
        if (
            process is not None
            and tag is not None
            and tag.startswith(prefix)
            and tree.is_same(pid, process.start_ticks)
        ):
            found.append(Orphan(pid, process.start_ticks, tag, process.command))
    return found


def end_orphan(pid: int, start_ticks: int, tag: str, grace: float) -> bool:
    """Ends a process if pid, start time and tag all are those given: TERM, ``grace`` seconds, KILL.

    True when that process is gone (also when it was gone before). Another owner of the pid is not touched.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except OSError:
        return not tree.is_same(pid, start_ticks)
    try:
        if not tree.is_same(pid, start_ticks):
            return True
        if tree.read_tag(pid) != tag:
            return False
        for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 2.0)):
            signal.pidfd_send_signal(descriptor, number)
            if number == signal.SIGTERM:
                signal.pidfd_send_signal(descriptor, signal.SIGCONT)
            try:
                socket.wait_read(descriptor, timeout=seconds)
                return True
            except TimeoutError:
                continue
        return False
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    finally:
        close_descriptor(descriptor)
