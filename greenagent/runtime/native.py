"""Native threads beside the gevent hub.

Only the original primitives are used on the native side: a native thread that waits for a patched
lock hangs with the hub (design, section 3). Nothing here uses ``logging`` or the patched ``queue``.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import gevent
from gevent import monkey
from gevent.event import AsyncResult, Event
from gevent.threadpool import ThreadPool

from greenagent.values.errors import GreenagentError

_start_new_thread = monkey.get_original("_thread", "start_new_thread")
_allocate_lock = monkey.get_original("_thread", "allocate_lock")
thread_ident: Callable[[], int] = monkey.get_original("_thread", "get_ident")
"""The number of the native thread that asks."""

native_sleep: Callable[[float], None] = monkey.get_original("time", "sleep")
"""``time.sleep`` for native threads: the patched one needs a hub."""

Item = TypeVar("Item")
T = TypeVar("T")


class NoThreadError(GreenagentError):
    """The system has no thread left for us."""


def start_thread(function: Callable[[], None]) -> None:
    """Runs ``function`` in a native thread of its own. Raises NoThreadError.

    Signals are for the main thread alone: one that another thread takes reaches the hub later, and
    is lost when the agent is replaced in place meanwhile.
    """
    try:
        _start_new_thread(_without_signals, (function,))
    except RuntimeError as error:
        raise NoThreadError("no more threads are allowed here (limit of the user or the system)") from error


def _without_signals(function: Callable[[], None]) -> None:
    leave_signals_to_main_thread()
    function()


def leave_signals_to_main_thread() -> None:
    """Blocks every signal in the calling native thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


class NativeLock:
    """A plain lock of the system, for data that a native thread and the hub share."""

    def __init__(self) -> None:
        self._lock = _allocate_lock()

    def __enter__(self) -> NativeLock:
        self._lock.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def take(self) -> bool:
        """Takes it if it is free, for ``release``; for the hub, which must not wait."""
        return bool(self._lock.acquire(False))

    def release(self) -> None:
        self._lock.release()


class NativeSignal:
    """Wakes one native thread: ``set`` is remembered until the one waiter takes it."""

    def __init__(self) -> None:
        self._lock = _allocate_lock()
        self._lock.acquire()

    def set(self) -> None:
        """Callable from any thread."""
        try:
            self._lock.release()
        except RuntimeError:
            pass  # already set

    def wait(self, timeout: float | None = None) -> bool:
        """Waits up to ``timeout`` seconds in a native thread; True when the signal came."""
        return bool(self._lock.acquire(True, -1 if timeout is None else timeout))


class HubMailbox:
    """Runs callables on the hub, given from any thread; they must not block (set an event, no more)."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._watcher = gevent.get_hub().loop.async_()
        self._watcher.start(self._deliver)

    def post(self, callback: Callable[[], None]) -> None:
        """Callable from any thread."""
        self._waiting.append(callback)
        self._watcher.send()

    def close(self) -> None:
        """Delivers what is left and stops; on the hub's thread only."""
        self._deliver()
        self._watcher.stop()
        self._watcher.close()

    def _deliver(self) -> None:
        while self._waiting:
            self._waiting.popleft()()


