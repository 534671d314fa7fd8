"""The ledger as the agent uses it: accepting, running, reporting, delivering (design, section 3)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, TypeVar

import gevent
from gevent.event import AsyncResult, Event

from greenagent.runtime.clock import monotonic_epoch
from greenagent.spool import statements
from greenagent.spool.journal import FIRST_ROW
from greenagent.spool.records import FROM_CONTROLLER, RUNNING, WAITING, Accepted, JobRecord, Unwritten
from greenagent.spool.spool_file import MAX_ASIDE_BYTES, MAX_RESULT_BYTES, SpoolFile
from greenagent.spool.transactions import command_text, results_again, send_again, store
from greenagent.values.command import Command, same_json
from greenagent.values.result import PendingResult, Result

MAX_RESULTS: Final = 10_000
RETRY: Final = 2.0
"""Seconds between tries to write what waits in memory."""

Answer = TypeVar("Answer")


class Spool(SpoolFile):
    """One small sqlite file that knows every accepted job and every result not yet delivered.

    While its disk is full, or another program holds it locked, jobs still run, and everything that
    is to be written waits in memory (bounded), in order, until it can be: said once.
    """

    # -- the life of a job

    def accept(
        self,
        command: Command,
        controller: str | None,
        kind: str,
        *,
        waiting: bool,
        accepted: float | None = None,
        begins: bool = False,
    ) -> int | None:
        """Writes a job down before anything is done about it; returns its row once committed.

        ``begins``: its first run is to follow at once, so ``running`` need not be called for it; if
        it does not follow after all, ``not_begun`` must be.

        None when a controller's command was delivered once more after its job's end, within
        ``result_memory``: its results are put back into the outbox, and it is not to be run.
        """
        text = command_text(command)
        now = monotonic_epoch()
        stamp = now if accepted is None else accepted
        state = WAITING if waiting and not begins else RUNNING
        starttime = int(now * 1000) if begins else 0
        since = now - self.result_memory

        def write(connection: sqlite3.Connection) -> int:
            if kind == FROM_CONTROLLER and send_again(connection, command, controller, since):
                return 0
            return statements.accept(connection, command.id, controller, kind, text, stamp, state, starttime)

        row = self._now(write)
        if row is None:
            if kind == FROM_CONTROLLER and controller is not None and self._again_in_memory(command, controller):
                return None
            row = self._next_memory_job = self._next_memory_job - 1
            self._journal.accept(Accepted(row, command.id, controller, kind, text, stamp, state, starttime))
        elif row == 0:
            self._arrived(controller)
            return None
        return row

    def running(self, row: int, run: int, starttime: int) -> None:
        """A run is about to start: committed when this returns."""
        self._change(row, "running", lambda connection, row: statements.running(connection, row, run, starttime))

    def not_begun(self, row: int) -> None:
        """The first run that was written with the acceptance does not begin: the job waits after all."""
        self._change(row, "not begun", statements.not_begun)

    def process(self, row: int, pid: int | None, start_ticks: int | None) -> None:
        """Notes the process of the current run, soon: after a crash before that it is found by its tag."""
        row = self.row_of(row)
        if len(self._journal):
            note = partial(statements.process, pid=pid, start_ticks=start_ticks)
            self._journal.change((row, "process"), row, note)
        else:
            self.database.submit_later(lambda connection: statements.process(connection, row, pid, start_ticks))

    def end(self, row: int) -> None:
        """The job is over and there is nothing (more) to report."""
        self._change(row, "end", partial(statements.end, now=monotonic_epoch()))

    def report(self, row: int, controller: str, result: Result, *, ends: bool) -> None:
        """Puts a result into the outbox; with ``ends`` the job is over. Committed when this returns."""
        body = json.dumps(result.to_wire(), ensure_ascii=False, separators=(",", ":"))
        unwritten = Unwritten(self.row_of(row), controller, result.id, result.state, body, ends)
        stored = self._now(lambda connection: store(connection, unwritten))
        if stored is None:
            self._journal.report(unwritten)
        self._arrived(controller)

    def unfinished(self) -> list[JobRecord]:
        """Jobs that were waiting or running when the ledger was last written, in order of acceptance."""
        return self.database.run(statements.unfinished)

    def has_ended(self, job_id: str, accepted: float) -> bool:
        """Whether the job of this id and accept stamp is known to have ended."""
        return self.database.run(lambda connection: statements.ended_run(connection, job_id, accepted))

    def answer_again(self, command: Command, controller: str) -> bool:
        """Puts the results of an ended job back into the outbox if this is its very command (see ``accept``)."""
        since = monotonic_epoch() - self.result_memory
        known = self._now(lambda connection: send_again(connection, command, controller, since))
        if known is None:
            return self._again_in_memory(command, controller)
        if known:
            self._arrived(controller)
        return known

    def _again_in_memory(self, command: Command, controller: str) -> bool:
        """As ``answer_again`` while nothing can be written: the file is read, and what is newer is here."""
        found = self._ended_in_memory(command, controller)
        if found is None:
            since = monotonic_epoch() - self.result_memory
            stored = self._attempt(partial(results_again, command=command, controller=controller, since=since))
            if stored is None:
                return False
            found = [result for row, waits, result in stored if not waits or self._journal.has(("settled", row))]
        for result in [one for one in found if not self._journal.is_pending(one)]:
            self._journal.report(result)
        self._arrived(controller)
        return True

    def _ended_in_memory(self, command: Command, controller: str) -> list[Unwritten] | None:
        """The last result of this very command, if its job ended since nothing can be written; else None."""
        for ended in self._journal.ended(command.id):
            text = self._journal.command(ended.job) or self._attempt(
                partial(statements.command, row=self.row_of(ended.job))
            )
            is_same = text is not None and same_json(json.loads(text), command.received)
            if is_same and ended.controller == controller:
                return [ended._replace(ends=False, settled=0.0)]
        return None

    def _arrived(self, controller: str | None) -> None:
        if controller in self._arrivals:
            self._arrivals[controller].set()

    # -- the outbox (uplink's Outbox)

    def pending(self, controller: str, limit: int, after: int = 0) -> list[PendingResult]:
        """The oldest bodies a controller does not have, behind row ``after``: at most ``limit`` and about 4 MiB."""
        found = self._stored(controller, limit, after)
        while found and len(self._journal):
            due = [one for one in found if not self._journal.has(("settled", one.row))]
            if due:
                return due
            found = self._stored(controller, limit, found[-1].row)
        return found or self._journal.pending(controller, limit, after)

    def _stored(self, controller: str, limit: int, after: int) -> list[PendingResult]:
        return self._attempt(lambda connection: statements.pending(connection, controller, limit, after)) or []

    def wait(self, controller: str, timeout: float | None = None) -> bool:
        """Waits for a new result for the controller; True when there may be one."""
        arrival = self._arrivals.setdefault(controller, Event())
        came = bool(arrival.wait(timeout))
        arrival.clear()
        return came

    def wake(self, controller: str) -> None:
        """Ends a ``wait`` early."""
        self._arrivals.setdefault(controller, Event()).set()

    def delivered(self, controller: str, rows: Iterable[int]) -> None:
        """The controller has accepted these: not pending from now on, stored soon.

        A crash before that delivers them once more.
        """
        now = monotonic_epoch()
        stored = []
        for row in rows:
            written = self._journal.settle(row, now) if row >= FIRST_ROW else row
            if written is not None:
                stored.append(written)
        if not stored:
            return
        if len(self._journal):
            self._keep_delivered(stored, now)
            return

        def conclude(outcome: AsyncResult) -> None:
            if not outcome.successful():
                self._keep_delivered(stored, now)

        self.database.submit_later(lambda connection: statements.delivered(connection, stored, now)).rawlink(conclude)

    def set_aside(self, controller: str, row: int, status: int, answer: str) -> None:
        """The controller refuses a pending body for good: it is kept for people to look at."""
        now = monotonic_epoch()
        unwritten = self._journal.result(row)
        if row >= FIRST_ROW:
            row = self._journal.settle(row, now) or 0
        if unwritten is not None:
            self.keep_aside(controller, "result", unwritten.body.encode(), status, answer)
        if not row:
            return
        refuse = partial(
            statements.refuse, row=row, status=status, answer_text=answer, now=now, max_bytes=MAX_ASIDE_BYTES
        )
        dropped = self._now(refuse)
        if dropped is None:
            self._journal.change(("settled", row), 0, lambda connection, _: refuse(connection))
        self._say_dropped(dropped)

    def keep_aside(self, controller: str, path: str, body: bytes, status: int, answer: str) -> None:
        """Keeps any record a controller refuses (log lines, statistics)."""
        now = monotonic_epoch()
        text = body.decode("utf-8", "replace")

        def keep(connection: sqlite3.Connection, _: int = 0) -> int:
            return statements.set_aside(connection, controller, path, text, status, answer, now, MAX_ASIDE_BYTES)

        dropped = self._now(keep)
        if dropped is None:
            dropped = self._journal.aside(keep, len(text))
        self._say_dropped(dropped)

    def waiting_results(self) -> dict[str, int]:
        """How many bodies wait, by controller."""
        found = dict(self._attempt(statements.waiting_results) or {})
        for controller, count in self._journal.waiting().items():
            found[controller] = found.get(controller, 0) + count
        return found

    def _say_dropped(self, dropped: int | None) -> None:
        if dropped:
            self._agent_log.error(
                f"{dropped} set-aside records dropped: more than {MAX_ASIDE_BYTES} bytes were set aside"
            )

    # -- upkeep

    def keep_up(self, known_controllers: Callable[[], Iterable[str]], pause: float = 10.0) -> None:
        """A service: forgets what is past its memory or the caps, writes what waits in memory, retries what is due."""
        while True:
            self._in_trouble.clear()
            if self.is_writable:
                self._in_trouble.wait(pause)
            else:
                gevent.sleep(min(pause, RETRY))
            if self._write_journal() and not self.is_writable:
                self._attempt(statements.write_nothing)
            if not self.is_writable:
                continue
            before = monotonic_epoch() - self.result_memory
            purge = partial(statements.purge, before=before, max_results=MAX_RESULTS, max_bytes=MAX_RESULT_BYTES)
            while (self._attempt(purge) or 0) >= 1000:
                gevent.sleep(0.05)
            for controller in self._attempt(partial(statements.retry_due, now=monotonic_epoch())) or []:
                self.wake(controller)
            known = list(known_controllers())
            dropped = self._attempt(partial(statements.expire_removed, known=known, before=before))
            if dropped:
                self._agent_log.error(f"{dropped} results dropped: their controller is no longer configured")
