"""Notices what is stuck or dead: the hub from a native thread, everything else from the hub.

The thread uses the system's own primitives only and touches no lock, log or queue of ours: it has to
work when nothing else does. What it cannot see is code that holds the interpreter lock for ever.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import gevent

from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.greenlets import RESTARTING, Service, Supervisor, describe_stack, write_line_now
from greenagent.runtime.native import NativeWorker, native_sleep, start_thread, thread_ident

STUCK_EXIT = 70
"""Exit code (EX_SOFTWARE) of an agent whose hub or writer did not come back."""


class Thresholds(NamedTuple):
    """When something counts as stuck, and when that is the end. All in seconds."""

    hub_stall: float = 30.0
    """The event loop has stood still for this long: logged with the stack that holds it."""
    hub_give_up: float = 300.0
    """It has stood still for this long: the agent ends itself."""
    worker_stall: float = 60.0
    """A native thread has worked on one batch for this long: logged."""
    worker_give_up: float = 600.0
    check_every: float = 5.0
    """How often services and threads are looked at."""
    stop_limit: float = 120.0
    """An agent that gives up and has not ended after this long is ended."""


class HubWatchdog:
    """A native thread that watches a number which the hub makes rise ten times a second."""

    def __init__(
        self,
        beats: Callable[[], int],
        thresholds: Thresholds | None = None,
        *,
        descriptor: int = 2,
        give_up: Callable[[int], Any] = os._exit,
    ) -> None:
        """``beats`` reads that number (``EventLoopLag.beats``); to be made on the hub's thread."""
        self._beats = beats
        self._thresholds = thresholds or Thresholds()
        self._descriptor = descriptor
        self._give_up = give_up
        self._hub_thread: int = thread_ident()
        self._stopping = False
        self._left: float | None = None
        self._period = min(1.0, self._thresholds.hub_stall / 5)

    def start(self) -> None:
        """Watches from now on; call it once the hub's ticker runs."""
        start_thread(self._run)

    def stop(self) -> None:
        """Ends the thread within its period; it is not waited for."""
        self._stopping = True

    def end_within(self, seconds: float) -> None:
        """The agent gives up: it is ended by force unless it has ended by itself within ``seconds``."""
        self._left = seconds

    def _run(self) -> None:
        seen = self._beats()
        stood = 0.0
        say_at = self._thresholds.hub_stall
        before = time.monotonic()
        while not self._stopping:
            native_sleep(self._period)
            now = time.monotonic()
            # Only time this thread was awake counts: the whole process may have been stopped.
            passed = min(now - before, 2 * self._period)
            before = now
            if self._left is not None:
                self._left -= passed
                if self._left <= 0:
                    self._end("the agent gives up but does not end")
            beats = self._beats()
            if beats != seen:
                if stood >= self._thresholds.hub_stall:
                    self._write(f"the hub goes on after {stood:.1f} s")
                seen, stood, say_at = beats, 0.0, self._thresholds.hub_stall
                continue
            stood += passed
            if stood >= self._thresholds.hub_give_up:
                self._end(f"the hub has been stuck for {stood:.1f} s")
            elif stood >= say_at:
                say_at = 2 * stood
                self._write(f"the hub has been stuck for {stood:.1f} s in: {self._stack()}")

    def _end(self, reason: str) -> None:
        self._write(f"{reason}: ending with code {STUCK_EXIT}, stuck in: {self._stack()}")
        self._give_up(STUCK_EXIT)

    def _stack(self) -> str:
        return describe_stack(sys._current_frames().get(self._hub_thread))

    def _write(self, text: str) -> None:
        write_line_now(f"error: watchdog: {text}", self._descriptor)


class ServiceWatchdog:
    """Service on the hub: looks after the other services and the native threads."""

    def __init__(
        self,
        supervisor: Supervisor,
        workers: Callable[[], Iterable[NativeWorker[Any]]],
        agent_log: AgentLog,
        on_fatal: Callable[[str], None],
        thresholds: Thresholds | None = None,
        *,
        limit: int = 5,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """``limit``: tries in vain to free one stuck service until it is fatal. ``then`` runs with every check."""
        self._supervisor = supervisor
        self._workers = workers
        self._agent_log = agent_log
        self._on_fatal = on_fatal
        self._thresholds = thresholds or Thresholds()
        self._limit = limit
        self._then = then
        self._tries: dict[Service, int] = {}
        self._reported: dict[str, float] = {}
        self._is_fatal = False

    def run(self) -> None:
        """Never returns."""
        every = self._thresholds.check_every
        while True:
            began = time.monotonic()
            gevent.sleep(every)
            late = time.monotonic() - began - every
            if late > every:
                # The hub or the whole process stood still: that is not the fault of whoever waited.
                for service in self._supervisor.services.values():
                    service.heartbeat.postpone(late)
                continue
            self.check()

    def check(self) -> None:
        """One look at everything."""
        for service in list(self._supervisor.services.values()):
            self._check_service(service)
        for worker in self._workers():
            self._check_worker(worker)
        self._then()

    def _check_service(self, service: Service) -> None:
        if service.greenlet.dead:
            if not service.has_finished and not service.is_restarting:
                self._agent_log.error(f"watchdog: {service.name} was found dead: it is started again")
                self._supervisor.revive(service)
            return
        overdue = service.heartbeat.overdue
        if not overdue:
            if service.heartbeat.activity != RESTARTING:
                self._tries.pop(service, None)
            return
        tries = self._tries[service] = self._tries.get(service, 0) + 1
        stack = describe_stack(service.greenlet.gr_frame)
        self._agent_log.error(
            f"watchdog: {service.name} is stuck ({service.heartbeat.activity}, {overdue:.1f} s over its time) in: "
            f"{stack}; it is started again"
        )
        if tries >= self._limit:
            self._fatal(f"{service.name} was stuck {tries} times and could not be freed")
        else:
            self._supervisor.restart_stuck(service, max(1.0, 2 * self._thresholds.check_every))

    def _check_worker(self, worker: NativeWorker[Any]) -> None:
        if not worker.is_alive:
            self._fatal(f"the thread '{worker.name}' has died: {worker.failure}")
            return
        since = worker.busy_since
        busy = 0.0 if since is None else time.monotonic() - since
        if busy < self._thresholds.worker_stall:
            if self._reported.pop(worker.name, None) is not None:
                self._agent_log.warning(f"watchdog: the thread '{worker.name}' goes on")
            return
        if worker.name not in self._reported:
            self._reported[worker.name] = busy
            stack = describe_stack(sys._current_frames().get(worker.ident))
            self._agent_log.error(f"watchdog: the thread '{worker.name}' has been stuck for {busy:.1f} s in: {stack}")
        if busy >= self._thresholds.worker_give_up:
            self._fatal(f"the thread '{worker.name}' has been stuck for {busy:.1f} s")

    def _fatal(self, reason: str) -> None:
        if not self._is_fatal:
            self._is_fatal = True
            self._on_fatal(reason)
