"""One child: waiting for it, signalling it, ending it with everything it started."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import gevent
from gevent.event import Event

from greenagent.process import tree
from greenagent.process.exit_status import ExitStatus, signal_name
from greenagent.process.registry import Registry
from greenagent.process.tags import parse_tag
from greenagent.process.tree import Process
from greenagent.runtime.native import close_descriptor

KILL_LIMIT = 4.0
"""Seconds after KILL until what is left counts as not dying (an uninterruptible wait in the kernel)."""

LEADERS_REMEMBERED = 60.0
"""Seconds for which a session or group is known as the job's after its leader was last seen."""

_READABLE = 1

Pipes = tuple[int | None, int | None, int | None]
"""The agent's ends of stdin, stdout and stderr; None where one is closed already (a child that was handed over)."""


class Leftover(NamedTuple):
    """A process that outlived its job."""

    pid: int
    command: str


class Child:
    """A process the agent started; leader of a session and a process group of its own.

    Its exit code is read without freeing its number (WNOWAIT): until ``reap`` the zombie guards the
    group's number, so that signals to the group cannot reach strangers. ``stdin``, ``stdout`` and
    ``stderr`` are the agent's ends, non-blocking; whoever reads or feeds them closes them.
    """

    __slots__ = (
        "_event",
        "_leaders",
        "_noted",
        "_pipes",
        "_reaped",
        "_registry",
        "_status",
        "_watcher",
        "pid",
        "pidfd",
        "start_ticks",
        "stderr",
        "stdin",
        "stdout",
        "survivors",
        "tag",
    )

    def __init__(
        self, registry: Registry, pid: int, pidfd: int, start_ticks: int, tag: str | None, pipes: Pipes
    ) -> None:
        self._registry = registry
        self.pid = pid
        self.pidfd = pidfd
        self.start_ticks = start_ticks
        self.tag = tag
        self.stdin, self.stdout, self.stderr = pipes
        self._status: ExitStatus | None = None
        self.survivors: tuple[Leftover, ...] = ()
        self._reaped = False
        self._noted: dict[int, int] = {}
        self._leaders: dict[int, float] = {}
        found = (tree.pipe_of(each) for each in pipes if each is not None)
        self._pipes = frozenset(pipe for pipe in found if pipe is not None)
        self._event: Event | None = None
        self._watcher: Any = None

    @property
    def has_exited(self) -> bool:
        return self._poll() is not None

    def when_exited(self, callback: Callable[[], None]) -> None:
        """Calls ``callback`` on the hub once the child has exited; it must not block."""
        self._exit_event().rawlink(lambda _: callback())

    def wait(self, timeout: float | None = None) -> ExitStatus | None:
        """Waits for the exit, at most ``timeout`` seconds; None when it still runs then. Frees nothing."""
        if self._poll() is None and (timeout is None or timeout > 0):
            self._exit_event().wait(timeout)
        return self._poll()

    def signal(self, number: int) -> bool:
        """Sends a signal to the group; False when the leader had ended before."""
        if self.has_exited:
            return False
        return self._signal_group(number)

    def end(self, grace: float) -> tuple[int, ...]:
        """Ends the child and all it started: TERM, up to ``grace`` seconds, KILL, until only zombies are left.

        Returns the pids of what would not die within ``KILL_LIMIT`` seconds of the KILL;
        ``survivors`` has their commands. The leader is not reaped. May be called by several
        greenlets, also after the exit.
        """
        self._terminate(grace)
        self.survivors, _ = self._kill()
        return tuple(survivor.pid for survivor in self.survivors)

    def sweep(self, grace: float = 0) -> tuple[Leftover, ...]:
        """After the exit: ends what the child left behind (KILL at once without ``grace``) and says what it was."""
        if self.has_exited and not self.members():
            return ()  # whatever a dead leader left is ours by now (subreaper), or below one that is
        found = self._terminate(grace) if grace > 0 else {}
        _, killed = self._kill()
        found.update(killed)
        return tuple(Leftover(pid, command) for pid, command in found.items())

    def leave_children(self) -> None:
        """What the child left behind may go on (``leave_children``): call it instead of ``sweep``, before ``reap``."""
        if self.tag is None:
            return
        known = {process.pid: process.start_ticks for process in self.members()}
        for pid in self._registry.adopted():
            process = tree.read_process(pid)
            if process is None or process.is_dead or process.start_ticks < self.start_ticks:
                continue
            if parse_tag(tree.read_tag(pid) or "") is None:  # nobody can tell whose it is: perhaps this job's
                known[pid] = process.start_ticks
        self._registry.leave(self.tag, self.start_ticks, known)

    def reap(self) -> ExitStatus:
        """Waits for the exit, then frees the pid and the pidfd. The last thing to do; harmless when repeated."""
        status = self.wait()
        assert status is not None
        if not self._reaped:
            self._reaped = True
            self._registry.reap(self)
            if self._watcher is not None:
                self._watcher.stop()
                self._watcher.close()
                self._watcher = None
            close_descriptor(self.pidfd)
        return status

    def announce(self, pid: int) -> bool:
        """A ``101::PID`` message: the process belongs to the job from now on.

        Believed only for descendants and for processes with the job's tag; False otherwise
        (design, section 5).
        """
        if pid <= 1 or pid == os.getpid() or pid in self._registry:
            return pid == self.pid
        process = tree.read_process(pid)
        if process is None or process.is_dead:
            return False
        if not tree.is_descendant(pid, self.pid) and (self.tag is None or tree.read_tag(pid) != self.tag):
            return False
        self._noted[pid] = process.start_ticks
        return True

    def adopt(self, process: Process) -> None:
        """An orphan that is known to be the job's: it ends with it."""
        self._noted[process.pid] = process.start_ticks

    def known_pids(self) -> tuple[int, ...]:
        """Everything of the job seen so far beside the child itself: announced, adopted or found below it."""
        return tuple(self._noted)

    def known(self) -> dict[int, int]:
        """As ``known_pids``, each with its start time in ticks."""
        return dict(self._noted)

    def adopt_known(self, known: dict[int, int]) -> None:
        """What another image of the agent knew of this child's processes."""
        self._noted.update(known)

    def note(self) -> list[Process]:
        """Remembers every descendant of now, so that it is known also when it leaves; returns the living ones."""
        return self._note([])

    def members(self) -> list[Process]:
        """As ``note``, with the orphans of the job that were given to the agent. The leader is not among them."""
        exited = self.has_exited  # asked first: what it had below it is the agent's then
        return self._note([pid for pid in self._registry.adopted() if self.owns(pid)], exited)

    def owns(self, pid: int) -> bool:
        """Whether an orphan came from this child (see ``knows``). Reaps it if it is dead."""
        process = tree.read_process(pid)
        if process is None:
            return False
        if process.is_dead:
            self._registry.reap_adopted(pid)
            return False
        if self._has_seen(process):
            return True
        if process.start_ticks < self.start_ticks:
            return False  # older than the child: known at once, since others may have left many
        tag = tree.read_tag(pid) or ""
        return self.knows(process, tag, tree.pipes_of(pid) if parse_tag(tag) is None else ())

    def knows(self, process: Process, tag: str, pipes: Collection[tuple[int, int]]) -> bool:
        """Whether a process is known as the job's: by earlier sight, session, group, its tag, or the job's pipes.

        ``pipes``: what a process without a tag has open (``tree.pipes_of``). They tell also of one
        that cleared its environment and left its session, unless it closed them.
        """
        return self._has_seen(process) or (bool(tag) and tag == self.tag) or not self._pipes.isdisjoint(pipes)

    def _has_seen(self, process: Process) -> bool:
        if self._noted.get(process.pid) == process.start_ticks:
            return True
        if not self._reaped and self.pid in (process.session, process.group):
            return True
        return process.session in self._leaders or process.group in self._leaders

    def _note(self, orphans: list[int], exited: bool = False) -> list[Process]:
        self._noted = {pid: start for pid, start in self._noted.items() if tree.is_same(pid, start)}
        roots = [*self._noted, *orphans]
        below = tree.descendants(roots if exited or self._reaped else [self.pid, *roots], _let_others_run)
        found = []
        now = time.monotonic()
        self._leaders = {pid: seen for pid, seen in self._leaders.items() if now - seen < LEADERS_REMEMBERED}
        for number, pid in enumerate(dict.fromkeys(roots + below), start=1):
            if number % tree.SLICE == 0:
                _let_others_run()
            process = tree.read_process(pid)
            if process is None or pid == self.pid:
                continue
            if process.is_dead:
                self._registry.reap_adopted(pid)
                continue
            self._noted[pid] = process.start_ticks
            if pid in (process.session, process.group):
                self._leaders[pid] = now
            found.append(process)
        return found

    def _terminate(self, grace: float) -> dict[int, str]:
        """TERM to all, also to those that appear meanwhile; waits until they are gone, at most ``grace`` seconds."""
        deadline = time.monotonic() + grace
        told: set[tuple[int, int, str]] = set()  # with the command: what is exec'd after the signal is told again
        members = self.members()
        if not self.has_exited or members:
            self._signal_group(signal.SIGTERM)
            self._signal_group(signal.SIGCONT)  # a stopped process would not see the TERM
        by_group = not self._reaped
        pause = 0.005
        while True:
            for process in members:
                key = (process.pid, process.start_ticks, process.command)
                if key not in told:
                    told.add(key)
                    if process.group != self.pid or not by_group:
                        tree.send_signal(process.pid, process.start_ticks, signal.SIGTERM)
                        tree.send_signal(process.pid, process.start_ticks, signal.SIGCONT)
            by_group = False  # what comes into the group from now on has not heard the signal
            left = deadline - time.monotonic()
            if left <= 0 or (self.has_exited and not members):
                return {pid: command for pid, _, command in told}
            self._pause(min(pause, left))
            pause = min(pause * 2, 0.1)
            members = self.members()

    def _kill(self) -> tuple[tuple[Leftover, ...], dict[int, str]]:
        """KILL until a pass finds nothing but zombies; returns what would not die and all that was found."""
        deadline = time.monotonic() + KILL_LIMIT
        found: dict[int, str] = {}
        pause = 0.001
        while True:
            exited = self.has_exited  # asked first: its children are given to us, to be reaped, when it exits
            members = self.members()
            self._signal_group(signal.SIGKILL)
            if exited and not members:
                return (), found
            for process in members:
                found[process.pid] = process.command
                tree.send_signal(process.pid, process.start_ticks, signal.SIGKILL)
            if time.monotonic() >= deadline:
                leftovers = [Leftover(process.pid, process.command) for process in members]
                leader = None if self.has_exited else tree.read_process(self.pid)
                if leader is not None:
                    leftovers.insert(0, Leftover(leader.pid, leader.command))
                return tuple(leftovers), found
            self._pause(pause)
            pause = min(pause * 2, 0.05)

    def _pause(self, seconds: float) -> None:
        """Sleeps, less if the leader exits meanwhile."""
        if self.has_exited:
            gevent.sleep(seconds)
        else:
            self._exit_event().wait(seconds)

    def _signal_group(self, number: int) -> bool:
        if self._reaped:
            return False  # the number may belong to strangers by now
        try:
            os.killpg(self.pid, number)
        except OSError:
            return False
        return True

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


def _let_others_run() -> None:
    gevent.sleep(0)
