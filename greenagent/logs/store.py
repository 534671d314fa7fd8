"""The log store: where every message of every job goes, and where readers and uploaders find it.

This is its side on the hub; ``writer`` is its side in the native thread, ``writer_thread`` what lies between.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from greenagent.logs.backlog import Backlog
from greenagent.logs.console import Console
from greenagent.logs.events import Committed, Events
from greenagent.logs.folder import LogFolder
from greenagent.logs.joblog import JobLog
from greenagent.logs.lines import Lines, Owner
from greenagent.logs.losses import Losses
from greenagent.logs.message_ids import MessageIds
from greenagent.logs.read.database import is_damage, refuse_unreadable
from greenagent.logs.read.pending import MarkedReader
from greenagent.logs.read.query import LogQuery, newest_first
from greenagent.logs.retention import StoreLimits
from greenagent.logs.routes import Routes
from greenagent.logs.undelivered import Waiting
from greenagent.logs.unsaid import UnsaidFile
from greenagent.logs.write.database import LogDatabase
from greenagent.logs.write.deletion import Deletion
from greenagent.logs.writer import Writer
from greenagent.logs.writer_thread import WriterThread
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.files import FileLock
from greenagent.runtime.native import NativePool
from greenagent.values.errors import GreenagentError
from greenagent.values.message import Record

Answer = TypeVar("Answer")

UPLOAD_BYTES: Final = 8 << 20


class Figures(NamedTuple):
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
    ) -> None:
        """``keep`` false: there is no DB logger; lines wait for controllers only and then go."""
        self.folder = LogFolder(folder)
        self.keep = keep
        self.console = console
        self._agent_log = agent_log
        self._limits = limits or StoreLimits()
        self._locks = (
            FileLock(self.folder.lock, f"the log folder {folder}"),
            FileLock(
                message_id_file.with_name(message_id_file.name + ".lock"), f"the message id file {message_id_file}"
            ),
        )
        self._message_id_file = message_id_file
        self.writer = WriterThread(agent_log, self.folder.uploads)
        self._pool: NativePool | None = None
        self._database = LogDatabase(self.folder, self._limits.max_db_size, self.writer.warn)
        self._reader = MarkedReader(self.folder, self._database, self.writer.warn)
        self._unreadable: set[Path] = set()
        self._pairs: dict[str, Backlog] = {}
        self._removed: dict[str, Backlog] = {}
        """Pairs that left the configuration: a batch may still be under way."""
        self._pairs_by_bit: dict[int, Backlog] = {}
        self._jobs: dict[Owner, JobLog] = {}
        unsaid = UnsaidFile(message_id_file.with_name(message_id_file.name + ".losses"))
        self._losses = Losses(self.folder.path, agent_log, self._log_of, unsaid, self.writer.soon)
        self._lines = 0
        self._bytes = 0
        self._batches = 0
        self.ids: MessageIds

    def start(self) -> None:
        """Takes the locks and opens the files. Raises GreenagentError with the reason."""
        try:
            self.folder.create()
            for lock in self._locks:
                try:
                    lock.acquire()
                except OSError as error:
                    raise GreenagentError(f"{lock.guards} cannot be used: {error.strerror}") from error
            self.writer.start(self._make_writer)
            newest = self.writer.call(_open)
            self.ids = MessageIds(self._message_id_file, self.writer.soon, self.writer.post, self._agent_log.warning)
            self.writer.on_end = self.ids.end
            try:
                self.ids.start(newest)
            except OSError as error:
                raise GreenagentError(f"{self._locks[1].guards} cannot be used: {error.strerror}") from error
            self._losses.start()
            self._pool = NativePool(4)
        except GreenagentError:
            self._abandon()
            raise
        except (OSError, sqlite3.Error) as error:
            self._abandon()
            raise GreenagentError(f"the log folder {self.folder.path} cannot be used: {error}") from error

    def stop(self) -> None:
        """Writes what waits, closes the files cleanly and gives the locks back."""
        if not self.writer.is_started:
            return
        if self.writer.is_alive:
            self._say_losses()
        self.writer.close()
        try:
            self.ids.store_last_used()
        except OSError as error:
            self._agent_log.warning(f"{self._message_id_file} cannot be written: {error}")
        if self._pool is not None:
            self._pool.close()
        for lock in self._locks:
            lock.release()

    @property
    def locks(self) -> tuple[FileLock, ...]:
        """What keeps a second agent off, for handing over."""
        return self._locks

    def register_pairs(self, names: Sequence[str]) -> dict[str, int]:
        """Makes these the upload pairs (``logger/controller``); returns each one's bit for ``Routes``.

        Known ones go on at their cursor, new ones begin at the end of the store; one that left is
        kept for 7 days in case it returns. Raises GreenagentError, and then nothing has changed.
        """
        try:
            known: dict[str, tuple[int, int, int]] = self.writer.call(lambda writer: writer.register(list(names)))
        except (OSError, sqlite3.Error) as error:
            raise GreenagentError(f"the upload cursors in {self.folder.uploads} cannot be used: {error}") from error
        for name, (bit, cursor, waiting) in known.items():
            if name not in self._pairs:
                self._pairs[name] = Backlog(name, bit, cursor, waiting)
                self._removed.pop(name, None)
        for name in set(self._pairs) - set(known):
            self._removed[name] = self._pairs.pop(name)
        self._pairs_by_bit = {pair.bit: pair for pair in self._pairs.values()}
        return {name: bit for name, (bit, _, _) in known.items()}

    def open_job(self, jobid: str, domain: str, name: str, routes: Routes, label: str, max_bytes: int = 0) -> JobLog:
        """The log of one job. ``label`` stands on its console lines; ``max_bytes`` is max_log_per_job, 0 for none."""
        job = JobLog(self, Owner(jobid, domain, name), label, routes, max_bytes)
        self._jobs[job.owner] = job
        return job

    def closed(self, job: JobLog) -> None:
        """For ``JobLog.close``."""
        if self._jobs.get(job.owner) is job:
            del self._jobs[job.owner]

    def flush(self) -> None:
        """Returns when everything appended before is committed (or counted as lost)."""
        self.writer.call(lambda writer: None)

    def tick(self) -> None:
        """To be called every few seconds: what the writer does now and then also happens when nobody logs."""
        if self.writer.is_alive:
            self._losses.tick()
            self.writer.soon(lambda: None)

    def read_marked(self, pair: str, limit: int = 1000, max_bytes: int = UPLOAD_BYTES) -> list[Record]:
        """The next lines for an upload pair, behind its cursor, in order. Raises GreenagentError."""
        backlog = self._pair(pair)
        known = backlog.known()
        try:
            found = self._native(self._reader.read, backlog.bit, backlog.cursor, limit, max_bytes)
        except sqlite3.Error as error:
            raise GreenagentError(f"the log databases in {self.folder.path} cannot be read: {error}") from error
        missing = backlog.was_read([record.seq for record in found], known)
        if missing:
            self._losses.not_readable(missing, pair)
        return found

    def advance(self, pair: str, seq: int) -> None:
        """The pair's controller has accepted everything up to ``seq``; stored soon, without waiting."""
        backlog = self._pair(pair)
        backlog.advance(seq)
        self.writer.call_later(lambda writer: writer.advance(backlog.bit, seq))

    def backlog(self, pair: str) -> int:
        """How many stored lines wait for the pair."""
        return self._pair(pair).waiting

    def wait_due(self, pair: str, batch_size: int, flush_int: float) -> None:
        """Blocks until a batch of the pair should go; see ``Backlog.wait_due``."""
        self._pair(pair).wait_due(batch_size, flush_int)

    def query(self, query: LogQuery, take: Callable[[Iterable[Record]], Answer] = list) -> Answer:  # type: ignore
        """What ``take`` makes of the matching lines of all databases, newest first; it is called in a native thread.

        Lines it does not ask for are not read. Raises GreenagentError.
        """
        answer: Answer = self._native(self._query, query, take)
        return answer

    def delete(self, query: LogQuery) -> tuple[int, int]:
        """Deletes matching lines of all databases, in slices; returns how many went and how many stayed.

        Lines that a controller still waits for stay. Raises GreenagentError.
        """
        deletion = Deletion(query._replace(limit=0))
        try:
            while self.writer.call(deletion.step):
                pass
        except sqlite3.Error as error:
            gone = f"{deletion.deleted} lines are deleted so far"
            raise GreenagentError(
                f"the log databases in {self.folder.path} cannot be changed ({error}); {gone}"
            ) from error
        return deletion.deleted, deletion.kept

    @property
    def is_writable(self) -> bool:
        """False while lines are only counted because writing them failed."""
        return not self._losses.is_failing

    @property
    def figures(self) -> Figures:
        return Figures(self._lines, self._bytes, self._batches, self._losses.lines, self.writer.weight)

    def wait_for_room(self, count: int) -> None:
        """Blocks until the writer keeps up and ``count`` ids can be taken, both at once."""
        while True:
            self.writer.wait_room()
            if self.ids.left >= count:
                return
            self.ids.wait_for(count)
            if self.writer.has_room and self.ids.left >= count:
                return

    @property
    def takes_at_once(self) -> bool:
        """True when a line can be handed over that cannot wait."""
        return self.writer.takes_at_once and self.ids.left > 0

    def put(self, lines: Lines, weight: int) -> None:
        """Hands lines to the writer; call after ``wait_for_room`` without yielding."""
        self.writer.put(lines, weight)

    def count_dropped(self, count: int) -> None:
        self._losses.lines += count

    def _pair(self, name: str) -> Backlog:
        """Also one that a reload has just removed: its uploader is still to be ended."""
        return self._pairs.get(name) or self._removed[name]

    def _make_writer(self, post: Callable[[Callable[[], None]], None]) -> Writer:
        events = Events(
            committed=lambda done: post(lambda: self._committed(done)),
            lost=lambda lost, untold, reason: post(lambda: self._losses.not_written(lost, untold, reason)),
            recovered=lambda: post(self._losses.written_again),
            not_sent=lambda waiting, pairs, cause: post(lambda: self._not_sent(waiting, pairs, cause)),
            warn=self.writer.warn,
        )
        return Writer(self.folder, self._database, self._limits, events)

    def _native(self, function: Callable[..., Answer], *args: Any) -> Answer:
        if self._pool is None:
            raise GreenagentError("the log store is not running")
        return self._pool.run(function, *args)

    def _query(self, query: LogQuery, take: Callable[[Iterable[Record]], Answer]) -> Answer:
        with closing(newest_first(self.folder, query, self._pass_over)) as records:
            return take(records)

    def _pass_over(self, path: Path, error: sqlite3.Error) -> None:
        """A damaged file is left out of answers and said once. Raises GreenagentError for any other trouble."""
        if not is_damage(error):
            refuse_unreadable(path, error)
        if path not in self._unreadable:
            self._unreadable.add(path)
            self.writer.warn(f"{path} cannot be read ({error}): answers are given without it")

    def _say_losses(self) -> None:
        """The last chance of the jobs' logs; what cannot be said there is kept for the next start."""
        self.writer.call(lambda writer: writer.try_now())
        self._losses.stop(self.flush)
        self.flush()

    def _committed(self, done: Committed) -> None:
        self._lines += done.lines
        self._bytes += done.size
        self._batches += 1
        for bit, (count, flush) in done.marked.items():
            pair = self._pairs_by_bit.get(bit)
            if pair is not None:
                pair.stored(count, flush)
        if done.told:
            self._losses.told(done.told)

    def _not_sent(self, waiting: Waiting, pairs: str, cause: str) -> None:
        self._losses.not_sent(waiting, pairs, cause)
        for bit, count in waiting.by_bit.items():
            if bit in self._pairs_by_bit:
                self._pairs_by_bit[bit].dropped(count)

    def _log_of(self, owner: Owner) -> JobLog:
        return self._jobs.get(owner) or JobLog(self, owner, "", Routes(keep=self.keep), 0)

    def _abandon(self) -> None:
        self.writer.abandon()
        for lock in self._locks:
            lock.release()


def _open(writer: Writer) -> int:
    """Opens the files; returns the newest message id."""
    writer.open()
    return writer.database.last_id
