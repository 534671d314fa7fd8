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
from gevent.lock import BoundedSemaphore

from greenagent.process import libc
from greenagent.process.child import Child, Children
from greenagent.process.job_tree import VARIABLE
from greenagent.process.program import Launcher, PreparedStart, Program, SpawnError, SpawnRequest
from greenagent.runtime import procfs
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.descriptors import close_descriptor
from greenagent.runtime.greenlets import give_way
from greenagent.runtime.native import HubMailbox, NativeLock, NoThreadError, start_thread

__all__ = ["SpawnError", "SpawnRequest", "Spawner"]

THREADS = 2
MAX_THREADS = 32
_SOME_MEMORY = 1 << 20
"""Bytes that must be had before memory counts as there again."""
_FOR_ALL = 0o666
"""Mode of a child's pipes: a program that becomes another user opens ``/dev/stdout``, too. It is reached by no path but
those in /proc of the processes that have it, which lets nobody else in."""
AT_ONCE = 8
"""Starts that are prepared at a time, while none is stuck: each has six descriptors until its program runs."""
STUCK_AFTER = 0.5
"""Seconds a start may wait before another thread helps: an exec on a dead network disk must not block the others."""


class _Order:
    """One start on its way through a thread: all but the call itself is done on the hub, before and after it."""

    def __init__(self, program: Program, tag: str | None, stdin: int | None) -> None:
        """``stdin``: as in the request, but the order's own: who asked may give up, and close it, at any time.

        Raises SpawnError, with nothing left open.
        """
        self.program = program
        self.tag = tag
        self.done = Event()
        self.path: str | None = None
        """What is executed; None until it is searched for."""
        self.pid = 0
        """From then on there is a child, and the reaper is told that it is starting."""
        self.error: SpawnError | None = None
        self.is_over = False
        """The thread has done its part."""
        self.is_abandoned = False
        self._theirs: list[int] = [] if stdin is None else [stdin]
        self._ours: list[int] = []
        self._start: PreparedStart | None = None
        try:
            self.path = program.known_path
            for number in range(len(self._theirs), 3):
                read_end, write_end = _pipe()
                self._ours.append(write_end if number == 0 else read_end)
                self._theirs.append(read_end if number == 0 else write_end)
                os.fchmod(read_end, _FOR_ALL)
                os.set_blocking(self._ours[-1], False)
            directory = None if program.directory is None else os.fsencode(program.directory)
            descriptors = (self._theirs[0], self._theirs[1], self._theirs[2])
            self._start = PreparedStart(program.arguments, program.environment, directory, descriptors)
        except OSError as error:
            self.close()
            raise program.refused(program.name, error) from error
        except SpawnError:
            self.close()
            raise

    def launch(self, launcher: Launcher, search_path: str) -> None:
        """The part of the native thread. Raises SpawnError and OSError."""
        assert self._start is not None
        path = self.path or self.program.locate(search_path)
        try:
            self.pid = launcher.launch(self._start, os.fsencode(path))
        except OSError as error:
            self.program.locate(search_path)  # raises what can be said better
            raise self.program.refused(path, error) from error

    def child(self, children: Children) -> Child:
        """The child, once it was launched. Raises OSError where it cannot be held; then it runs, and ``pid`` stays."""
        self._end_start()  # before the pidfd, so that there is a number free for it
        pidfd = os.pidfd_open(self.pid)
        process = procfs.read_process(self.pid)
        stdin = self._ours[0] if len(self._ours) == 3 else None
        pipes = (stdin, self._ours[-2], self._ours[-1])
        return children.attach(self.pid, pidfd, process.start_ticks if process is not None else 0, self.tag, pipes)

    def close(self) -> None:
        """Nothing comes of it: closes all that it has."""
        self._end_start()
        while self._ours:
            close_descriptor(self._ours.pop())

    def _end_start(self) -> None:
        if self._start is not None:
            self._start.close()
            self._start = None
        while self._theirs:
            close_descriptor(self._theirs.pop())


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
        self._orders: SimpleQueue[_Order | None] = SimpleQueue()
        self._places = BoundedSemaphore(AT_ONCE)
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
        give_way()  # the words of a program may be so many that each step takes a twentieth of a second
        program = Program(request)
        give_way()
        has_place = self._places.acquire(timeout=STUCK_AFTER)
        try:
            return self._spawn(program, request)
        except SpawnError as refused:
            if refused.lack:
                self.problem = refused.lack
                self._trouble.warning(f"no program can be started: {self.problem}; tried again for a while")
            raise
        finally:
            if has_place:
                self._places.release()

    def _spawn(self, program: Program, request: SpawnRequest) -> Child:
        try:
            stdin = None if request.stdin is None else fcntl.fcntl(request.stdin, fcntl.F_DUPFD_CLOEXEC, 3)
        except OSError as error:
            raise program.refused(program.name, error) from error
        order = _Order(program, request.environment.get(VARIABLE), stdin)
        self._orders.put(order)
        try:
            while not order.done.wait(STUCK_AFTER):
                if self._busy >= self._threads and not order.is_over:  # else it is the hub that is late
                    self._add_thread()
        except BaseException:
            self._abandon(order)
            raise
        if order.error is not None:
            order.close()
            raise order.error
        child = self._attach(order)
        self._can_start()
        return child

    def _attach(self, order: _Order) -> Child:
        try:
            child = order.child(self.children)
        except OSError as error:
            order.is_abandoned = True
            self._orders.put(order)
            what = f"it was ended at once, the agent cannot hold it: {error.strerror}"
            raise order.program.failure(what) from error
        self.children.reaper.end_start()
        return child

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
            order.is_abandoned = True
            is_over = order.is_over
        if is_over:
            self._orders.put(order)

    def _run(self) -> None:
        """The threads' work. They must live as long as the agent: their children would change hands."""
        while True:
            order = self._orders.get()
            if order is None:
                self._mailbox.post(self._thread_ended)
                return
            with self._lock:
                self._busy += 1
            if order.is_abandoned:
                self._drop(order)
            else:
                self._serve(order)
            with self._lock:
                self._busy -= 1

    def _serve(self, order: _Order) -> None:
        program, reaper = order.program, self.children.reaper
        reaper.begin_start()
        try:
            order.launch(self._launcher, self._search_path)
        except SpawnError as refused:
            order.error = refused
        except MemoryError:
            order.error = program.refused(program.name, OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
        except Exception as unexpected:
            order.error = program.failure(f"{type(unexpected).__name__}: {unexpected}")
        if not order.pid:
            reaper.end_start()
        with self._lock:
            order.is_over = True
            is_abandoned = order.is_abandoned
        if is_abandoned:
            self._drop(order)
        else:
            self._mailbox.post(order.done.set)

    def _drop(self, order: _Order) -> None:
        """Nobody wants what comes of it."""
        try:
            if order.pid:
                order.child(self.children).destroy()
        except OSError:  # no descriptor was left to hold it by
            os.kill(order.pid, signal.SIGKILL)
            os.waitid(os.P_PID, order.pid, os.WEXITED)
            order.close()
        else:
            if not order.pid:
                order.close()
        if order.pid:
            self.children.reaper.end_start()


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
