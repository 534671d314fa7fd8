"""Jobs as rows of the state file, and how many results of one are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

from greenagent.controller.model import Assignment, Job, Result, end_of
from greenagent.controller.state.state_file import Statement, away_row

MAX_EARLIER: Final = 4 * 1024 * 1024
"""Bytes of results of one agent for one job beside the newest."""


def that_fit(results: list[Result], most: int) -> int:
    """How many of the newest results are kept beside a further one."""
    left = MAX_EARLIER
    for number, result in enumerate(reversed(results)):
        left -= result.size
        if left < 0 or number == most:
            return number
    return len(results)


def result_of(assignment: Assignment, result: dict[str, Any], text: str) -> Result:
    """A result from the state file."""
    job = assignment.job
    key = assignment.agent or job.target.key
    found = Result(job.id, key, result["state"], result["starttime"], text, result.get("delivered", True))
    return found._replace(time=result.get("time") or 0, **end_of(result))


def rows_of(job: Job) -> Iterator[Statement]:
    """Stamps in the state file are the wall clock's: the monotonic one ends with the process."""
    times = (job.created, job.stamp(job.wait_until), job.stamp(job.finished))
    values = (job.seq, job.id, job.command, *times, job.adopted)
    yield "INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?)", values
    if job.away:
        yield away_row(job.seq, job.away)
    for assignment in job.assignments:
        yield row_of(assignment)
        first = assignment.received - len(assignment.results) + 1
        for serial, result in enumerate(assignment.results, first):
            yield from result_rows(assignment, result, serial, serial)


def row_of(assignment: Assignment) -> Statement:
    agent = assignment.agent or (None, None)
    values = (assignment.job.seq, assignment.number, *agent, assignment.unassigned, assignment.state, assignment.token)
    delivered = assignment.job.stamp(assignment.delivered)
    return (
        "INSERT OR REPLACE INTO assignments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*values, assignment.deliveries, delivered, assignment.received),
    )


def changed_row(assignment: Assignment, changes: dict[str, Any]) -> Iterator[Statement]:
    """The row of an assignment with changes. Not even begun where there is no state file."""
    yield row_of(replace(assignment, **changes))


def finished_row(job: Job, finished: float) -> Statement:
    return ("UPDATE jobs SET finished = ? WHERE seq = ?", (job.stamp(finished), job.seq))


def result_rows(assignment: Assignment, result: Result, serial: int, keep: int) -> Iterable[Statement]:
    """A new result, and the removal of those no longer kept. Not even begun where there is no state file."""
    place = (assignment.job.seq, assignment.number)
    yield "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)", (*place, serial, result.text)
    yield "DELETE FROM results WHERE job = ? AND number = ? AND serial <= ?", (*place, serial - keep)


def removal_rows(job: Job) -> list[Statement]:
    return [
        (f"DELETE FROM {table} WHERE {column} = ?", (job.seq,))
        for table, column in (("results", "job"), ("assignments", "job"), ("away", "job"), ("jobs", "seq"))
    ]
