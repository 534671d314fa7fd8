"""What an earlier life of the agent left: cut-off jobs, jobs never started, remembered ones (design, section 3)."""

from __future__ import annotations

import json
import time
from collections.abc import Collection

from greenagent.jobs.admission import Admission
from greenagent.jobs.context import JobContext
from greenagent.jobs.job import Job, Outcome
from greenagent.spool.schema import FROM_CONTROLLER, FROM_HISTORY, FROM_STARTUP, RUNNING, WAITING, JobRecord
from greenagent.values import states
from greenagent.values.command import parse_command, without_queue
from greenagent.values.errors import CommandError

CUT_OFF = "cut off: the agent was stopped or killed while the job ran"
HELD_UP = "cut off: the job did not stop in time for the agent's replacement in place"


def recover(context: JobContext, admission: Admission, taken_over: Collection[int] | None = None) -> None:
    """Reports cut-off jobs and starts the others again: once, before the pollers start, orphans having been ended.

    ``taken_over``: the rows of jobs that the replaced image of the agent handed over, which go
    on already; None when this start is no replacement in place.
    """
    records = context.spool.unfinished()
    remembered = {entry.command.id: entry for entry in context.history.load()}
    for job_id, old in list(remembered.items()):
        if old.accepted and context.spool.has_ended(job_id, old.accepted):
            # Killed between its end in the spool and its leaving the history.
            context.history.remove(job_id)
            del remembered[job_id]
    jobs = []
    for record in records:
        entry = remembered.pop(record.id, None) if record.kind != FROM_STARTUP else None
        if taken_over is None or record.row not in taken_over:
            jobs.append(_job_of(context, record, entry is not None, taken_over is not None))
    for left in remembered.values():
        controller = left.controller or _only_controller(context)
        jobs.append(Job(left.command, controller, FROM_HISTORY, 0, left.accepted or time.time()))
    for job in jobs:
        if job is not None and job.id in admission.live:
            context.agent_log.error(f"job {job.id} is not run again: a job with this id lives already")
        elif job is not None:
            admission.enter(job)


def _job_of(context: JobContext, record: JobRecord, in_history: bool, is_replacement: bool) -> Job | None:
    """The job to be run again; None for one whose end is written down here."""
    try:
        command = parse_command(json.loads(record.command))
    except (CommandError, ValueError) as error:
        context.agent_log.error(f"job {record.id}: its entry in the ledger cannot be read ({error}): given up")
        context.spool.end(record.row)
        return None
    job = Job(command, record.controller, record.kind, record.row, record.accepted)
    if record.kind == FROM_STARTUP:
        job.command = without_queue(command)
        if is_replacement and record.state == WAITING:
            return job
        context.spool.end(record.row)  # startup tasks run anew at every start
        return None
    again = in_history or command.arguments.remembered
    job.kind = FROM_HISTORY if again else FROM_CONTROLLER
    if record.state == RUNNING and not again:
        reason = HELD_UP if is_replacement else CUT_OFF
        context.agent_log.warning(f"job {record.id}: {reason}")
        starttime = record.starttime or int(record.accepted * 1000)
        lived = max(0, time.time() - starttime / 1000)
        context.report(job, Outcome(states.ERROR, reason, starttime=starttime, lived=lived))
        return None
    return job


def _only_controller(context: JobContext) -> str | None:
    """An entry without a controller reports only if exactly one is configured (design, section 3)."""
    controllers = list(context.settings().controllers)
    return controllers[0] if len(controllers) == 1 else None
