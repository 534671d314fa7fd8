"""What has become of lines: stored, lost or dropped; said where people look (design, promise 3). On the hub.

The writer's thread posts it here. It is also the way from the writer to the uploaders: ``LineAccount`` has the
lines that wait for each upload pair, and ``stored`` wakes the uploaders of those that got some.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from greenagent.logs.lines import Owner
from greenagent.logs.read.pending import PendingLines
from greenagent.logs.write.intake import Intake
from greenagent.logs.write.job_log import JobLog
from greenagent.logs.write.undelivered import Waiting
from greenagent.logs.write.vanished import Vanished
from greenagent.logs.write.writer import Marked
from greenagent.runtime.agent_log import AgentLog
from greenagent.values.levels import WARNING


class LineAccount:
    """Is told by the writer, and tells the jobs' logs, the agent's own, and the uploaders of ``pairs``.

    Lines that were lost are ``_unreported`` until writing works again: then a note for each job goes to the writer.
    Where that note is lost as well, ``not_written`` brings the number back: what was lost is told once, in one number.
    """

    def __init__(self, folder: Path, intake: Intake, agent_log: AgentLog, log_of: Callable[[Owner], JobLog]) -> None:
        """``log_of`` gives the log of a job, also of one that has ended."""
        self.lines = self.bytes = self.batches = 0
        """Stored since the start."""
        self._failure = self._disorder = ""
        self.pairs: dict[str, PendingLines] = {}
        """What waits for each upload pair."""
        self._folder = folder
        self._intake = intake
        self._agent_log = agent_log
        self._log_of = log_of
        self._unreported: dict[Owner, int] = {}
        """Lines lost of each job that its log does not tell yet."""

    @property
    def is_failing(self) -> bool:
        """True while lines are only counted because writing them failed."""
        return bool(self._failure)

    @property
    def problem(self) -> str:
        """Why lines are lost, or the folder is not kept in order; "" when all is well."""
        return self._failure or self._disorder

    def stored(self, lines: int, size: int, marked: Marked) -> None:
        """A transaction of ``lines`` lines and ``size`` bytes is committed: wakes the uploaders that want some."""
        self.lines += lines
        self.bytes += size
        self.batches += 1
        for pair in self.pairs.values():
            if pair.bit in marked:
                pair.stored(*marked[pair.bit])

    def not_written(self, lost: Mapping[Owner, int], untold: Mapping[Owner, int], reason: str) -> None:
        """Writing failed; the jobs' logs say so when it works again.

        ``untold``: of how many lines the notes tell that are lost as well; these were counted before.
        """
        for owner, count in lost.items():
            self._log_of(owner).count_lost(count)
        for counts in (lost, untold):
            for owner, count in counts.items():
                self._unreported[owner] = self._unreported.get(owner, 0) + count
        if not self.is_failing:
            self._failure = f"logs cannot be written to {self._folder} ({reason})"
            self._agent_log.error(f"{self._failure}: lines are counted until they can; jobs go on")

    def written_again(self, lost_runs: int) -> None:
        """Every job's log says what it misses."""
        self._failure = ""
        lost = [_total(self._unreported)] if self._unreported else []
        if lost_runs:
            lost.append(f"the records of {lost_runs} runs")
        were = f": {' and '.join(lost)} were lost" if lost else ""
        self._agent_log.warning(f"logs can be written again{were}")
        self.report()

    def disorder(self, reason: str) -> None:
        """The folder cannot be kept in order for this reason, "" when it can again; lines may be written meanwhile."""
        self._disorder = f"the log folder {self._folder} cannot be kept in order: {reason}" if reason else ""
        if reason:
            self._agent_log.warning(self._disorder)

    def report(self) -> None:
        """Now and then: what found no room is tried once more."""
        if not self.is_failing:
            self._report()

    def last_report(self, flush: Callable[[], None]) -> None:
        """The store closes: what the jobs' logs cannot tell even now is said here, and nowhere else."""
        self._report()
        flush()
        if self._unreported:
            self._agent_log.error(f"{_total(self._unreported)} were lost, and their logs cannot tell")

    def _report(self) -> None:
        """Puts a note into the log of every job that misses lines."""
        for owner, count in list(self._unreported.items()):
            text = f"{count} lines of this job were lost: the log database could not be written"
            if not self._log_of(owner).try_append(WARNING, text, tells=count):
                break
            del self._unreported[owner]

    def not_sent(self, waiting: Waiting, pairs: str, cause: str) -> None:
        """Lines that ``pairs`` still wanted went for ``cause``; the logs of the jobs that lose most say so each."""
        for owner, count in waiting.by_owner.items():
            log = self._log_of(owner)
            log.count_dropped(count)
            # An earlier note may have gone with an earlier database.
            total = f"; {log.dropped} of its lines were dropped by now" if log.dropped > count else ""
            log.append_now(WARNING, f"{count} lines of this job were not sent to {pairs}: {cause}{total}")
        for pair in self.pairs.values():
            pair.dropped(waiting.by_bit.get(pair.bit, 0))
        self._intake.dropped += waiting.lines - sum(waiting.by_owner.values())
        others = waiting.jobs - len(waiting.by_owner)
        if others > 0:
            self._agent_log.warning(f"lines of {others} jobs more were not sent to {pairs}: {cause}")

    def vanished(self, found: Vanished) -> None:
        """Lines that an earlier run had stored are in no database any more."""
        lines, pairs, files = found
        self._intake.dropped += lines
        if files:
            self._agent_log.error(
                f"removed from {self._folder} while no agent ran: {', '.join(files)}: "
                f"up to {lines} lines that waited for {', '.join(pairs or ())} are lost"
            )
            return
        if pairs is not None:
            waited = f": up to {lines} that waited for {', '.join(pairs)} are lost" if pairs else ""
            self._agent_log.error(
                f"lines were stored, but {self._folder} holds no log database of an earlier run{waited}"
            )
            return
        self._agent_log.error(
            f"{lines} lines that were stored are lost, of which jobs is not known: a log database in {self._folder}, "
            "or what sqlite keeps beside it, was emptied, removed or put back while no agent ran"
        )

    def not_readable(self, lines: int, pair: str) -> None:
        """Lines that waited for ``pair`` were in a database that cannot be read any more."""
        self._intake.dropped += lines
        self._agent_log.warning(f"{lines} lines that waited for {pair} are lost: their database was damaged or removed")


def _total(lost: Mapping[Owner, int]) -> str:
    return f"{sum(lost.values())} lines of {len(lost)} jobs"
