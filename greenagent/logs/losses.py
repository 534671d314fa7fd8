"""What becomes of lines that could not be kept or sent: counted, and said where people look (design, promise 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from greenagent.logs.lines import Owner
from greenagent.logs.undelivered import Waiting
from greenagent.logs.unsaid import OTHERS, Unsaid, UnsaidFile
from greenagent.runtime.agent_log import AgentLog


class _JobLog(Protocol):
    dropped: int

    def note(self, text: str, missing: int = 0) -> bool | None: ...


class Losses:
    """The account of one store. Runs on the hub."""

    def __init__(
        self,
        folder: Path,
        agent_log: AgentLog,
        log_of: Callable[[Owner], _JobLog],
        file: UnsaidFile,
        soon: Callable[[Callable[[], None]], None],
    ) -> None:
        """``log_of`` gives the log of a job, also of one that has ended.

        ``file`` keeps what no log says yet; ``soon(function)`` runs its writing in another thread.
        """
        self._folder = folder
        self._agent_log = agent_log
        self._log_of = log_of
        self._file = file
        self._soon = soon
        self._unsaid: Unsaid = {}
        self._on_its_way: Unsaid = {}
        self._carried_over = 0
        self._is_kept = False
        self.is_failing = False
        """True while lines are only counted because writing them failed."""
        self.lines = 0
        """Lines counted instead of stored or sent, since the start."""

    @property
    def unsaid(self) -> Unsaid:
        """What no job's log tells for certain."""
        total = dict(self._unsaid)
        _add(total, self._on_its_way)
        return total

    def start(self) -> None:
        """Takes over what an earlier life lost and could not say; that has counted it in its own figures."""
        try:
            unsaid, problem = self._file.open()
        except OSError as error:  # no reason not to start
            unsaid, problem = {}, f"{self._file.path} cannot be used: {error.strerror}"
        if problem:
            self._agent_log.warning(problem)
        _add(self._unsaid, unsaid)
        self._carried_over = sum(unsaid.values())
        self._is_kept = bool(unsaid)

    def not_written(self, lost: Mapping[Owner, int], untold: Mapping[Owner, int], reason: str) -> None:
        """Writing failed; the jobs' logs say so when it works again. ``untold``: notes of losses that were lost."""
        for owner, count in lost.items():
            self._count(owner, count)
        _add(self._unsaid, lost)
        _add(self._unsaid, untold)
        _take(self._on_its_way, untold)
        if reason:
            self._store()
        if reason and not self.is_failing:
            self.is_failing = True
            self._agent_log.error(
                f"logs cannot be written to {self._folder} ({reason}): lines are counted until they can; jobs go on"
            )

    def written_again(self) -> None:
        """Every job's log says what it misses."""
        self.is_failing = False
        self._carried_over = 0
        lost = f": {_total(self._unsaid)} were lost" if self._unsaid else ""
        self._agent_log.warning(f"logs can be written again{lost}")
        self.say()

    def tick(self) -> None:
        """Now and then: what could not be said, now or in an earlier life, is tried once more."""
        if not self._unsaid or self.is_failing:
            return
        if self._carried_over:
            self._carried_over = 0
            self._agent_log.warning(f"{_total(self._unsaid)} were lost before this start: their logs say so now")
        self.say()

    def say(self) -> None:
        """Puts a note into the log of every job that misses lines; what finds no room waits for the next time."""
        for owner, count in list(self._unsaid.items()):
            if owner == OTHERS:
                self._agent_log.warning(f"{count} of these lines were of jobs that are not known by name any more")
                del self._unsaid[owner]
                continue
            text = f"{count} lines of this job were lost: the log database could not be written"
            stored = self._log_of(owner).note(text, count)
            if stored is None:
                break
            del self._unsaid[owner]
            if stored:
                _add(self._on_its_way, {owner: count})
        self._forget_if_said()

    def told(self, told: Mapping[Owner, int]) -> None:
        """These notes are in the database."""
        _take(self._on_its_way, told)
        self._forget_if_said()

    def stop(self, flush: Callable[[], None]) -> None:
        """The store closes: the last attempt to say what was lost; what is left is for the next start."""
        lost = self.unsaid
        if not lost:
            return
        self.say()
        flush()
        if not self.unsaid:
            self._agent_log.warning(f"{_total(lost)} were lost: their logs say so now")
            return
        self._store()
        self._agent_log.error(
            f"{_total(self.unsaid)} were lost and their logs cannot be written: the next start tells them, "
            f"by {self._file.path}"
        )

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
            self._agent_log.warning(f"lines of {others} jobs more were not sent to {pairs}: {cause}")

    def not_readable(self, lines: int, pair: str) -> None:
        """Lines that waited for ``pair`` were in a database that cannot be read any more."""
        self.lines += lines
        self._agent_log.warning(f"{lines} lines that waited for {pair} are lost: their database was damaged or removed")

    def _count(self, owner: Owner, count: int) -> _JobLog:
        self.lines += count
        log = self._log_of(owner)
        log.dropped += count
        return log

    def _forget_if_said(self) -> None:
        if self._is_kept and not self._unsaid and not self._on_its_way:
            self._store()

    def _store(self) -> None:
        unsaid = self.unsaid
        self._is_kept = bool(unsaid)
        self._soon(lambda: self._file.write(unsaid))


def _add(to: Unsaid, more: Mapping[Owner, int]) -> None:
    for owner, count in more.items():
        to[owner] = to.get(owner, 0) + count


def _take(away_from: Unsaid, less: Mapping[Owner, int]) -> None:
    for owner, count in less.items():
        left = away_from.get(owner, 0) - count
        if left > 0:
            away_from[owner] = left
        else:
            away_from.pop(owner, None)


def _total(unsaid: Mapping[Owner, int]) -> str:
    return f"{sum(unsaid.values())} lines of {len(unsaid)} jobs"
