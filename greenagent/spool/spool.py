"""The spool as the agent uses it: accepting, running, reporting, delivering (design, section 3)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final, TypeVar

import gevent
from gevent.event import Event

from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.clock import monotonic_epoch
from greenagent.runtime.files import refuse_link, set_aside
from greenagent.runtime.greenlets import give_way
from greenagent.runtime.locks import FileLock, lock_of
from greenagent.spool import identity, statements
from greenagent.spool.ages import Ages
from greenagent.spool.cursors import CursorTable
from greenagent.spool.identity import Acknowledging, Claim, Former, Owed
from greenagent.spool.overlay import RETRY, SpoolDatabase
from greenagent.spool.owed import Loss, OwedToRemoved
from greenagent.spool.schema import FROM_CONTROLLER, RESULTS, RUNNING, STATISTICS, WAITING, JobRecord, NewJob, Waiting
from greenagent.values.command import Command
from greenagent.values.errors import GreenagentError
from greenagent.values.json_shape import SHORT
from greenagent.values.result import PendingBody, Result

T = TypeVar("T")

MAX_RESULTS: Final = 10_000
MAX_RESULT_BYTES: Final = 256 * 1024 * 1024


class Spool:
    """One small sqlite file that knows every accepted job and all that a controller does not have yet.

    While its disk is full, or another program holds it locked, everything goes on in memory (bounded)
    and is written when that is possible again: both are said once. See ``overlay``.
    """

    def __init__(self, path: Path, agent_log: AgentLog, *, result_memory: float, address: str = "") -> None:
        """``result_memory``: seconds for which an ended job's results are kept. ``address``: the agent's, gid/nid."""
        self.path = path
        self.claim = Claim("")
        self.formers: list[Former] = []
        """Addresses under which log lines were written, oldest first."""
        self.address = address
        self.owed_to_removed = OwedToRemoved(agent_log, result_memory)
        self.loss = Loss(path)
        self.result_memory = result_memory
        self._ages = Ages()
        self._agent_log = agent_log
        self._trouble = agent_log.on_change()
        self._lock = FileLock(lock_of(path), f"the ledger {path}")
        self.database = SpoolDatabase(path, self._problem_changed, self._lock.record)
        self.acknowledging = Acknowledging(self.database)
        self._rows = count(1)
        """Numbers for new rows, given here so that a row in memory keeps its number in the file."""
        self._in_trouble = Event()
        self._arrivals: dict[tuple[str, str], Event] = {}
        self._small: set[str] = set()
        """Controllers for which no long result waits."""

    # -- beginning and end

    def start(self) -> None:
        """Takes the lock and opens the file; a damaged one is set aside, said once. Raises GreenagentError."""
        try:
            refuse_link(self.path, "main.ledger_file: the ledger")
            self._lock.acquire()
            self._open()
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError):
                raise GreenagentError(f"main.ledger_file: cannot use {self.path}: {error.strerror}") from error
            raise

    def _open(self) -> None:
        try:
            self.database.start()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and "malformed" not in str(error):
                raise GreenagentError(f"main.ledger_file: cannot open {self.path}: {error}") from error
            aside = set_aside(self.path)
            self._agent_log.error(
                f"the ledger {self.path} is damaged ({error}): set aside as {aside.name}, starting anew"
            )
            self.database.start()
        self.loss.find(self._lock.number, self.database.last_row)
        self.database.last_row = max(self.database.last_row, self._lock.number)  # no number twice; and it is said once
        try:
            self.claim = self.database.run(partial(identity.claim, held=self.database.held(""), address=self.address))
        except GreenagentError as error:
            self.database.stop()
            raise GreenagentError(f"main.ledger_file: {self.path} is {error}") from error
        self.formers = self.database.run(identity.formers)
        self.acknowledging.load()
        self.database.run(self._ages.load)
        self._rows = count(self.database.last_row + 1)

    def stop(self) -> None:
        """Commits what waits, closes the file and gives the lock back."""
        if self.database.thread is not None:
            self.database.run(identity.release)
        self.database.stop()
        if self.database.problem is not None:
            lost = f"{self.database.lost} results or statistics with it"
            self._agent_log.error(f"what happened since the ledger could not be written is lost, {lost}")
        else:
            self._log_lost()
        self._lock.release()

    @property
    def instance(self) -> str:
        """The ledger's own name."""
        return self.claim.instance

    @property
    def locks(self) -> tuple[FileLock, ...]:
        """What keeps a second agent off, for handing over."""
        return (self._lock,)

    @property
    def is_writable(self) -> bool:
        """False since a transaction was refused, until one goes through and nothing waits in memory."""
        return self.database.problem is None

    @property
    def problem(self) -> str | None:
        """Why what happens now could not be found again in the file, or None."""
        return None if self.is_writable else f"the ledger {self.path} cannot be written"

    def _problem_changed(self) -> None:
        problem = self.database.problem
        if problem is not None:
            self._trouble.warning(
                f"the ledger {self.path} cannot be written ({problem}): jobs go on, results wait in memory"
            )
            self._in_trouble.set()
            return
        self._trouble.resolved(f"the ledger {self.path} can be written again")
        self._log_lost()

    def _log_lost(self) -> None:
        if self.database.lost:
            self._agent_log.error(
                f"{self.database.lost} results or statistics lost: the ledger could not be written too long"
            )
            self.database.lost = 0

    def leave_to_former(self) -> Owed:
        """Of a copy of another agent's ledger: its jobs, and all that waits, are left to that agent."""
        return self.database.run(partial(identity.leave_to_former, address=self.claim.former, rows=self._rows))

    # -- the life of a job

    def accept(self, new: Sequence[NewJob]) -> list[int | None]:
        """Writes jobs down in one transaction; returns their rows once that is committed.

        None for a command of a controller that comes again after its job's end, within ``result_memory``, and not
        ``reruns``: its results are put back into the outbox, and it is not to be run.
        """
        now = monotonic_epoch()
        rows = [next(self._rows) for _ in new]
        texts = [statements.command_text(one.command, give_way) for one in new]

        def write(connection: sqlite3.Connection) -> list[int | None]:
            return [self._accept(connection, *each, now) for each in zip(new, rows, texts, strict=True)]

        written = self._run(write, sum(map(len, texts)))
        for controller in {one.controller for one, row in zip(new, written, strict=True) if row is None}:
            self._arrived(controller)
        return written

    def _accept(self, connection: sqlite3.Connection, new: NewJob, row: int, text: str, now: float) -> int | None:
        command, controller = new.command, new.controller
        if new.kind == FROM_CONTROLLER and not new.reruns and self._send_again(connection, command, controller):
            return None
        state = WAITING if new.waiting and not new.begins else RUNNING
        run, starttime = (1, int(now * 1000)) if new.begins else (0, 0)
        stamp = now if new.accepted is None else new.accepted
        statements.add_job(connection, (row, command.id, controller, new.kind, text, stamp, state, run, starttime))
        return row

    def running(self, row: int, run: int, starttime: int) -> None:
        """A run is about to start: committed when this returns."""
        self.database.run_at_once(partial(statements.run_begins, row=row, run=run, starttime=starttime))

    def between_runs(self, row: int, due: float) -> None:
        """A run has ended and the next one begins at ``due``, in seconds since 1970: committed when this returns."""
        self.database.run_at_once(partial(statements.between_runs, row=row, due=due))

    def not_begun(self, row: int) -> None:
        """The first run that was written with the acceptance does not begin: the job waits after all."""
        self.database.run_at_once(partial(statements.run_begins, row=row, run=0, starttime=0))

    def process(self, row: int, pid: int | None, start_ticks: int | None) -> None:
        """Notes the process of the current run, soon: after a crash before that it is found by its tag."""
        statement = "UPDATE job SET pid = ?, start_ticks = ? WHERE row = ?"
        self.database.submit_later(lambda connection: connection.execute(statement, (pid, start_ticks, row)))

    def end(self, row: int) -> None:
        """The job is over and there is nothing (more) to report."""
        self.database.run_at_once(partial(statements.end, row=row))

    def report(self, row: int, controller: str, result: Result, *, ends: bool, due: float | None = None) -> None:
        """Puts a result into the outbox; with ``ends`` the job is over. Committed when this returns.

        ``due``: as for ``between_runs``, where that is to be written with it.
        """
        body = result.to_text(give_way)
        number = next(self._rows)

        def write(connection: sqlite3.Connection) -> None:
            statements.put(connection, number, row, result.id, controller, RESULTS, result.state, body)
            if row > 0:
                statements.forget_earlier(connection, row, number)
            if ends:
                statements.end(connection, row)
            elif due is not None:
                statements.between_runs(connection, row, due)

        self._run(write, len(body))
        self._arrived(controller, is_short=len(body) <= SHORT)

    def unfinished(self) -> list[JobRecord]:
        """Jobs that were waiting or running when the spool was last written, in order of acceptance."""
        return self.database.run(statements.unfinished)

    def has_ended(self, job_id: str, accepted: float | None = None) -> bool:
        """Whether the job of this id and accept stamp, or one of this id, is known to have ended."""
        return self.database.run(partial(statements.has_ended, job_id=job_id, accepted=accepted))

    def answer_again(self, command: Command, controller: str) -> bool:
        """Puts the results of an ended job back into the outbox if this is its very command (see ``accept``)."""
        known = self.database.run(partial(self._send_again, command=command, controller=controller))
        if known:
            self._arrived(controller)
        return known

    def send_refused_again(self, job_id: str) -> bool:
        """Puts the last result of an ended job back into the outbox if its controller refused it."""
        controller = self.database.run(lambda connection: statements.send_refused_again(connection, job_id, self._rows))
        self._arrived(controller)
        return controller is not None

    def _send_again(self, connection: sqlite3.Connection, command: Command, controller: str | None) -> bool:
        since = self._ages.before(self.result_memory)
        return statements.send_again(connection, command, controller, since, self._rows)

    def _run(self, write: Callable[[sqlite3.Connection], T], length: int) -> T:
        """In the thread where so many characters are written that they take their time."""
        return self.database.run_at_once(write) if length <= SHORT else self.database.run(write)

    # -- the outbox. ``path``: STATISTICS for statistics; RESULTS for all else, results and lines that are tried again.

    def pending(self, controller: str, limit: int, after: int = 0, path: str = RESULTS) -> list[PendingBody]:
        """The oldest bodies a controller does not have, behind row ``after``: at most ``limit`` and about 4 MiB."""
        query = partial(statements.pending, controller=controller, limit=limit, after=after, path=path)
        if path == RESULTS and controller in self._small:
            return self.database.run_at_once(query)
        found = self.database.run(query)
        if path == RESULTS and not found and not after:
            self._small.add(controller)
        return found

    def wait(self, controller: str, timeout: float | None = None, path: str = RESULTS) -> bool:
        """Waits for something new in the outbox; True when there may be."""
        arrival = self._arrivals.setdefault((controller, path), Event())
        came = bool(arrival.wait(timeout))
        arrival.clear()
        return came

    def delivered(self, controller: str, rows: Iterable[int], path: str = RESULTS) -> None:
        """The controller has these: not pending from now on, stored soon. A crash before delivers them once more."""
        statement, now = "UPDATE outcome SET delivered = :now WHERE row = :row", monotonic_epoch()
        if path == STATISTICS:  # nobody asks for them again
            statement = "DELETE FROM outcome WHERE row = :row"
        values = [{"row": row, "now": now} for row in rows]
        self.database.submit_later(lambda connection: connection.executemany(statement, values))

    def make_dead_letter(self, controller: str, row: int, status: int, answer: str) -> bool:
        """The controller refuses a body of the outbox for good: it is kept for people to look at.

        True for a job's result: where no later one says more, it waits on without its output.
        """
        function = partial(statements.make_dead_letter, row=row, status=status, answer=answer, rows=self._rows)
        dropped, waits_on = self.database.run(function)
        self._log_dropped(dropped)
        if waits_on:
            self._arrived(controller)
        return waits_on

    def keep_dead_letter(self, controller: str, path: str, body: bytes, status: int, answer: str) -> None:
        """Keeps what never was in the outbox (a log line) and a controller refuses for good."""
        row, text = next(self._rows), body.decode("utf-8", "replace")
        self._log_dropped(
            self.database.run(
                lambda connection: statements.keep_dead_letter(connection, row, controller, path, text, status, answer)
            )
        )

    def _log_dropped(self, dropped: int) -> None:
        if dropped:
            most = statements.MAX_DEAD_LETTER_BYTES
            self._agent_log.error(f"{dropped} set-aside records dropped: more than {most} bytes were set aside")

    def put_statistics(self, controllers: Sequence[str], bodies: Sequence[str], max_bytes: int) -> int:
        """Puts objects into each controller's outbox; returns how many old ones went for ``max_bytes`` (0: no cap).

        ``bodies``: each a JSON list of one object, as it would be posted alone.
        """
        dropped = self.database.run(
            lambda connection: statements.put_statistics(connection, controllers, bodies, self._rows, max_bytes)
        )
        for controller in controllers:
            self._arrived(controller, STATISTICS)
        return dropped

    def keep_statistics_of(self, controllers: Sequence[str]) -> int:
        """Drops what waits only for other controllers; returns how many objects."""
        return self.database.run(partial(statements.drop_statistics, known=controllers))

    def waiting(self) -> dict[str, Waiting]:
        """What waits, by controller."""
        return self.database.run(statements.waiting)

    @property
    def cursors(self) -> CursorTable:
        """How far each controller has got in the log databases: for the log store."""
        return CursorTable(self.database, self._agent_log)

    def _arrived(self, controller: str | None, path: str = RESULTS, *, is_short: bool = False) -> None:
        if path == RESULTS and not is_short:
            self._small.discard(controller or "")
        arrival = self._arrivals.get((controller or "", path))
        if arrival is not None:
            arrival.set()

    # -- upkeep

    def keep_up(self, known_controllers: Callable[[], Iterable[str]], pause: float = 10.0) -> None:
        """A service: forgets what is past its memory or the caps, has memory written back, retries what is due."""
        while True:
            self._in_trouble.clear()
            if self.is_writable:
                self._in_trouble.wait(pause)
            else:
                gevent.sleep(min(pause, RETRY))
            self.write_back()
            if self.is_writable:
                self._maintain(list(known_controllers()))

    def make_again(self, fault: str) -> str | None:
        """Puts the file in its place again while the agent lives; says what is lost with it, None if nothing is.

        ``fault``: what became of it, such as "was removed". Raises sqlite3.Error or OSError.
        """
        is_whole = self.database.make_again()
        self.database.run(partial(identity.note, instance=self.instance, held=self.database.held("")))
        self._problem_changed()
        if is_whole:
            return None
        return "a new one is made; results that had not been delivered and what is known of ended jobs are lost with it"

    def write_back(self) -> None:
        """Has what lies in memory written, if that can be; finds out about another program's lock."""
        self.database.run(lambda connection: None)

    def _maintain(self, known: list[str]) -> None:
        before = self._ages.before(self.result_memory)
        purge = partial(statements.purge, before=before, max_results=MAX_RESULTS, max_bytes=MAX_RESULT_BYTES)
        while self.database.run(purge) >= 1000:
            gevent.sleep(0.05)
        for controller in self.database.run(partial(statements.retry_due, rows=self._rows)):
            for path in (RESULTS, STATISTICS):
                self._arrived(controller, path)
        self.owed_to_removed.look(self.waiting(), known)
        dropped = self.database.run(partial(statements.expire_removed, known=known, before=before))
        if dropped:
            self._agent_log.error(
                f"{dropped} results or retried records dropped: their controller is no longer configured"
            )
