"""Which processes belong to a job, wherever they went: by its tag, by descent, or as orphans that the agent was given.

A child of ours must never be waited for by anybody but its owner: a wait for any child shows and
eats exit codes (design, section 3). So everything that reaps goes by pid and under one lock.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import gevent

from greenagent.runtime import procfs
from greenagent.runtime.native import NativeLock
from greenagent.runtime.procfs import Process, Snapshot

VARIABLE = "GREENAGENT_JOB"
"""The environment variable; ``args.env`` cannot override it (design, section 5 "Commands and admission")."""

LEADERS_REMEMBERED = 60.0
"""Seconds for which a session or group is known as the job's after its leader was last seen."""

EXEC_LIMIT = 0.1
"""Seconds to wait for a process that becomes another program."""

Pipe = tuple[int, int]
"""Device and inode."""
_VARIABLE = VARIABLE.encode() + b"="
_STAYS = "-stays"
_BLOCK = 512
"""Bytes in which the kernel counts what goes to disks."""


class Tag(NamedTuple):
    """What a tag says: the agent's instance, the job's id and which of its runs."""

    instance: str
    job_id: str
    run: int
    may_stay: bool = False
    """Whether what it marks may have been left on purpose (``leave_children``)."""


def job_tag(instance: str, job_id: str, run: int, may_stay: bool = False) -> str:
    """The variable's value for a new run: ``<instance>:<percent-encoded id>:<run>:<secret>``.

    The secret keeps a process from giving itself the tag of another job, whose end it would wait for. ``may_stay``:
    the run may leave children, which is told by the secret's end, for a start that finds its ledger gone.
    """
    secret = os.urandom(8).hex() + (_STAYS if may_stay else "")
    return f"{instance}:{quote(job_id, safe='', errors='surrogatepass')}:{run}:{secret}"


def parse_tag(text: str) -> Tag | None:
    """The parts of a value, also of one without a secret as in 0.1, or None where it is not one of ours."""
    parts = text.split(":")
    if len(parts) not in (3, 4) or not parts[0] or not (parts[2].isascii() and parts[2].isdigit()):
        return None
    may_stay = len(parts) == 3 or parts[3].endswith(_STAYS)  # one of 0.1 does not tell
    return Tag(parts[0], unquote(parts[1], errors="surrogatepass"), int(parts[2][:18]), may_stay)


def is_of(text: str, instance: str) -> bool:
    """Whether a value is a tag of this agent."""
    tag = parse_tag(text)
    return tag is not None and tag.instance == instance


def read_tag(pid: int) -> str | None:
    """The tag in a process's environment; None where there is none or it may not be read.

    Waits while the process is between two programs: it has no environment then.
    """
    until = time.monotonic() + EXEC_LIMIT
    while (data := procfs.read_environment(pid)) is None:
        if time.monotonic() > until:
            return None
        gevent.sleep(0.001)
    for variable in data.split(b"\0"):
        if variable.startswith(_VARIABLE):
            return variable[len(_VARIABLE) :].decode("utf-8", "backslashreplace")
    return None


class Used(NamedTuple):
    """Processor time in seconds, the most memory of one of the processes, what went to disks; None and 0: not known."""

    cpu: float | None = None
    memory: int = 0
    read_bytes: int = 0
    write_bytes: int = 0


def _own_memory(peak: int) -> int:
    """Bytes; 0 where the kernel may count what the agent itself had, in which every child begins. ``peak`` in KiB."""
    return peak * 1024 if peak > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss else 0


class Reaper:
    """Tells the children the agent started (``own``) from orphans that were reparented to it."""

    def __init__(self) -> None:
        self.lock = NativeLock()
        self.own: dict[int, Any] = {}
        """The children the agent started, by pid (``Child``): from before one can be seen ended until it is reaped."""
        self._starting = 0
        self._started = 0

    def begin_start(self) -> None:
        """From now until ``end_start`` there may be a child that is not in ``own`` yet. Both in any thread."""
        with self.lock:
            self._starting += 1

    def end_start(self) -> None:
        with self.lock:
            self._starting -= 1
            self._started += 1

    @property
    def is_starting(self) -> bool:
        """Whether a start is under way just now."""
        return self._starting > 0

    def reap(self, pid: int) -> Used:
        """Frees the number of a child of ours; it must have ended. Returns what it and those it waited for have used.

        The zombie guards the number until then, so that it names no other process.
        """
        used = Used()
        with self.lock:
            try:
                usage = os.wait4(pid, os.WNOHANG)[2]
                used = Used(
                    round(usage.ru_utime + usage.ru_stime, 3),
                    _own_memory(usage.ru_maxrss),
                    usage.ru_inblock * _BLOCK,
                    usage.ru_oublock * _BLOCK,
                )
            except ChildProcessError:
                pass
            self.own.pop(pid, None)
        return used

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


@dataclass(slots=True)
class _Run:
    """A run that left processes: those seen by start time, and since when others may have come from it."""

    start_ticks: int
    known: dict[int, int]
    missed: int = 0


class DetachedProcesses:
    """Which runs left processes on purpose, by tag, and which processes without a tag may be theirs."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}

    def leave(self, tag: str, start_ticks: int = 0, known: Mapping[int, int] | None = None) -> None:
        """What carries this tag may outlive its job, and so may ``known``, by start time.

        ``start_ticks``: of the run; what is younger and carries no tag may have come from it, too.
        """
        self._runs.setdefault(tag, _Run(start_ticks, {})).known.update(known or {})

    def includes(self, tag: str) -> bool:
        """Whether the run of this tag left processes on purpose."""
        return tag in self._runs

    def may_include(self, process: Process) -> list[str]:
        """The tags of the runs that may have left this process, which carries none, on purpose."""
        return [
            tag
            for tag, run in self._runs.items()
            if run.known.get(process.pid) == process.start_ticks
            or (run.known and process.start_ticks >= run.start_ticks)
        ]

    def forget_all_but(self, seen: set[str]) -> None:
        """Drops the tags of which nothing was there in two passes."""
        for tag, run in list(self._runs.items()):
            run.missed = 0 if tag in seen else run.missed + 1
            if run.missed >= 2:
                del self._runs[tag]

    def state(self) -> list[list[Any]]:
        """For ``restore`` in another image of the agent."""
        return [[tag, run.start_ticks, list(run.known.items())] for tag, run in self._runs.items()]

    def restore(self, state: Iterable[Iterable[Any]]) -> None:
        """Goes on where another image was."""
        for tag, start_ticks, known in state:
            self.leave(tag, start_ticks, {int(pid): int(start) for pid, start in known})


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

        Believed only for descendants and for processes with the job's tag; False for any other that lives
        (design, section 5 "Commands and admission"). What has ended meanwhile is nobody's.
        """
        if pid <= 1 or pid == os.getpid() or pid in self._reaper.own:
            return pid == self.leader
        process = procfs.read_process(pid)
        if process is None or process.is_dead:
            return True
        if not procfs.is_descendant(pid, self.leader) and (self.tag is None or read_tag(pid) != self.tag):
            return not procfs.is_same(pid, process.start_ticks)
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
        return self.knows(orphan, tag, procfs.pipes_of(orphan.pid))

    def knows(self, process: Process, tag: str, pipes: Collection[Pipe]) -> bool:
        """Whether a process is known as the job's: by earlier sight, session, group, its tag, or the job's pipes.

        ``pipes``: what the process has open (``procfs.pipes_of``). They tell also of one that cleared or changed
        its environment and left its session, unless it closed them.
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
