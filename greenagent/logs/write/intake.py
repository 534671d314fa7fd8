"""The way from the hub into the writer's thread: with message ids, in order, and held back while it is behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from greenagent.logs.console import Console
from greenagent.logs.lines import Lines
from greenagent.logs.write.message_ids import MessageIds
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.native import NativeWorker
from greenagent.values.errors import GreenagentError

CAPACITY: Final = 2 << 20
"""Bytes that may wait for the writer before the pipes are held back."""
ROOM_AT_ONCE: Final = 1 << 20
"""Bytes beyond that for what the agent itself has to say."""

Task = Callable[[], Any]


class Intake:
    """Lines and tasks for the writer's thread, which handles them in the order in which they were handed in.

    ``post`` and ``warn`` may be called from any thread, everything else on the hub's.
    """

    def __init__(self, message_id_file: Path, agent_log: AgentLog, console: Console | None) -> None:
        self.console = console
        self.ids = MessageIds(message_id_file, self.soon, self.post, agent_log.warning)
        self.dropped = 0
        """Lines of any job that were counted instead of stored or sent."""
        self._agent_log = agent_log
        self._worker: NativeWorker[Lines | Task] | None = None
        self._is_closing = False

    def start(self, handle: Callable[[Sequence[Lines | Task]], None]) -> None:
        """Starts the thread in which ``handle`` gets all that waits, batch by batch. Raises NoThreadError."""
        self._worker = NativeWorker("log writer", handle, capacity=CAPACITY, on_failure=self._failed)

    def stop(self, last: Task | None = None) -> None:
        """Handles what waits, then ``last``, and ends the thread."""
        self._is_closing = True
        if self._worker is None:
            return
        try:
            if last is not None and self._worker.is_alive:
                self._worker.call(last)
        except GreenagentError:
            pass  # it died just now, and said so
        self._worker.stop()
        self._worker = None

    @property
    def thread(self) -> NativeWorker[Lines | Task] | None:
        """For the watchdog; None while it is not started."""
        return self._worker

    @property
    def is_alive(self) -> bool:
        return self._worker is not None and self._worker.is_alive

    @property
    def weight(self) -> int:
        """Bytes that wait for the writer."""
        return self._worker.weight if self._worker is not None else 0

    @property
    def takes_at_once(self) -> bool:
        """True when a line can be handed over that cannot wait; a queue that jobs have filled has room for it."""
        return self.is_alive and not self._is_closing and self.weight < CAPACITY + ROOM_AT_ONCE and self.ids.left > 0

    def wait_for_room(self, count: int) -> None:
        """Blocks until the writer keeps up and ``count`` ids can be taken, both at once.

        Raises GreenagentError when the writer has ended.
        """
        while True:
            worker = self._running
            worker.wait_room()
            if worker.failure is not None:
                raise GreenagentError(f"the log writer has stopped: {worker.failure}")
            if self._is_closing:
                raise GreenagentError("the log store is closed")
            if self.ids.left >= count:
                return
            self.ids.wait_for(count)

    def put(self, lines: Lines, weight: int) -> None:
        """Hands lines over; call after ``wait_for_room`` without yielding."""
        self._running.put_now(lines, weight)

    def call(self, task: Task) -> Any:
        """Runs a task after all that waits; returns or raises what it does, GreenagentError if there is no thread."""
        return self._running.call(task)

    def soon(self, task: Task) -> None:
        """Runs a task of which nobody awaits the answer; it must not raise."""
        self._running.put_now(task)

    def post(self, function: Callable[[], None]) -> None:
        """Runs a function on the hub."""
        self._running.post(function)

    def warn(self, text: str) -> None:
        """Says something."""
        self.post(lambda: self._agent_log.warning(text))

    @property
    def _running(self) -> NativeWorker[Lines | Task]:
        if self._worker is None:
            raise GreenagentError("the log store is not running")
        return self._worker

    def _failed(self, error: BaseException) -> None:
        self.ids.end()
        self._agent_log.error(f"internal error in the log writer: {type(error).__name__}: {error}; please report this")
