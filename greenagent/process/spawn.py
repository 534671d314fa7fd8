"""The one path that starts children. Nothing else in the agent forks."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
from _queue import SimpleQueue  # the C one: the module ``queue`` is patched, and native threads must not use that

import gevent
from gevent.event import Event

from greenagent.process import libc
from greenagent.process.child import Child, Children
from greenagent.process.job_tree import VARIABLE
from greenagent.process.program import Launcher, Program, SpawnError, SpawnRequest
from greenagent.runtime import procfs
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.descriptors import close_descriptor
from greenagent.runtime.native import HubMailbox, NativeLock, NoThreadError, start_thread

__all__ = ["SpawnError", "SpawnRequest", "Spawner"]

THREADS = 2
MAX_THREADS = 32
_SOME_MEMORY = 1 << 20
"""Bytes that must be had before memory counts as there again."""
_FOR_ALL = 0o666
"""Mode of a child's pipes: a program that becomes another user opens ``/dev/stdout``, too. It is reached by no path but
those in /proc of the processes that have it, which lets nobody else in."""
STUCK_AFTER = 0.5
"""Seconds a start may wait before another thread helps: an exec on a dead network disk must not block the others."""


class _Order:
    """One start on its way through a thread."""

    def __init__(self, program: Program, tag: str | None, stdin: int | None) -> None:
        """``stdin``: as in the request, but the order's own: who asked may give up, and close it, at any time."""
        self.program = program
        self.tag = tag
        self.stdin = stdin
        self.done = Event()
        self.outcome: Child | SpawnError | None = None
        self.abandoned = False


