"""Which archives go: ``max_dbs``, ``max_age`` and ``min_free``. Runs in the writer's thread.

See design, section 5 "Settings".
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from greenagent.logs.folder import COMPANIONS, LogFolder, connect, read_numbers
from greenagent.logs.read.runs import last_moment
from greenagent.logs.write.cursors import Cursor, Cursors
from greenagent.logs.write.database_file import closed_in_this_boot
from greenagent.logs.write.undelivered import Waiting, waiting_in
from greenagent.logs.write.vanished import archive_mark
from greenagent.runtime.clock import monotonic_epoch

CLOCK_SETTLED: Final = 600.0
"""Seconds until the machine's clock counts: one that has no battery, or a wrong one, is set soon after the boot."""
_PATIENCE: Final = 0.05
"""Seconds to wait for an archive that another program has locked: the writer must go on."""


class StoreLimits(NamedTuple):
    """The DB logger's settings: bytes per file, number of archives, seconds, bytes of free disk (0 = no limit).

    ``run_memory``: seconds for which records of runs are kept where there is no DB logger; None: as long as the files.
    """

    max_db_size: int = 100 * 1024 * 1024
    max_dbs: int = 0
    max_age: float = 0
    min_free: int = 0
    run_memory: float | None = None


class _Archive(NamedTuple):
    """The seqs of its lines, 0 for a file that is not ours, and whether it has a line in ``logs`` (or may have).

    ``runs_until`` is when it got its last record of a run, in seconds since 1970; 0 for none.
    """

    first_seq: int
    last_seq: int
    has_logs: bool
    closed: float | None = None
    """When, by the monotonic clock; None where that cannot be told."""
    runs_until: float = 0.0


