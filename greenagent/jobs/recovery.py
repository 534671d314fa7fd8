"""What an earlier life of the agent left: cut-off jobs, jobs never started, remembered ones (design, section 3)."""

from __future__ import annotations

import json
import time
from collections.abc import Collection

from greenagent.jobs.admission import Admission
from greenagent.jobs.context import JobContext
from greenagent.jobs.job import Job, Outcome
from greenagent.spool.history import Remembered
from greenagent.spool.records import FROM_CONTROLLER, FROM_HISTORY, FROM_STARTUP, RUNNING, WAITING, JobRecord
from greenagent.values import states
from greenagent.values.command import Command, parse_command, without_queue
from greenagent.values.errors import CommandError

CUT_OFF = "cut off: the agent was stopped or killed while the job ran"
HELD_UP = "cut off: the job did not stop in time for the agent's replacement in place"


class Recovery:
    """Deals with everything unfinished, once, before the pollers start."""

    def __init__(self, context: JobContext, admission: Admission) -> None:
        self._context = context
        self._spool = context.spool
        self._admission = admission
        self._agent_log = context.agent_log

    def run(self, taken_over: Collection[int] | None = None) -> None:
        """Reports cut-off jobs and starts the others again. Orphans must have been ended before.

        ``taken_over``: the rows of jobs that the replaced image of the agent handed over, which go
        on already; None when this start is no replacement in place.
        """
        records = self._spool.unfinished()
        remembered = {entry.command.id: entry for entry in self._context.history.load()}
        for job_id, old in list(remembered.items()):
            if old.accepted and self._spool.has_ended(job_id, old.accepted):
                # Killed between its end in the spool and its leaving the history.
                self._context.history.remove(job_id)
                del remembered[job_id]
        for record in records:
            entry = remembered.pop(record.id, None) if record.kind != FROM_STARTUP else None
            if taken_over is None or record.row not in taken_over:
                self._continue(record, entry, is_replacement=taken_over is not None)
        for left in remembered.values():
            controller = left.controller or self._only_controller()
            self._enter(Job(left.command, controller, FROM_HISTORY, 0, left.accepted or time.time()))

    def _continue(self, record: JobRecord, entry: Remembered | None, is_replacement: bool) -> None:
        try:
            command = parse_command(json.loads(record.command))
        except (CommandError, ValueError) as error:
            self._agent_log.error(f"job {record.id}: its entry in the ledger cannot be read ({error}): given up")
            self._spool.end(record.row)
            return
        if record.kind == FROM_STARTUP:
            if is_replacement and record.state == WAITING:
                self._enter(Job(without_queue(command), None, FROM_STARTUP, record.row, record.accepted))
            else:
                self._spool.end(record.row)  # startup tasks run anew at every start
            return
        again = entry is not None or command.arguments.remembered
        if record.state == RUNNING and not again:
            self._report_cut_off(record, command, HELD_UP if is_replacement else CUT_OFF)
            return
        self._enter(
            Job(command, record.controller, FROM_HISTORY if again else FROM_CONTROLLER, record.row, record.accepted)
        )

    def _report_cut_off(self, record: JobRecord, command: Command, reason: str) -> None:
        self._agent_log.warning(f"job {record.id}: {reason}")
        job = Job(command, record.controller, record.kind, record.row, record.accepted)
        starttime = record.starttime or int(record.accepted * 1000)
        lived = max(0, time.time() - starttime / 1000)
        self._context.report(job, Outcome(states.ERROR, data=reason, starttime=starttime, lived=lived))

    def _enter(self, job: Job) -> None:
        if job.id in self._admission.live:
            self._agent_log.error(f"job {job.id} is not run again: a job with this id lives already")
            return
        self._admission.enter(job)

    def _only_controller(self) -> str | None:
        """An entry without a controller reports only if exactly one is configured (design, section 3)."""
        controllers = list(self._context.settings().controllers)
        return controllers[0] if len(controllers) == 1 else None
