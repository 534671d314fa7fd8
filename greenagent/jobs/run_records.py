"""A record of every run of a process, in the log databases: its beginning with its start, its end behind it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from greenagent.jobs.handover import SuspendedJob
from greenagent.jobs.job import Job, Outcome
from greenagent.logs.runs import RunRecord
from greenagent.logs.store import LogStore
from greenagent.spool.schema import RUNNING, JobRecord
from greenagent.spool.spool import Spool
from greenagent.spool.statements import last_result
from greenagent.values import states
from greenagent.values.command import Command, parse_command
from greenagent.values.command_line import command_line_of
from greenagent.values.errors import CommandError
from greenagent.values.text import storable

CUT_OFF: Final = "cut off: the agent was stopped or killed while the job ran"
HELD_UP: Final = "cut off: the job did not stop in time for the agent's replacement in place"
MAX_REASON: Final = 1000
"""Characters of a reason that are kept."""


class RunRecords:
    """Writes them; never waits."""

    def __init__(self, store: LogStore) -> None:
        self._store = store

    def new(self, job: Job, starttime: int, number: int = 0, command: str = "") -> RunRecord:
        """The record of a run that is about to start, not written yet; ``starttime`` in milliseconds since 1970.

        ``number`` and ``command`` (a line): as an earlier image of the agent had them.
        """
        return self._of(job.command, job.run, job.controller, job.accepted, starttime, number, command)

    def begun(self, record: RunRecord) -> None:
        """Its process runs."""
        self._store.put_run(record)

    def ended(self, record: RunRecord, outcome: Outcome, cpu: float | None = None, memory: int | None = None) -> None:
        """It is over, or could not be started."""
        self._store.put_run(
            record._replace(
                ended=round(record.started + outcome.lived, 3),
                exit_code=outcome.exit_code,
                signal=outcome.signal,
                state=outcome.state,
                reason="" if outcome.has_result else storable(outcome.data[:MAX_REASON]),
                cpu=cpu,
                memory=memory or None,
            )
        )

    def never_began(self, job: Job, outcome: Outcome) -> None:
        """It ended before its first run: the number of its run is 0, and ``started`` when it ended."""
        record = self._of(job.command, 0, job.controller, job.accepted, outcome.starttime or int(time.time() * 1000))
        self.ended(record, outcome)

    def complete(self, spool: Spool, taken_over: Iterable[SuspendedJob] | None) -> None:
        """At the start, before anything runs: gives an end to the runs that have none. Raises GreenagentError.

        ``taken_over``: the jobs that the replaced image of the agent handed over; None where this is no replacement.
        """
        reason = CUT_OFF if taken_over is None else HELD_UP
        go_on = [job for job in taken_over or () if job.run is not None]
        alive, rows = {job.run.number for job in go_on if job.run is not None}, {job.row for job in taken_over or ()}
        now = round(time.time(), 3)
        cut_off = {
            (job.id, round(job.accepted, 3), job.run): job
            for job in spool.unfinished()
            if job.state == RUNNING and job.run and job.row not in rows
        }
        for record in self._store.unended_runs():
            if record.number in alive:
                continue
            if cut_off.pop((record.jobid, record.accepted, record.run), None) is None:
                ask = partial(last_result, job_id=record.jobid, accepted=record.accepted)
                known = _known_end(record, spool.database.run(ask))
                if known is not None:
                    self._store.put_run(known)
                    continue
            self._store.put_run(record._replace(ended=now, state=states.ERROR, reason=reason))
        for job in cut_off.values():
            self._complete_unwritten(job, now, reason)

    def _complete_unwritten(self, job: JobRecord, now: float, reason: str) -> None:
        """The agent was killed between a start and the writing of its beginning."""
        try:
            command = parse_command(json.loads(job.command))
        except (CommandError, ValueError):
            return  # it is said where the job is given up
        arguments = command.arguments
        if arguments.recurring_period or arguments.max_restart or arguments.must_always_run:
            return  # it may have been between two runs, which have their records
        record = self._of(command, job.run, job.controller, job.accepted, job.starttime)
        self._store.put_run(record._replace(ended=now, state=states.ERROR, reason=reason))

    def _of(
        self,
        command: Command,
        run: int,
        controller: str | None,
        accepted: float,
        starttime: int,
        number: int = 0,
        line: str = "",
    ) -> RunRecord:
        arguments = command.arguments
        return RunRecord(
            number or self._store.next_run(),
            command.id,
            run,
            controller,
            arguments.domain,
            arguments.name,
            storable(line or command_line_of(command.cmd, arguments.name, arguments.domain, arguments.args)),
            round(accepted, 3),
            starttime / 1000,
        )


def _known_end(record: RunRecord, result: dict[str, Any] | None) -> RunRecord | None:
    """The record with the end that a result tells, which was written when the record's end no more could be."""
    if result is None or result.get("starttime") != round(record.started * 1000):
        return None
    return record._replace(
        ended=round(record.started + result["time"] / 1000, 3),
        exit_code=result["exit_code"],
        signal=result["signal"],
        state=result["state"],
        reason="" if result["level"] else result["data"][:MAX_REASON],
    )