class Spawner:
    """Starts programs in native threads, since an exec may block.

    At most ``THREADS`` starts are under way at once (more only while some are stuck), so that a
    hundred at once do not stall the hub.
    """

    def __init__(self, agent_log: AgentLog, search_path: str | None = None, launcher: Launcher | None = None) -> None:
        """``search_path``: where programs without a slash are searched; by default the agent's own PATH."""
        self.children = Children()
        self._agent_log = agent_log
        self._search_path = search_path if search_path is not None else os.environ.get("PATH", os.defpath)
        self._orders: SimpleQueue[_Order | Child | None] = SimpleQueue()
        self._launcher = launcher if launcher is not None else Launcher()
        self._lock = NativeLock()
        self._threads = 0
        self._busy = 0
        self._running = False
        self._trouble = agent_log.on_change()
        self.problem = ""
        """Why no program can be started just now, for the agent's health; "" while they can."""

    def start(self) -> None:
        """Prepares this process for having children; in the main thread. Raises OSError.

        SIGCHLD must not be ignored (a parent may have left it so: the system would then throw exit
        codes away), orphans come to us, and descriptors we were started with stay ours.
        """
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _keep_descriptors()
        libc.set_subreaper(True)
        self._mailbox = HubMailbox()
        self._running = True
        for _ in range(THREADS):
            self._add_thread()

    def stop(self) -> None:
        """Ends the threads after the starts already asked for; children go on, but their orphans go elsewhere."""
        if self._running:
            self._running = False
            for _ in range(self._threads):
                self._orders.put(None)
            libc.set_subreaper(False)

    def spawn(self, request: SpawnRequest) -> Child:
        """Starts a program; the greenlet waits until it runs. Raises SpawnError.

        A greenlet that is killed meanwhile leaves nothing: the child is ended and reaped.
        """
        if not self._running:
            raise SpawnError(f"cannot start {request.executable!r}: the agent is stopping", temporary=True)
        program = Program(request)
        try:
            stdin = None if request.stdin is None else fcntl.fcntl(request.stdin, fcntl.F_DUPFD_CLOEXEC, 3)
        except OSError as error:
            raise program.refused(program.name, error) from error
        order = _Order(program, request.environment.get(VARIABLE), stdin)
        self._orders.put(order)
        try:
            while not order.done.wait(STUCK_AFTER):
                if self._busy >= self._threads:
                    self._add_thread()
        except BaseException:
            self._abandon(order)
            raise
        if isinstance(order.outcome, Child):
            self._can_start()
            return order.outcome
        assert order.outcome is not None
        if order.outcome.lack:
            self.problem = order.outcome.lack
            self._trouble.warning(f"no program can be started: {self.problem}; tried again for a while")
        raise order.outcome

    def look_again(self) -> None:
        """To be called every few seconds: finds out whether there is room again when no job is started."""
        if not self.problem:
            return
        descriptors: list[int] = []
        try:
            for _ in range(3):
                descriptors += os.pipe2(os.O_CLOEXEC)
            mmap.mmap(-1, _SOME_MEMORY).close()
            start_thread(_nothing)  # a thread takes a place among the processes
        except (OSError, NoThreadError, MemoryError):
            return
        finally:
            for descriptor in descriptors:
                close_descriptor(descriptor)
        self._can_start()

    def _can_start(self) -> None:
        if self.problem:
            self.problem = ""
            self._trouble.resolved("programs can be started again")

    def _add_thread(self) -> None:
        if self._threads >= MAX_THREADS:
            return
        try:
            start_thread(self._run)
        except NoThreadError:
            self._agent_log.warning("cannot start another thread for starting programs: the system refuses")
            return
        self._threads += 1

    def _thread_ended(self) -> None:
        self._threads -= 1
        if self._threads == 0:
            gevent.spawn(self._mailbox.close)  # not from within its own delivery

    def _abandon(self, order: _Order) -> None:
        with self._lock:
            order.abandoned = True
            outcome = order.outcome
        if isinstance(outcome, Child):
            self._orders.put(outcome)

    def _run(self) -> None:
        """The threads' work. They must live as long as the agent: their children would change hands."""
        while True:
            order = self._orders.get()
            if order is None:
                self._mailbox.post(self._thread_ended)
                return
            with self._lock:
                self._busy += 1
            if isinstance(order, Child):
                order.destroy()
            elif not order.abandoned:
                self._serve(order)
            elif order.stdin is not None:
                close_descriptor(order.stdin)
            with self._lock:
                self._busy -= 1

    def _serve(self, order: _Order) -> None:
        outcome: Child | SpawnError
        try:
            outcome = self._launch(order.program, order.tag, order.stdin)
        except SpawnError as refused:
            outcome = refused
        except MemoryError:
            outcome = order.program.refused(order.program.name, OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
        except Exception as unexpected:
            outcome = order.program.failure(f"{type(unexpected).__name__}: {unexpected}")
        with self._lock:
            order.outcome = outcome
            abandoned = order.abandoned
        if not abandoned:
            self._mailbox.post(order.done.set)
        elif isinstance(outcome, Child):
            outcome.destroy()

    def _launch(self, program: Program, tag: str | None, stdin: int | None) -> Child:
        ours: list[int] = []
        theirs: list[int] = [] if stdin is None else [stdin]
        path = program.name
        pid = 0
        try:
            path = program.locate(self._search_path)
            for number in range(len(theirs), 3):
                read_end, write_end = _pipe()
                os.fchmod(read_end, _FOR_ALL)
                ours.append(write_end if number == 0 else read_end)
                theirs.append(read_end if number == 0 else write_end)
                os.set_blocking(ours[-1], False)
            with self.children.reaper.starting():
                pid = self._launcher.launch(
                    os.fsencode(path),
                    program.arguments,
                    program.environment,
                    None if program.directory is None else os.fsencode(program.directory),
                    (theirs[0], theirs[1], theirs[2]),
                )
                while theirs:  # before the pidfd, so that there is a number free for it
                    close_descriptor(theirs.pop())
                pidfd = os.pidfd_open(pid)
                process = procfs.read_process(pid)
                start_ticks = process.start_ticks if process is not None else 0
                pipes = (None if stdin is not None else ours[0], ours[-2], ours[-1])
                return self.children.attach(pid, pidfd, start_ticks, tag, pipes)
        except OSError as error:
            for descriptor in ours:
                close_descriptor(descriptor)
            if pid:  # it runs, but no descriptor was left to hold it by
                os.kill(pid, signal.SIGKILL)
                os.waitid(os.P_PID, pid, os.WEXITED)
                raise program.failure(f"it was ended at once, the agent cannot hold it: {error.strerror}") from error
            raise program.refused(path, error) from error
        finally:
            for descriptor in theirs:
                close_descriptor(descriptor)


def _nothing() -> None:
    """What a thread does that only shows that there can be one."""


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are above 2.

    An agent started with closed standard streams would get those numbers: what it writes to its
    stderr would reach a child, and the copies made for a child could overwrite one another.
    """
    ends = os.pipe2(os.O_CLOEXEC)
    if min(ends) > 2:
        return ends
    moved: list[int] = []
    try:
        for end in ends:
            moved.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3))
    except OSError:
        for end in moved:
            close_descriptor(end)
        raise
    finally:
        for end in ends:
            close_descriptor(end)
    return moved[0], moved[1]


def _keep_descriptors() -> None:
    """Closes on exec whatever the agent itself was started with, so that no job inherits it."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                pass  # the descriptor of the listing itself
