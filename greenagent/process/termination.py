"""Ending a child with everything it started."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

from greenagent.process.child import Child
from greenagent.runtime import procfs
from greenagent.runtime.native import close_descriptor

KILL_LIMIT = 4.0
"""Seconds after KILL until what is left counts as not dying (an uninterruptible wait in the kernel)."""


class Survivor(NamedTuple):
    """A process that outlived its job."""

    pid: int
    command: str


def end(child: Child, grace: float) -> tuple[Survivor, ...]:
    """Ends the child and all it started: TERM, up to ``grace`` seconds, KILL, until only zombies are left.

    Returns what would not die within ``KILL_LIMIT`` seconds of the KILL. The leader is not reaped. May
    be called by several greenlets, also after the exit.
    """
    _terminate(child, grace)
    return _kill(child)[0]


def sweep(child: Child, grace: float = 0) -> tuple[Survivor, ...]:
    """After the exit: ends what the child left behind (KILL at once without ``grace``) and returns what it was."""
    if child.has_exited and not child.members():
        return ()  # whatever a dead leader left is ours by now (subreaper), or below one that is
    found = _terminate(child, grace) if grace > 0 else {}
    found.update(_kill(child)[1])
    return tuple(Survivor(pid, command) for pid, command in found.items())


def _terminate(child: Child, grace: float) -> dict[int, str]:
    """TERM to all, also to those that appear meanwhile; waits at most ``grace`` seconds. Returns what was signalled."""
    deadline = time.monotonic() + grace
    signalled: set[tuple[int, int, str]] = set()  # with the command: a program exec'd after the TERM gets another
    members = child.members()
    if not child.has_exited or members:
        child.signal_group(signal.SIGTERM)
        child.signal_group(signal.SIGCONT)  # a stopped process would not see the TERM
    by_group = not child.tree.leader_is_reaped
    pause = 0.005
    while True:
        for process in members:
            key = (process.pid, process.start_ticks, process.command)
            if key not in signalled:
                signalled.add(key)
                if process.group != child.pid or not by_group:
                    send_signal(process.pid, process.start_ticks, signal.SIGTERM)
                    send_signal(process.pid, process.start_ticks, signal.SIGCONT)
        by_group = False  # what comes into the group from now on has not heard the signal
        left = deadline - time.monotonic()
        if left <= 0 or (child.has_exited and not members):
            return {pid: command for pid, _, command in signalled}
        child.sleep(min(pause, left))
        pause = min(pause * 2, 0.1)
        members = child.members()


def _kill(child: Child) -> tuple[tuple[Survivor, ...], dict[int, str]]:
    """KILL until a pass finds nothing but zombies; returns what would not die and all that was found."""
    deadline = time.monotonic() + KILL_LIMIT
    found: dict[int, str] = {}
    pause = 0.001
    while True:
        # In this order: what a leader had started when it was seen to have exited is among the agent's own children,
        # and so among the members. Asked the other way round, a child that it forks in between, just before it
        # exits, would be missed and go on after its job.
        exited = child.has_exited
        members = child.members()
        child.signal_group(signal.SIGKILL)
        if exited and not members:
            return (), found
        for process in members:
            found[process.pid] = process.command
            send_signal(process.pid, process.start_ticks, signal.SIGKILL)
        if time.monotonic() >= deadline:
            leader = None if child.has_exited else procfs.read_process(child.pid)
            left = members if leader is None else [leader, *members]
            return tuple(Survivor(process.pid, process.command) for process in left), found
        child.sleep(pause)
        pause = min(pause * 2, 0.05)


def send_signal(pid: int, start_ticks: int, number: int) -> bool:
    """Signals that very process and no later owner of its pid; False when it is gone or refuses."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE) or not procfs.is_same(pid, start_ticks):
            return False
        return _attempt(lambda: os.kill(pid, number))
    try:
        if not procfs.is_same(pid, start_ticks):
            return False
        return _attempt(lambda: signal.pidfd_send_signal(descriptor, number))
    finally:
        close_descriptor(descriptor)


def _attempt(send: Callable[[], None]) -> bool:
    try:
        send()
    except OSError:
        return False
    return True
