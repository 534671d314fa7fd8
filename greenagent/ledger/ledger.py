"""The ledger as the agent uses it: accepting, running, reporting, delivering (design, section 3)."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import gevent
from gevent.event import Event

from greenagent.ledger import statements
from greenagent.ledger.models import SCHEMA
from greenagent.ledger.overflow import FIRST_ROW, Overflow, Unwritten
from greenagent.ledger.records import (
    FROM_CONTROLLER,
    RUNNING,
    WAITING,
    JobRecord,
)
from greenagent.runtime.clock import steady_time
from greenagent.runtime.database import NativeDatabase
from greenagent.runtime.files import FileLock
from greenagent.runtime.voice import Voice
from greenagent.values.command import Command, same_json
from greenagent.values.errors import GreenagentError
from greenagent.values.result import PendingResult, Result

MAX_RESULTS: Final = 10_000
MAX_RESULT_BYTES: Final = 256 * 1024 * 1024
MAX_ASIDE_BYTES: Final = 64 * 1024 * 1024

Answer = TypeVar("Answer")


class Ledger:
    """One small sqlite file that knows every accepted job and every result not yet delivered.

    While its disk is full, jobs still run and their results wait in memory (bounded), to be
    written when space returns: said once.
    """

    def __init__(self, path: Path, voice: Voice, *, result_memory: float, extra_schema: Iterable[str] = ()) -> None:
        """``result_memory``: seconds for which an ended job's results are kept."""
        self.path = path
        self.instance = ""
        self.result_memory = result_memory
        self._voice = voice
        self._trouble = voice.topic()
        self._lock = FileLock(path.with_name(path.name + ".lock"), f"the ledger {path}")
        self._schema = (*SCHEMA, *extra_schema)
        self.database = NativeDatabase(path, self._schema)
        self._overflow = Overflow(MAX_RESULT_BYTES)
        self._arrivals: dict[str, Event] = {}
        self._next_memory_job = -1

    def start(self) -> None:
        """Takes the lock and opens the file; a damaged one is set aside, said once. Raises GreenagentError."""
        try:
            self._lock.acquire()
        except OSError as error:
            raise GreenagentError(f"main.ledger_file: cannot use {self.path}: {error.strerror}") from error
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise

    def _open(self) -> None:
        try:
            self.database.start()
            self.instance = self.database.run(statements.instance)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and "malformed" not in str(error):
                raise GreenagentError(f"main.ledger_file: cannot open {self.path}: {error}") from error
            self.database.stop()
            aside = self.path.with_name(f"{self.path.name}.damaged-{int(time.time())}")
            for suffix in ("", "-wal", "-shm"):
                part = self.path.with_name(self.path.name + suffix)
                if part.exists():
                    part.rename(aside.with_name(aside.name + suffix))
            self._voice.error(f"the ledger {self.path} is damaged ({error}): set aside as {aside.name}, starting anew")
            self.database = NativeDatabase(self.path, self._schema)
            self.database.start()
            self.instance = self.database.run(statements.instance)
        except OSError as error:
            raise GreenagentError(f"main.ledger_file: cannot open {self.path}: {error.strerror}") from error

    def stop(self) -> None:
        """Commits what waits, closes the file and gives the lock back."""
        self._write_overflow()
        self.database.stop()
        self._lock.release()

    @property
    def locks(self) -> tuple[FileLock, ...]:
        """What keeps a second agent off, for handing over."""
        return (self._lock,)

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
        text = json.dumps(command.received, ensure_ascii=False, separators=(",", ":"))
        now = steady_time()
        stamp = now if accepted is None else accepted
        state = WAITING if waiting and not begins else RUNNING
        starttime = int(now * 1000) if begins else 0
        since = now - self.result_memory

        def write(connection: sqlite3.Connection) -> int:
            if kind == FROM_CONTROLLER and _send_again(connection, command, controller, since):
                return 0
            return statements.accept(connection, command.id, controller, kind, text, stamp, state, starttime)

        row = self._attempt(write)
        if row == 0:
            self._arrived(controller)
            return None
        if row is not None:
            return row
        self._next_memory_job -= 1
        return self._next_memory_job

    def running(self, row: int, run: int, starttime: int) -> None:
        """A run is about to start: committed when this returns."""
        self._attempt(lambda connection: statements.running(connection, row, run, starttime))

    def not_begun(self, row: int) -> None:
        """The first run that was written with the acceptance does not begin: the job waits after all."""
        self._attempt(lambda connection: statements.not_begun(connection, row))

    def process(self, row: int, pid: int | None, start_ticks: int | None) -> None:
        """Notes the process of the current run, soon: after a crash before that it is found by its tag."""
        self.database.submit_later(lambda connection: statements.process(connection, row, pid, start_ticks))

    def end(self, row: int) -> None:
        """The job is over and there is nothing (more) to report."""
        self._attempt(lambda connection: statements.end(connection, row, steady_time()))

    def report(self, row: int, controller: str, result: Result, *, ends: bool) -> None:
        """Puts a result into the outbox; with ``ends`` the job is over. Committed when this returns."""
        body = json.dumps(result.to_wire(), ensure_ascii=False, separators=(",", ":"))
        unwritten = Unwritten(row, controller, result.id, result.state, body, ends)
        if self._attempt(lambda connection: _store(connection, unwritten)) is None:
            self._overflow.add(unwritten)
        self._arrived(controller)

    def unfinished(self) -> list[JobRecord]:
        """Jobs that were waiting or running when the ledger was last written, in order of acceptance."""
        return self.database.run(statements.unfinished)

    def has_ended(self, job_id: str, accepted: float) -> bool:
        """Whether the job of this id and accept stamp is known to have ended."""
        return self.database.run(lambda connection: statements.ended_run(connection, job_id, accepted))

    def answer_again(self, command: Command, controller: str) -> bool:
        """Puts the results of an ended job back into the outbox if this is its very command (see ``accept``)."""
        since = steady_time() - self.result_memory
        known = bool(self._attempt(lambda connection: _send_again(connection, command, controller, since)))
        if known:
            self._arrived(controller)
        return known

    def _arrived(self, controller: str | None) -> None:
        if controller in self._arrivals:
            self._arrivals[controller].set()

    # -- the outbox (uplink's Outbox)

    def pending(self, controller: str, limit: int, after: int = 0) -> list[PendingResult]:
        """The oldest bodies a controller does not have, behind row ``after``: at most ``limit`` and about 4 MiB."""
        stored = self._attempt(lambda connection: statements.pending(connection, controller, limit, after)) or []
        return stored or self._overflow.pending(controller, limit, after)

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

        A crash before that delivers them once more. Should the disk not take it, they are pending again.
        """
        stored = []
        for row in rows:
            if row >= FIRST_ROW:
                self._overflow.remove(row)
            else:
                stored.append(row)
        if stored:
            now = steady_time()
            self.database.submit_later(lambda connection: statements.delivered(connection, stored, now))

    def set_aside(self, controller: str, row: int, status: int, answer: str) -> None:
        """The controller refuses a pending body for good: it is kept for people to look at."""
        now = steady_time()
        if row >= FIRST_ROW:
            unwritten = self._overflow.remove(row)
            if unwritten is not None:
                self.keep_aside(controller, "result", unwritten.body.encode(), status, answer)
            return
        refuse = partial(
            statements.refuse, row=row, status=status, answer_text=answer, now=now, max_bytes=MAX_ASIDE_BYTES
        )
        self._say_dropped(self._attempt(refuse))

    def keep_aside(self, controller: str, path: str, body: bytes, status: int, answer: str) -> None:
        """Keeps any record a controller refuses (log lines, statistics)."""
        now = steady_time()
        text = body.decode("utf-8", "replace")
        self._say_dropped(
            self._attempt(
                lambda connection: statements.set_aside(
                    connection, controller, path, text, status, answer, now, MAX_ASIDE_BYTES
                )
            )
        )

    def waiting_results(self) -> dict[str, int]:
        """How many bodies wait, by controller."""
        return self._attempt(statements.waiting_results) or {}

    @property
    def is_writable(self) -> bool:
        """False since the disk refused a transaction, until one goes through (``keep_up`` tries)."""
        return not self._trouble.is_open

    def _say_dropped(self, dropped: int | None) -> None:
        if dropped:
            self._voice.error(f"{dropped} set-aside records dropped: more than {MAX_ASIDE_BYTES} bytes were set aside")

    # -- upkeep

    def keep_up(self, known_controllers: Callable[[], Iterable[str]], pause: float = 10.0) -> None:
        """A service: forgets what is past its memory or the caps, writes what waits in memory, retries what is due."""
        while True:
            gevent.sleep(pause if self.is_writable and not len(self._overflow) else min(pause, 2))
            self._write_overflow()
            if not self.is_writable:
                self._attempt(statements.write_nothing)
            before = steady_time() - self.result_memory
            purge = partial(statements.purge, before=before, max_results=MAX_RESULTS, max_bytes=MAX_RESULT_BYTES)
            while (self._attempt(purge) or 0) >= 1000:
                gevent.sleep(0.05)
            for controller in self._attempt(partial(statements.retry_due, now=steady_time())) or []:
                self.wake(controller)
            known = list(known_controllers())
            dropped = self._attempt(partial(statements.expire_removed, known=known, before=before))
            if dropped:
                self._voice.error(f"{dropped} results dropped: their controller is no longer configured")

    def _write_overflow(self) -> None:
        while (first := self._overflow.oldest()) is not None:
            row, unwritten = first
            if self._attempt(partial(_store, unwritten=unwritten)) is None:
                return
            self._overflow.remove(row)
        if self._overflow.dropped:
            self._voice.error(f"{self._overflow.dropped} results lost: the ledger's disk was full for too long")
            self._overflow.dropped = 0

    def _attempt(self, function: Callable[[sqlite3.Connection], Answer]) -> Answer | None:
        """Runs a transaction; None when the disk does not take it, which is said once."""
        wrote = False

        def run(connection: sqlite3.Connection) -> Answer:
            nonlocal wrote
            before = connection.total_changes
            answer = function(connection)
            wrote = connection.total_changes != before
            return answer

        try:
            answer = self.database.run(run)
        except sqlite3.Error as error:
            self._trouble.warning(
                f"the ledger {self.path} cannot be written ({error}): jobs go on, results wait in memory"
            )
            return None
        if wrote:  # reading works on a full disk too: it says nothing about writing
            self._trouble.resolved(f"the ledger {self.path} can be written again")
        return answer


def _store(connection: sqlite3.Connection, unwritten: Unwritten) -> int:
    now = steady_time()
    row = statements.report(
        connection,
        unwritten.job,
        unwritten.id,
        unwritten.controller,
        unwritten.state,
        unwritten.body,
        now,
    )
    if unwritten.job > 0:
        statements.forget_earlier(connection, unwritten.job, row)
    if unwritten.ends:
        statements.end(connection, unwritten.job, now)
    return row


def _send_again(connection: sqlite3.Connection, command: Command, controller: str | None, since: float) -> bool:
    """Whether this is the command of an ended job, delivered once more: its results are sent again."""
    stored = statements.answer(connection, command.id, since)
    if stored is None or stored.controller != controller:
        return False
    if not same_json(json.loads(stored.command), command.received):
        return False
    statements.send_again(connection, stored.results, steady_time())
    return True
