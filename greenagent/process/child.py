"""The children of the agent: waiting for one, signalling it, ending it with everything it started, freeing its pid."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gevent
from gevent.event import Event

from greenagent.process.job_tree import DetachedProcesses, JobTree, Reaper, Used, parse_tag, read_tag
from greenagent.runtime import procfs
from greenagent.runtime.descriptors import close_descriptor, forget_descriptor
from greenagent.runtime.procfs import Process
from greenagent.values.signals import signal_name

_READABLE = 1
KILL_LIMIT = 4.0
"""Seconds after KILL until what is left counts as not dying (an uninterruptible wait in the kernel)."""

Pipes = tuple[int | None, int | None, int | None]
"""The agent's ends of stdin, stdout and stderr; None where one is closed already (a child that was handed over)."""


@dataclass(frozen=True)
class ExitStatus:
    """How a process ended: ``code`` if it exited, or the name of the ``signal`` it died of.

    See design, section 5 "Commands and admission".
    """

    code: int | None
    signal: str | None


class Child:
    """A process the agent started; leader of a session and a process group of its own.

    Its exit code is read without freeing its number (WNOWAIT): until ``reap`` the zombie guards the
    group's number, so that signals to the group cannot reach strangers. ``stdin``, ``stdout`` and
    ``stderr`` are the agent's ends, non-blocking; whoever reads or feeds them closes them. ``tree``
    knows what the child started.
    """

    __slots__ = (
        "_detached",
        "_event",
        "_reaper",
        "_status",
        "_watcher",
        "pid",
        "pidfd",
        "start_ticks",
        "stderr",
        "stdin",
        "stdout",
        "tag",
        "tree",
        "used",
    )

    def __init__(
        self,
        reaper: Reaper,
        detached: DetachedProcesses,
        pid: int,
        pidfd: int,
        start_ticks: int,
        tag: str | None,
        pipes: Pipes,
    ) -> None:
        self._reaper = reaper
        self._detached = detached
        self.pid = pid
        self.pidfd = pidfd
        self.start_ticks = start_ticks
        self.tag = tag
        self.stdin, self.stdout, self.stderr = pipes
        found = (procfs.pipe_of(each) for each in pipes if each is not None)
        self.tree = JobTree(reaper, pid, start_ticks, tag, [pipe for pipe in found if pipe is not None])
        self.used = Used()
        """Known once it is reaped."""
        self._status: ExitStatus | None = None
        self._event: Event | None = None
        self._watcher: Any = None

    @property
    def has_exited(self) -> bool:
        """Whether the leader has ended; what it started may go on."""
        return self._poll() is not None

    def when_exited(self, callback: Callable[[], None]) -> None:
        """Calls ``callback`` on the hub once the child has exited; it must not block."""
        self._exit_event().rawlink(lambda _: callback())

    def wait(self, timeout: float | None = None) -> ExitStatus | None:
        """Waits for the exit, at most ``timeout`` seconds; None when it still runs then. Frees nothing."""
        if self._poll() is None and (timeout is None or timeout > 0):
            self._exit_event().wait(timeout)
        return self._poll()

    def sleep(self, seconds: float) -> None:
        """Sleeps, less if the child exits meanwhile."""
        if self.has_exited:
            gevent.sleep(seconds)
        else:
            self._exit_event().wait(seconds)

    def signal(self, number: int) -> bool:
        """Sends a signal to the group; False when the leader had ended before.

        Raises PermissionError where no process of the group may be signalled, such as programs of another user.
        """
        return not self.has_exited and self._signal_group(number)

    def signal_group(self, number: int) -> None:
        """As ``signal``, also after the leader's end, until it is reaped; what may not be signalled is left alone."""
        try:
            self._signal_group(number)
        except PermissionError:
            pass

    def _signal_group(self, number: int) -> bool:
        if self.tree.leader_is_reaped:
            return False  # the number may belong to strangers by now
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def members(self) -> list[Process]:
        """All living processes of the job but the child itself, its orphans included."""
        return self.tree.find_all(self.has_exited)

    def leave_children(self) -> None:
        """What the child left behind may go on (``leave_children``): call it instead of a sweep, before ``reap``."""
        if self.tag is None:
            return
        known = {process.pid: process.start_ticks for process in self.members()}
        for orphan in self._reaper.orphans():
            if orphan.start_ticks >= self.start_ticks and parse_tag(read_tag(orphan.pid) or "") is None:
                known[orphan.pid] = orphan.start_ticks  # nobody can tell whose it is: perhaps this job's
        self._detached.leave(self.tag, self.start_ticks, known)

    def reap(self) -> ExitStatus:
        """Waits for the exit, then frees the pid and the pidfd. The last thing to do; harmless when repeated."""
        status = self.wait()
        assert status is not None
        if not self.tree.leader_is_reaped:
            self.tree.leader_is_reaped = True
            self.used = self._reaper.reap(self.pid)
            if self._watcher is not None:
                self._watcher.stop()
                self._watcher.close()
                self._watcher = None
                forget_descriptor(self.pidfd)
            close_descriptor(self.pidfd)
        return status

    def reap_spent(self) -> tuple[float, int, int]:
        """Reaps it; the seconds of processor time it has used, and the bytes it has read from and written to disks."""
        self.reap()
        return self.used.cpu or 0.0, self.used.read_bytes, self.used.write_bytes

    def destroy(self) -> None:
        """Ends a child that nobody waits for any more; in a native thread."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOWAIT)
        except OSError:
            pass  # it may not be signalled, or is reaped already
        self._reaper.reap(self.pid)
        for descriptor in (self.pidfd, self.stdin, self.stdout, self.stderr):
            if descriptor is not None:
                close_descriptor(descriptor)

    def _poll(self) -> ExitStatus | None:
        if self._status is None:
            result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if result is not None:
                exited = result.si_code == os.CLD_EXITED
                self._status = ExitStatus(
                    result.si_status if exited else None, None if exited else signal_name(result.si_status)
                )
        return self._status

    def _exit_event(self) -> Event:
        if self._event is None:
            self._event = Event()
            self._watcher = gevent.get_hub().loop.io(self.pidfd, _READABLE)
            self._watcher.start(self._on_exit)
        return self._event

    def _on_exit(self) -> None:
        self._watcher.stop()  # a pidfd stays readable
        assert self._event is not None
        self._event.set()


class Children:
    """Knows every child from the instant it can be seen until it is reaped."""

    def __init__(self) -> None:
        self.reaper = Reaper()
        self.detached = DetachedProcesses()
        self.expected: set[str] = set()
        """Tags of runs that an earlier image of the agent handed over and that are not attached yet."""

    def attach(self, pid: int, pidfd: int, start_ticks: int, tag: str | None, pipes: Pipes) -> Child:
        """Makes a process that was just started, here or by an earlier image of the agent, a child. In any thread."""
        child = Child(self.reaper, self.detached, pid, pidfd, start_ticks, tag, pipes)
        with self.reaper.lock:
            self.reaper.own[pid] = child
            self.expected.discard(tag or "")
        return child

    def live(self) -> list[Child]:
        """Every child not yet reaped."""
        with self.reaper.lock:
            return list(self.reaper.own.values())

    def live_if_complete(self) -> list[Child] | None:
        """As ``live``; None while one may be missing that has descendants already."""
        return None if self.reaper.is_starting or self.expected else self.live()


class Survivor(NamedTuple):
    """A process that outlived its job; ``reason``: why it could not be ended, where that is known."""

    pid: int
    command: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.pid} ({self.command}{self.reason and f', {self.reason}'})"


def named(processes: Sequence[Survivor]) -> str:
    """For people: each with its pid, its command, and why it lives where that is known."""
    return ", ".join(map(str, processes))


class Swept(NamedTuple):
    """What a child left behind: what was ended, and what could not be."""

    ended: tuple[Survivor, ...] = ()
    left: tuple[Survivor, ...] = ()


def end(child: Child, grace: float) -> tuple[Survivor, ...]:
    """Ends the child and all it started: TERM, up to ``grace`` seconds, KILL, until only zombies are left.

    Returns what would not die within ``KILL_LIMIT`` seconds of the KILL. The leader is not reaped. May
    be called by several greenlets, also after the exit.
    """
    _terminate(child, grace)
    return _kill(child)[0]


def sweep(child: Child, grace: float = 0) -> Swept:
    """After the exit: ends what the child left behind (KILL at once without ``grace``) and returns what it was."""
    if child.has_exited and not child.members():
        return Swept()  # whatever a dead leader left is ours by now (subreaper), or below one that is
    found = _terminate(child, grace) if grace > 0 else {}
    left, killed = _kill(child)
    found.update(killed)
    for survivor in left:
        found.pop(survivor.pid, None)
    return Swept(tuple(Survivor(pid, command) for pid, command in found.items()), left)


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
            return tuple(Survivor(process.pid, process.command, why_alive(process)) for process in left), found
        child.sleep(pause)
        pause = min(pause * 2, 0.05)


def why_alive(process: Process) -> str:
    """Why a process does not die of KILL, in words; "" where that is not known."""
    try:
        os.kill(process.pid, 0)
    except PermissionError:
        return "not permitted"
    except OSError:
        return ""
    return "it waits for a device or a file system" if process.state == "D" else ""


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