class Retention:
    """Removes archives that the settings no longer allow, oldest first."""

    def __init__(
        self,
        folder: LogFolder,
        limits: StoreLimits,
        say: Callable[[str], None],
        not_sent: Callable[[Waiting, str, str], None],
        removing: Callable[[], None],
    ) -> None:
        """``not_sent`` is told what a cap took from controllers: the lines, the pairs, the cause.

        ``removing`` is called when an archive is about to go and ``meta`` does not tell it any more.
        """
        self._folder = folder
        self.limits = limits
        self._say = say
        self._not_sent = not_sent
        self._removing = removing
        self._archives: dict[Path, _Archive] = {}
        self._since: dict[Path, float] = {}
        """From when on the age of each archive counts, by the monotonic clock."""
        self._first_look: float | None = None
        self._from_before: set[Path] = set()
        """Archives of which only the file's stamp tells how old they are."""
        self._said_free = False
        self._failure: OSError | None = None

    def apply(self, cursors: Cursors, written: Path) -> None:
        """One pass over all databases but ``written``. Raises OSError, after all that could be removed."""
        self._failure = None
        archives = [path for path in self._folder.databases() if path != written]
        there = set(archives)
        self._archives = {path: known for path, known in self._archives.items() if path in there}
        limits = self.limits
        if limits.max_dbs:
            for path in archives[: max(0, len(archives) - limits.max_dbs)]:
                self._remove_by_cap(path, f"max_dbs = {limits.max_dbs}", cursors)
        if limits.max_age:
            for path in self._older_than(limits.max_age, archives):
                self._remove_by_cap(path, f"max_age = {limits.max_age:g}", cursors)
        if limits.min_free:
            self._make_room(archives, cursors)
        for path in archives:  # those that held only lines on their way to controllers, once these have them
            if path.exists() and not self._is_wanted(self._known(path)) and not self._waiting_for(path, cursors):
                self._remove(path)
        if self._failure is not None:
            raise self._failure

    def _is_wanted(self, archive: _Archive) -> bool:
        """Whether there is something in it for people."""
        memory = self.limits.run_memory
        return archive.has_logs or archive.runs_until > (0 if memory is None else time.time() - memory)

    def meta(self) -> list[tuple[str, int]]:
        """For the meta table of the newest database: the archives that hold lines of ours."""
        known = self._archives.items()
        return [archive_mark(path, one.first_seq, one.last_seq) for path, one in known if one.last_seq]

    def _older_than(self, age: float, archives: Sequence[Path]) -> list[Path]:
        """Those whose age is certain, whatever the machine's clock said meanwhile.

        What was closed since the machine was booted tells when, by the monotonic clock. Of the others only the stamp
        of the file tells, by a clock that may have been ahead when this process started: it counts once that clock
        has had time to be set.
        """
        now = time.monotonic()
        if self._first_look is None:
            self._first_look = now
            self._from_before = {path for path in archives if self._known(path).closed is None}
        self._since = {path: self._since.get(path) or self._closed(path, now) for path in archives}
        if now - self._first_look >= CLOCK_SETTLED:
            wall = min(time.time(), monotonic_epoch())
            for path in self._from_before & self._since.keys():
                self._since[path] = min(self._since[path], now - (wall - _modified(path)))
            self._from_before.clear()
        return [path for path, since in self._since.items() if since < now - age]

    def _closed(self, path: Path, now: float) -> float:
        closed = self._known(path).closed
        return now if closed is None else min(now, closed)

    def _make_room(self, archives: Sequence[Path], cursors: Cursors) -> None:
        for path in filter(Path.exists, archives):
            if self._folder.free_bytes() >= self.limits.min_free:
                self._said_free = False
                return
            if not cursors.wanting(self._known(path).last_seq):
                if not self._said_free:
                    self._say(
                        f"less than min_free = {self.limits.min_free} bytes are free in {self._folder.path}: "
                        f"log databases are removed, oldest first, from {path.name} on"
                    )
                    self._said_free = True
                # A pair that left the configuration holds no file against this, but what it loses is counted.
                self._remove_by_cap(path, f"min_free = {self.limits.min_free}", cursors)

    def _waiting_for(self, path: Path, cursors: Cursors) -> list[Cursor]:
        """The pairs that may still want lines of a file, also those that left and may return."""
        known = self._known(path)
        left = [cursor for cursor in cursors.removed() if cursor.would_miss(known.first_seq, known.last_seq)]
        return cursors.wanting(known.last_seq) + left

    def _remove_by_cap(self, path: Path, cap: str, cursors: Cursors) -> None:
        behind = {cursor.bit: cursor.seq for cursor in self._waiting_for(path, cursors)}
        undelivered: Waiting | sqlite3.Error | None = None
        if behind:
            try:
                undelivered = waiting_in(path, behind, _PATIENCE)
            except sqlite3.Error as error:
                undelivered = error
        # Only then is it said: what cannot be removed is tried again every second, and is not lost.
        if self._remove(path) and undelivered is not None:
            self._say_undelivered(path, cap, undelivered, behind, cursors)

    def _say_undelivered(
        self, path: Path, cap: str, undelivered: Waiting | sqlite3.Error, behind: dict[int, int], cursors: Cursors
    ) -> None:
        if isinstance(undelivered, sqlite3.Error):
            if str(undelivered).startswith("no such"):
                return  # a file of another version holds nothing for controllers
            self._say(
                f"{path.name} is removed for {cap} and cannot be read ({undelivered}): how many of its lines "
                f"{_names(cursors, behind)} did not get is not known"
            )
        elif undelivered.lines:
            pairs = _names(cursors, [bit for bit, lines in undelivered.by_bit.items() if lines])
            self._say(f"{path.name} is removed for {cap} with {undelivered.lines} lines not yet sent to {pairs}")
            self._not_sent(undelivered, pairs, f"their database was removed for {cap}")

    def _known(self, path: Path) -> _Archive:
        """What is in an archive; one that is locked or damaged may still hold anything."""
        if path not in self._archives:
            try:
                with closing(connect(path, timeout=_PATIENCE)) as connection:
                    numbers = read_numbers(connection)
                    row = connection.execute('SELECT 1 FROM "logs" LIMIT 1').fetchone() if numbers else None
                    runs_until = last_moment(connection) if numbers else 0.0
            except sqlite3.Error:
                return _Archive(0, sys.maxsize, True)
            found = _Archive(0, 0, True)
            if numbers:
                closed = closed_in_this_boot(numbers)
                found = _Archive(
                    numbers.get("first_seq", 0), numbers["next_seq"] - 1, row is not None, closed, runs_until
                )
            self._archives[path] = found
        return self._archives[path]

    def _remove(self, path: Path) -> bool:
        """False where that is not possible: the others are removed all the same."""
        if self._archives.pop(path, None) is not None:
            self._removing()
        try:
            # A reader that finds an archive damaged renames it at any time.
            path.unlink(missing_ok=True)
            for suffix in COMPANIONS:
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        except OSError as error:
            self._failure = error
            return False
        return True


def _names(cursors: Cursors, bits: Iterable[int]) -> str:
    return ", ".join(cursors.by_bit[bit].name for bit in bits)


def _modified(path: Path) -> float:
    """Seconds since 1970; now for a file that is gone."""
    try:
        return os.stat(path).st_mtime
    except FileNotFoundError:
        return monotonic_epoch()
