"""What the log databases tell of runs."""

from __future__ import annotations

from pathlib import Path

from greenagent.logs.folder import LogFolder
from greenagent.logs.read.runs import run_records
from greenagent.logs.runs import RunRecord
from tests.support.waiting import wait_until


def runs_of(folder: Path, job_id: str) -> list[RunRecord]:
    """The records of a job in a folder of log databases, oldest first."""
    return run_records(LogFolder(folder), wanted=lambda record: record.jobid == job_id)


def wait_for_run(folder: Path, job_id: str, *, ended: bool = True, run: int = 1) -> RunRecord:
    """The record of one run, once it is there and (not) ended."""

    def found() -> list[RunRecord]:
        return [one for one in runs_of(folder, job_id) if one.run == run and (one.ended is not None) == ended]

    wait_until(found, what=f"the record of run {run} of {job_id}")
    return found()[-1]
