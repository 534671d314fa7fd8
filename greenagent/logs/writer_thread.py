"""The writer in its native thread, as the hub sees it: work is handed in, answers come back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from greenagent.logs.lines import Lines
from greenagent.logs.writer import Task, Writer
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.native import NativeWorker
from greenagent.values.errors import GreenagentError

CAPACITY: Final = 2 << 20
"""Bytes that may wait for the writer before the pipes are held back."""
ROOM_AT_ONCE: Final = 1 << 20
"""Bytes beyond that for what the agent itself has to say."""


class WriterThread:
    """Everything but ``warn`` is for the hub's thread; tasks run in the order in which they were handed in."""

    def __init__(self, agent_log: AgentLog, uploads: Path) -> None:
        """``uploads``: the file of the upload cursors, for what is said about them."""
        self._agent_log = agent_log
        self._uploads = uploads
        self._worker: NativeWorker[Lines | Task] | None = None
        self._writer: Writer
        self._closing = False
        self.on_end: Callable[[], None] = lambda: None
        """Called when the thread dies, for those who wait for something else than ``call``."""

    def start(self, make: Callable[[Callable[[Callable[[], None]], None]], Writer]) -> None:
        """``make(post)`` makes the writer; it may be told to ``post`` what the hub shall do. Raises NoThreadError."""
        worker: NativeWorker[Lines | Task] = NativeWorker(
            "log writer", self._handle, capacity=CAPACITY, on_failure=self._failed
        )
        self._worker = worker
        self._writer = make(worker.post)

    def close(self) -> None:
        """Handles what waits, closes the writer's files and ends the thread."""
        if self.is_alive:
            self._closing = True
            try:
                self.call(lambda writer: writer.close())
            except GreenagentError:
                pass  # it died just now, and said so
        self.abandon()

    def abandon(self) -> None:
        """Ends the thread, whatever is open."""
        self._closing = True
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    @property
    def thread(self) -> NativeWorker[Any] | None:
        """For the watchdog; None while it is not started."""
        return self._worker

    @property
    def is_started(self) -> bool:
        return self._worker is not None

    @property
    def is_alive(self) -> bool:
        return self._worker is not None and self._worker.is_alive

    @property
    def weight(self) -> int:
        """Bytes that wait for the writer."""
        return self._worker.weight if self._worker is not None else 0

    @property
    def has_room(self) -> bool:
        """False while the pipes are held back."""
        return self._running.has_room

    @property
    def takes_at_once(self) -> bool:
        """True when something can be handed over that cannot wait; a queue that jobs have filled has room for it."""
        return self.is_alive and not self._closing and self.weight < CAPACITY + ROOM_AT_ONCE

    def wait_room(self) -> None:
        """Blocks until the writer keeps up. Raises GreenagentError when it has ended."""
        worker = self._running
        worker.wait_room()
        if worker.failure is not None:
            raise GreenagentError(f"the log writer has stopped: {worker.failure}")
        if self._closing:
            raise GreenagentError("the log store is closed")

    def put(self, lines: Lines, weight: int) -> None:
        """Hands lines over without ever waiting."""
        self._running.put_now(lines, weight)

    def call(self, task: Callable[[Writer], Any]) -> Any:
        """Runs ``task(writer)`` in the thread, after all that waits; returns or raises what it does.

        Raises GreenagentError when the thread has ended or ends meanwhile.
        """
        return self._running.call(task)

    def call_later(self, task: Task) -> None:
        """A task of the upload cursors of which nobody awaits the answer; its failure is said."""

        def guarded(writer: Writer) -> None:
            try:
                task(writer)
            except (sqlite3.Error, OSError) as error:
                self.warn(f"upload cursors in {self._uploads} cannot be written: {error}")

        self._running.put_now(guarded)

    def soon(self, function: Callable[[], None]) -> None:
        """Runs a function that has nothing to do with the writer in its thread."""
        self._running.put_now(lambda writer: function())

    def post(self, function: Callable[[], None]) -> None:
        """Runs a function on the hub; callable from any thread."""
        self._running.post(function)

    def warn(self, text: str) -> None:
        """Says something; callable from any thread."""
        self._running.post(lambda: self._agent_log.warning(text))

    @property
    def _running(self) -> NativeWorker[Lines | Task]:
        if self._worker is None:
            raise GreenagentError("the log store is not running")
        return self._worker

    def _handle(self, batch: list[Lines | Task]) -> None:
        self._writer.handle(batch)

    def _failed(self, error: BaseException) -> None:
        self.on_end()
        self._agent_log.error(f"internal error in the log writer: {type(error).__name__}: {error}; please report this")
