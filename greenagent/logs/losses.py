"""What becomes of lines that could not be kept or sent: counted, and said where people look (design, promise 3)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from greenagent.logs.lines import Owner
from greenagent.logs.undelivered import Waiting
from greenagent.runtime.voice import Voice


class _JobLog(Protocol):
    dropped: int

    def note(self, text: str) -> None: ...


class Losses:
    """The account of one store. Runs on the hub."""

    def __init__(self, folder: Path, voice: Voice, log_of: Callable[[Owner], _JobLog]) -> None:
        """``log_of`` gives the log of a job, also of one that has ended."""
        self._folder = folder
        self._voice = voice
        self._log_of = log_of
        self._unwritten: dict[Owner, int] = {}
        self.is_failing = False
        """True while lines are only counted because writing them failed."""
        self.lines = 0
        """Lines counted instead of stored or sent, since the start."""

    def not_written(self, lost: dict[Owner, int], reason: str) -> None:
        """Writing failed; the jobs' logs say so when it works again."""
        for owner, count in lost.items():
            self._unwritten[owner] = self._unwritten.get(owner, 0) + count
            self._count(owner, count)
        if reason and not self.is_failing:
            self.is_failing = True
            self._voice.error(
                f"logs cannot be written to {self._folder} ({reason}): lines are counted until they can; jobs go on"
            )

    def written_again(self) -> None:
        """Every job's log says what it misses."""
        self.is_failing = False
        lost, self._unwritten = self._unwritten, {}
        self._voice.warning(f"logs can be written again: {sum(lost.values())} lines of {len(lost)} jobs were lost")
        for owner, count in lost.items():
            self._log_of(owner).note(f"{count} lines of this job were lost: the log database could not be written")

    def not_sent(self, waiting: Waiting, pairs: str, cause: str) -> None:
        """Lines that ``pairs`` still wanted went for ``cause``; the logs of the jobs that lose most say so each."""
        for owner, count in waiting.by_owner.items():
            log = self._count(owner, count)
            # An earlier note may have gone with an earlier database.
            total = f"; {log.dropped} of its lines were dropped by now" if log.dropped > count else ""
            log.note(f"{count} lines of this job were not sent to {pairs}: {cause}{total}")
        self.lines += waiting.lines - sum(waiting.by_owner.values())
        others = waiting.jobs - len(waiting.by_owner)
        if others > 0:
            self._voice.warning(f"lines of {others} jobs more were not sent to {pairs}: {cause}")

    def not_readable(self, lines: int, pair: str) -> None:
        """Lines that waited for ``pair`` were in a database that cannot be read any more."""
        self.lines += lines
        self._voice.warning(f"{lines} lines that waited for {pair} are lost: their database was damaged or removed")

    def _count(self, owner: Owner, count: int) -> _JobLog:
        self.lines += count
        log = self._log_of(owner)
        log.dropped += count
        return log
