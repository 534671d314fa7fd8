"""The log store: where every message of every job goes, and where readers and uploaders find it.

This is the door of the room. A line goes ``JobLog`` -> ``Intake`` | thread: ``Writer`` -> ``LogDatabase``; what waits
for a controller is found by ``PendingLines``, what people ask for by ``LogQuery``.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import gevent
from gevent.event import Event

from greenagent.logs.console import Console
from greenagent.logs.folder import LogFolder, is_damage, refuse_unreadable
from greenagent.logs.lines import Lines, OpenLine, Owner, byte_size
from greenagent.logs.read.pending import MarkedReader, PendingLines
from greenagent.logs.read.query import LogQuery, newest_first
from greenagent.logs.read.runs import last_number, unended_runs
from greenagent.logs.runs import RunRecord
from greenagent.logs.write.account import LineAccount
from greenagent.logs.write.cursors import CursorStore
from greenagent.logs.write.deletion import Deletion
from greenagent.logs.write.intake import Intake
from greenagent.logs.write.job_log import JobLog, Routes
from greenagent.logs.write.open_lines import CUT_OFF, Marked, OpenTexts
from greenagent.logs.write.retention import StoreLimits
from greenagent.logs.write.vanished import Vanished
from greenagent.logs.write.writer import Writer
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.locks import FileLock, lock_of
from greenagent.runtime.native import NativePool
from greenagent.values.errors import GreenagentError
from greenagent.values.message import Record

Answer = TypeVar("Answer")

_LOOK_EVERY: Final = 0.5
"""Seconds between looks for open text."""


def _take_no_notice(path: Path, error: sqlite3.Error) -> None:
    """Of a file that cannot be read where another source tells nearly the same."""


class StoreMetrics(NamedTuple):
    """What the store has done since it started: for statistics and tests."""

    lines: int
    bytes: int
    batches: int
    dropped: int
    waiting: int
    """The weight of what waits for the writer, in bytes."""


class LogStore:
    """The one owner of a log folder and a message id file."""

    def __init__(
        self,
        folder: Path,
        message_id_file: Path,
        agent_log: AgentLog,
        *,
        keep: bool = True,
        limits: StoreLimits | None = None,
        console: Console | None = None,
        cursors: CursorStore | None = None,
    ) -> None:
        """``keep`` false: there is no DB logger; lines wait for controllers only and then go.

        ``cursors`` keeps how far each controller has got; without it only the log databases tell that, and later.
        """
        self.folder = LogFolder(folder)
        self.keep = keep
        self._agent_log = agent_log
        self.intake = Intake(message_id_file, agent_log, console)
        self.locks = (
            FileLock(self.folder.lock, f"the log folder {folder}"),
            FileLock(lock_of(message_id_file), f"the message id file {message_id_file}"),
        )
        """What keeps a second agent off, for handing over."""
        self._account = LineAccount(folder, self.intake, agent_log, self._log_of)
        self.writer = Writer(
            self.folder,
            limits or StoreLimits(),
            self._account,
            self.intake.post,
            self.intake.warn,
            self.locks[0].record,
        )
        self._vanished: list[Vanished] = []
        self._pool: NativePool | None = None
        self._reader = MarkedReader(self.folder, self.writer.database, self.intake.warn)
        self._unreadable: set[Path] = set()
        self._cursors = cursors
        self._removed: dict[str, PendingLines] = {}
        """Pairs that left the configuration: a batch may still be under way."""
        self._last_run = 0
        self._jobs: dict[Owner, JobLog] = {}
        self.open_texts = OpenTexts()
        self._stirred = Event()
        """Set while a job may have text open: only then is looked."""

    def start(self) -> None:
        """Takes the locks and opens the files. Raises GreenagentError with the reason."""
        try:
            self.folder.create()
            for lock in self.locks:
                try:
                    lock.acquire()
                except OSError as error:
                    raise GreenagentError(f"{lock.guards} cannot be used: {error.strerror}") from error
            self.intake.start(self.writer.handle)
            cursors, floor = self._cursors.load(self.folder.uploads) if self._cursors is not None else ([], 0)
            self._vanished = self.intake.call(lambda: self.writer.open(cursors, floor, self.locks[0].number))
            try:
                own = self.locks[1]
                self.intake.ids.start(self.writer.database.last_id, own.number, own.record)
            except OSError as error:
                raise GreenagentError(f"{self.locks[1].guards} cannot be used: {error.strerror}") from error
            self._last_run = self.writer.runs.highest = self.intake.call(
                lambda: last_number(self.folder, _take_no_notice)
            )
            self._store_cut_off(self.intake.call(self.writer.open_rows))
            self._pool = NativePool(4)
            # Of 0.1: counts of lines lost on a full disk. It has said them, and no log of 0.2 would tell them.
            self.intake.ids.path.with_name(self.intake.ids.path.name + ".losses").unlink(missing_ok=True)
        except GreenagentError:
            self._abandon()
            raise
        except (OSError, sqlite3.Error) as error:
            self._abandon()
            raise GreenagentError(f"the log folder {self.folder.path} cannot be used: {error}") from error

    def tell_vanished(self) -> None:
        """Says which lines of an earlier run were lost while no agent ran: once the agent's log leads here."""
        while self._vanished:
            self._account.vanished(self._vanished.pop())

    def stop(self) -> None:
        """Writes what waits, closes the files cleanly and gives the locks back."""
        if self.intake.thread is None:
            return
        if self.intake.is_alive:
            self.intake.call(self.writer.try_now)
            self._account.last_report(self.flush)
        self.intake.stop(last=self.writer.close)
        lost = len(self.writer.runs) + self.writer.runs.take_lost()
        if lost:
            self._agent_log.error(f"the records of {lost} runs are lost: the log database could not be written")
        self._keep_cursors()
        try:
            self.intake.ids.store_last_used()
        except OSError as error:
            self._agent_log.warning(f"{self.intake.ids.path} cannot be written: {error}")
        if self._pool is not None:
            self._pool.close()
        for lock in self.locks:
            lock.release()

    def _abandon(self) -> None:
        self.intake.stop()
        for lock in self.locks:
            lock.release()

    def _store_cut_off(self, rows: Sequence[OpenLine]) -> None:
        """What a crash left open becomes lines; each row goes in the transaction that stores its line."""
        for owner, stream, epoch, level, data, size in rows:
            left_out = size - byte_size(data)
            begin = f"[the last of {size} bytes] " if left_out > 16 else ""
            text = f"{begin}{data}{CUT_OFF}"
            row_id = self.intake.ids.take(1)
            weight = byte_size(text)
            rows_of = [(level, text)]
            lines = Lines(owner, epoch, self.keep, 0, 0.0, row_id, level, "", rows_of, 1, weight, closes=(stream,))
            self.intake.put(lines, weight)

    # -- lines in

    def open_job(self, jobid: str, domain: str, name: str, routes: Routes, label: str, max_bytes: int = 0) -> JobLog:
        """The log of one job. ``label`` stands on its console lines; ``max_bytes`` is max_log_per_job, 0 for none."""
        job = JobLog(self.intake, Owner(jobid, domain, name), label, routes, max_bytes, self._closed, self._stirred)
        self._jobs[job.owner] = job
        return job

    def watch_open_text(self) -> None:
        """Body of a service: what jobs have begun and not ended is shown in table ``open_lines``."""
        self._stirred.set()  # it may have died while something was open
        while True:
            self._stirred.wait()
            gevent.sleep(_LOOK_EVERY)
            self._stirred.clear()
            if self.look_at_open_text():
                self._stirred.set()

    def look_at_open_text(self) -> bool:
        """One look at all jobs; never waits. True when another has to follow, whatever is printed."""
        if not self.intake.takes_at_once:
            return True
        rows: list[OpenLine] = []
        over: list[tuple[str, int]] = []
        shown: list[Marked] = []
        place = self.writer.open_lines_place
        jobs = list(self._jobs.values())
        for job in jobs:
            written, ended = job.look(place)
            rows += written
            over += ended
            shown += job.open_texts()
        self.open_texts.update(shown)
        if rows or over:
            self.intake.soon(lambda: self.writer.change_open(rows, over))
        return any(job.has_open for job in jobs)

    def _closed(self, job: JobLog) -> None:
        if self._jobs.get(job.owner) is job:
            del self._jobs[job.owner]
        over = job.over()
        if over and self.intake.is_alive:
            self.intake.soon(lambda: self.writer.change_open((), over))

    def _log_of(self, owner: Owner) -> JobLog:
        """Also of a job that has ended."""
        return self._jobs.get(owner) or JobLog(self.intake, owner, "", Routes(keep=self.keep))

    # -- records of runs

    def next_run(self) -> int:
        """The number of a run that is about to start: about the microseconds since 1970, and always a new one."""
        self._last_run = max(self._last_run + 1, int(time.time() * 1e6))
        return self._last_run

    def put_run(self, record: RunRecord) -> None:
        """Stores the record of a run, in place of an earlier one with its number; soon, without ever waiting."""
        if self.intake.is_alive:
            self.intake.put_run(record)

    def unended_runs(self) -> list[RunRecord]:
        """Those that have no end in any database. Raises GreenagentError."""
        with self._readable():
            return self._native(unended_runs, self.folder, self._pass_over)

    def flush(self) -> None:
        """Returns when everything appended before is committed (or counted as lost)."""
        self.intake.call(lambda: None)

    def tick(self) -> None:
        """To be called every few seconds: what the writer does now and then also happens when nobody logs."""
        if self.intake.is_alive:
            self._account.report()
            self.intake.soon(lambda: None)

    @property
    def last_seq(self) -> int:
        """Of the newest line stored."""
        return self.writer.database.next_seq - 1

    @property
    def is_writable(self) -> bool:
        """False while lines are only counted because writing them failed."""
        return not self._account.is_failing

    @property
    def problem(self) -> str:
        """Why lines are lost, or the folder is not kept in order; "" when all is well. For health; never waits."""
        return self._account.problem

    @property
    def metrics(self) -> StoreMetrics:
        account = self._account
        return StoreMetrics(account.lines, account.bytes, account.batches, self.intake.dropped, self.intake.weight)

    # -- lines for controllers

    def register_pairs(self, names: Sequence[str]) -> dict[str, int]:
        """Makes these the upload pairs (``logger/controller``); returns each one's bit for ``Routes``.

        Known ones go on at their cursor, new ones begin at the end of the store; one that left is
        kept for 7 days in case it returns. Raises GreenagentError, and then nothing has changed.
        """
        with self._readable():
            known: dict[str, tuple[int, int, int]] = self.intake.call(lambda: self.writer.register(list(names)))
        pairs = self._account.pairs
        for name in set(pairs) - set(known):
            self._removed[name] = pairs.pop(name)
        for name, (bit, cursor, waiting) in known.items():
            if name not in pairs:
                pairs[name] = PendingLines(
                    name, bit, cursor, waiting, self._read_marked, self._advance, self._account.not_readable
                )
                self._removed.pop(name, None)
        self._keep_cursors()
        return {name: bit for name, (bit, _, _) in known.items()}

    def pending(self, pair: str) -> PendingLines:
        """The lines that wait for a pair, also for one that a reload has just removed."""
        return self._account.pairs.get(pair) or self._removed[pair]

    def _read_marked(self, *asked: int) -> list[Record]:
        with self._readable():
            return self._native(self._reader.read, *asked)

    def _advance(self, pair: PendingLines) -> None:
        bit, seq = pair.bit, pair.cursor
        self.intake.soon(lambda: self.writer.advance(bit, seq))
        if self._cursors is not None:
            self._cursors.advance(pair.name, seq, self.writer.database.next_seq)

    def _keep_cursors(self) -> None:
        if self._cursors is not None:
            self._cursors.replace(self.writer.cursors.rows(), self.writer.database.next_seq)

    # -- questions

    def query(self, query: LogQuery, take: Callable[[Iterable[Record]], Answer] = list) -> Answer:  # type: ignore
        """What ``take`` makes of the matching lines of all databases, newest first; it is called in a native thread.

        Lines it does not ask for are not read. Raises GreenagentError.
        """

        def ask() -> Answer:
            with closing(newest_first(self.folder, query, self._pass_over)) as records:
                return take(records)

        with self._readable():
            return self._native(ask)

    def delete(self, query: LogQuery) -> tuple[int, int]:
        """Deletes matching lines of all databases, in slices; returns how many went and how many stayed.

        Lines that a controller still waits for stay. Raises GreenagentError.
        """
        deletion = Deletion(query._replace(limit=0))
        try:
            while self.intake.call(lambda: deletion.step(self.writer)):
                pass
        except (OSError, sqlite3.Error) as error:
            gone = f"{deletion.deleted} lines are deleted so far"
            raise GreenagentError(
                f"the log databases in {self.folder.path} cannot be changed ({error}); {gone}"
            ) from error
        return deletion.deleted, deletion.kept

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Whatever the folder is like, the agent lives. Raises GreenagentError."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise GreenagentError(f"the log databases in {self.folder.path} cannot be read: {error}") from error

    def _native(self, function: Callable[..., Answer], *args: Any) -> Answer:
        if self._pool is None:
            raise GreenagentError("the log store is not running")
        return self._pool.run(function, *args)

    def _pass_over(self, path: Path, error: sqlite3.Error) -> None:
        """A damaged file is left out of answers and said once. Raises GreenagentError for any other trouble."""
        if not is_damage(error):
            refuse_unreadable(path, error)
        if path not in self._unreadable:
            self._unreadable.add(path)
            self.intake.warn(f"{path} cannot be read ({error}): answers are given without it")
