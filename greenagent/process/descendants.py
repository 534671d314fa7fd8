"""Children that left home: orphans of jobs, given to the agent or left by an agent that crashed."""

from __future__ import annotations

import os
import signal
from typing import NamedTuple

import gevent
from gevent import socket

from greenagent.process import tree
from greenagent.process.registry import Registry
from greenagent.process.tags import parse_tag
from greenagent.runtime.native import close_descriptor
from greenagent.runtime.voice import Voice

INTERVAL = 5.0
"""Seconds between two looks at the orphans; also what an orphan of a finished job gets between TERM and KILL."""


class Orphan(NamedTuple):
    """A process found by its tag."""

    pid: int
    start_ticks: int
    tag: str
    command: str


class Sweeper:
    """Looks after the orphans the agent was given as subreaper.

    Those of a living job are noted and end with it. Those of a finished one are ended, unless it
    said ``leave_children``. Strangers are left alone. All are reaped when they are dead, one by one.
    """

    def __init__(self, registry: Registry, voice: Voice, instance: str, interval: float = INTERVAL) -> None:
        """``instance``: the first part of this agent's tags. ``interval``: seconds between two passes."""
        self._registry = registry
        self._voice = voice
        self._instance = instance
        self._interval = interval
        self._told: dict[tuple[int, int], int] = {}

    def run(self) -> None:
        """The service: a pass every interval, for ever.

        Orphans that are there already when it begins, of runs that are over, were left on purpose
        before the agent replaced itself in place: they may stay.
        """
        for pid in self._registry.adopted():
            tag = tree.read_tag(pid) or ""
            if self._is_finished(tag):
                self._registry.leave(tag)
        while True:
            gevent.sleep(self._interval)
            self.sweep()

    def sweep(self) -> None:
        """One pass."""
        children = self._registry.live()
        for child in children:
            child.note()
            gevent.sleep(0)
        by_tag = {child.tag: child for child in children if child.tag is not None}
        by_pid = {child.pid: child for child in children}
        seen: set[str] = set()
        told: dict[tuple[int, int], int] = {}
        for pid in self._registry.adopted():
            process = tree.read_process(pid)
            if process is None:
                continue
            if process.is_dead:
                self._registry.reap_adopted(pid)
                continue
            tag = tree.read_tag(pid) or ""
            seen.add(tag)
            owner = by_tag.get(tag) or by_pid.get(process.session) or by_pid.get(process.group)
            if owner is not None:
                owner.adopt(process)
            elif self._is_finished(tag):
                key = (pid, process.start_ticks)
                times = self._told.get(key, 0)
                number = signal.SIGKILL if times else signal.SIGTERM
                if tree.send_signal(pid, process.start_ticks, number):
                    told[key] = times + 1
                    if times < 2:  # one that does not even die of KILL is said no more
                        self._say(process, tag, number)
            gevent.sleep(0)
        self._told = told
        self._registry.forget_left(seen)

    def _is_finished(self, text: str) -> bool:
        """Whether a tag is ours, of a run that is over and said nothing about leaving children."""
        tag = parse_tag(text)
        if tag is None or tag.instance != self._instance or self._registry.is_left(text):
            return False
        return all(child.tag != text for child in self._registry.live())

    def _say(self, process: tree.Process, text: str, number: signal.Signals) -> None:
        tag = parse_tag(text)
        name = tag.job_id if tag is not None else text
        self._voice.warning(
            f"job {name} left process {process.pid} ({process.command}) behind: ended with {number.name}"
        )


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