class NativeWorker(Generic[Item]):
    """One native thread that handles items in order, taking all that waits as one batch.

    ``handle(batch)`` runs in the thread and must not raise; if it does, ``on_failure`` gets the
    exception on the hub and the worker stops. ``wait_room`` blocks the calling greenlet while the weight
    of unfinished items exceeds ``capacity``: that is how a slow disk pushes back on a pipe.
    """

    def __init__(
        self,
        name: str,
        handle: Callable[[list[Item]], None],
        *,
        capacity: int = 1 << 30,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.name = name
        self._handle = handle
        self._capacity = capacity
        self._on_failure = on_failure
        self._waiting: deque[tuple[Item, int]] = deque()
        self._signal = NativeSignal()
        self._turn = NativeLock()
        """Whoever takes items from what waits, until they are handled: the thread, or the hub in ``take``."""
        self._is_urgent = False
        """Whether something waits that was put to be handled now."""
        self._mailbox = HubMailbox()
        self._weight = 0
        self._room = Event()
        self._room.set()
        self._done = Event()
        self._stopping = False
        self._callers: set[AsyncResult] = set()
        self._alarm: Any = None
        """Wakes the thread for what was put to be handled later."""
        self.failure: BaseException | None = None
        self.ident = 0
        """The thread's number in ``sys._current_frames``."""
        self.busy_since: float | None = None
        """Monotonic time at which the batch in hand was begun; None while the thread waits."""
        start_thread(self._run)

    @property
    def weight(self) -> int:
        """The weight of what is put and not yet handled."""
        return self._weight

    @property
    def is_alive(self) -> bool:
        return not self._done.is_set()

    def wait_room(self) -> None:
        """Blocks the greenlet while the worker is behind; a ``put_now`` that follows without yielding finds room."""
        while self._weight >= self._capacity and self.is_alive:
            self._room.wait()

    def put_now(self, item: Item, weight: int = 1) -> None:
        """Hands an item over without ever waiting. On the hub's thread only."""
        if self.failure is not None or self._stopping:
            raise RuntimeError(f"{self.name} has stopped")
        self._weight += weight
        if self._weight >= self._capacity:
            self._room.clear()
        self._waiting.append((item, weight))
        self._is_urgent = True  # after the item is there: the thread takes all that is there when it takes this back
        self._signal.set()

    def put_later(self, item: Item, seconds: float) -> None:
        """Hands an item over with the next one, or after ``seconds``: waking the thread costs more than a short item.

        Its place in the order is that of this call. On the hub's thread only.
        """
        if self.failure is not None or self._stopping:
            raise RuntimeError(f"{self.name} has stopped")
        self._weight += 1
        self._waiting.append((item, 1))
        if self._alarm is None:
            self._alarm = gevent.get_hub().loop.timer(seconds)
            self._alarm.start(self._ring)

    def take(self) -> list[Item] | None:
        """What waits to be handled later, for the hub to handle itself before it calls ``give_back``.

        None while the thread has something to do: then nothing is taken.
        """
        if self._is_urgent or not self._turn.take():
            return None
        items = [item for item, _ in self._waiting]
        self._waiting.clear()
        self._weight -= len(items)
        self._stop_alarm()
        return items

    def give_back(self, items: Sequence[Item] = ()) -> None:
        """Ends ``take``; ``items`` of it that could not be handled are the next for the thread."""
        self._weight += len(items)
        self._waiting.extendleft((item, 1) for item in reversed(items))
        self._turn.release()
        if items:
            self._is_urgent = True
            self._signal.set()

    def _ring(self) -> None:
        if self._stop_alarm():
            self._is_urgent = True
            self._signal.set()

    def _stop_alarm(self) -> bool:
        """Whether there was one."""
        if self._alarm is None:
            return False
        self._alarm.stop()
        self._alarm.close()
        self._alarm = None
        return True

    def call(self, function: Callable[..., Any]) -> Any:
        """Hands ``function`` over as an item, for ``handle`` to call; returns or raises what it does there.

        Raises GreenagentError when the thread has ended, or ends before the function's turn: nobody else
        would ever wake the caller.
        """
        result = AsyncResult()

        def run(*args: Any) -> None:
            try:
                answer = function(*args)
            except BaseException as error:
                self.post(lambda error=error: result.set_exception(error))  # type: ignore[misc]
            else:
                self.post(lambda: result.set(answer))

        if not self.is_alive or self._stopping or self.failure is not None:
            raise self._has_ended()
        self._callers.add(result)
        try:
            self.put_now(run)  # type: ignore[arg-type]
            return result.get()
        finally:
            self._callers.discard(result)

    def _has_ended(self) -> GreenagentError:
        return GreenagentError(f"the {self.name} has stopped" + (f": {self.failure}" if self.failure else ""))

    def post(self, callback: Callable[[], None]) -> None:
        """Runs ``callback`` on the hub; callable from the worker's thread."""
        self._mailbox.post(callback)

    def stop(self, timeout: float | None = None) -> bool:
        """Handles all that waits, then ends the thread; True when it has ended.

        False when it has not after ``timeout`` seconds: it is left to itself, to end when it can.
        """
        self._stopping = True
        self._ring()
        self._signal.set()
        if not self._done.wait(timeout):
            return False  # its mailbox stays open: it may yet post
        self._mailbox.close()
        return True

    def _run(self) -> None:
        self.ident = thread_ident()
        try:
            while True:
                self._signal.wait()
                while weight := self._handle_waiting():
                    self._mailbox.post(lambda weight=weight: self._release(weight))  # type: ignore[misc]
                if self._stopping and not self._waiting:
                    break
        except BaseException as error:
            self.failure = error
        self._mailbox.post(self._ended)

    def _handle_waiting(self) -> int:
        """The weight of what was there."""
        batch: list[Item] = []
        weight = 0
        with self._turn:
            self._is_urgent = False
            while self._waiting:
                item, item_weight = self._waiting.popleft()
                batch.append(item)
                weight += item_weight
            if batch:
                self.busy_since = time.monotonic()
                self._handle(batch)
                self.busy_since = None
        return weight

    def _release(self, weight: int) -> None:
        self._weight -= weight
        if self._weight < self._capacity:
            self._room.set()

    def _ended(self) -> None:
        self._done.set()
        self._room.set()
        for result in self._callers:  # what had run was posted before this
            if not result.ready():
                result.set_exception(self._has_ended())
        if self.failure is not None and self._on_failure is not None:
            self._on_failure(self.failure)


class NativePool:
    """Runs callables in native threads; the calling greenlet waits for the answer.

    An exception is caught in the thread and raised in the caller, since gevent's pool would also
    print its traceback (design, section 3).
    """

    def __init__(self, size: int) -> None:
        """Raises NoThreadError."""
        self._pool = ThreadPool(size)
        _start_all(self._pool, size)

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Calls ``function(*args)`` in a native thread and returns or raises what it does."""
        answer: tuple[T | None, BaseException | None] = self._pool.apply(_caught, (function, args))
        value, error = answer
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def close(self) -> None:
        """Ends the threads once idle."""
        self._pool.kill()


def _caught(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
    leave_signals_to_main_thread()  # gevent starts these threads; it costs a microsecond
    try:
        return function(*args), None
    except BaseException as error:
        return None, error


def start_hub_threads() -> None:
    """Starts the threads in which gevent looks names up, for good. Raises NoThreadError."""
    hub = gevent.get_hub()
    pool = ThreadPool(hub.threadpool_size, hub=hub)  # gevent's own ends its threads when they are idle
    _start_all(pool, hub.threadpool_size)
    hub.threadpool = pool


def _start_all(pool: ThreadPool, size: int) -> None:
    """Now, while there are threads: a pool that cannot start one later is broken by the attempt."""
    try:
        pool.size = size
    except RuntimeError as error:
        raise NoThreadError("no more threads are allowed here (limit of the user or the system)") from error


def end_hub_threads() -> None:
    """Ends the threads in which gevent looks names up: they would take signals (see ``start_thread``)."""
    gevent.get_hub().threadpool.kill()
