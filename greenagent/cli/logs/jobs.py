"""``greenagent-logs --jobs``: what ran, when, for how long and how it ended; and what a job printed, in numbers."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

from greenagent.cli.common import (
    json_line,
    local_time,
    one_line,
    print_table,
    state_and_why,
    terminal_width,
)
from greenagent.cli.logs.text import csv_writer
from greenagent.cli.moments import duration
from greenagent.logs.folder import LogFolder, Unreadable, reading
from greenagent.logs.read.query import LogQuery
from greenagent.logs.read.runs import run_records
from greenagent.logs.read.totals import totals_of_jobs
from greenagent.logs.runs import RunRecord
from greenagent.values import states
from greenagent.values.arguments import ALWAYS
from greenagent.values.command import RESERVED_ID
from greenagent.values.text import SHORT, beginnings

KNOWN_STATES: Final = (*sorted(states.TERMINAL), states.RUNNING, states.FAILED)


class JobRow(NamedTuple):
    """A job, with its last run that was asked for; without one where no record of any is there.

    ``lines`` is how many the databases hold, ``first`` and ``last`` when they came; ``state`` is "" where it is not
    known; ``run`` is 0 for one that ended before its first. ``started`` and ``took`` are None
    for one that never ran, also where it could not be started. ``runs`` is how many runs the row stands for. ``waited``
    and ``took`` are seconds; all moments are seconds since 1970. The others as in ``RunRecord``.
    """

    jobid: str
    domain: str
    name: str
    lines: int = 0
    first: float | None = None
    last: float | None = None
    state: str = ""
    runs: int = 0
    run: int | None = None
    controller: str | None = None
    accepted: float | None = None
    started: float | None = None
    ended: float | None = None
    waited: float | None = None
    took: float | None = None
    exit_code: int | None = None
    signal: str | None = None
    reason: str = ""
    cpu: float | None = None
    memory: int | None = None
    command: str = ""
    kind: str = ""
    """"service" or "recurring" for a job that goes on and is one, as far as the ledger tells."""

    @property
    def start(self) -> float:
        """When its run began, or at least its output; of one that never ran its end."""
        return self.started if self.started is not None else self.first or self.ended or 0.0

    @property
    def exit(self) -> str:
        """The exit code, or the name of the signal."""
        return "" if self.exit_code is None and not self.signal else str(self.signal or self.exit_code)


SORTS: Final[dict[str, Callable[[JobRow], Any]]] = {
    "start": lambda row: (row.start, row.last or 0.0),
    "end": lambda row: row.ended or row.last or 0.0,
    "waited": lambda row: row.waited or 0.0,
    "took": lambda row: row.took or 0.0,
    "exit": lambda row: (row.exit_code is None and not row.signal, row.signal or "", row.exit_code or 0),
    "lines": lambda row: row.lines,
    "cpu": lambda row: row.cpu or 0.0,
    "memory": lambda row: row.memory or 0,
    "job": lambda row: row.jobid,
    "command": lambda row: row.command,
}


class JobQuestion(NamedTuple):
    """Which jobs: those that match ``query``, whose times are those of the start here.

    ``states`` as read by ``read_states``, empty for all; ``command``: an expression for the command line. ``each``:
    every run in a row of its own.
    """

    query: LogQuery
    states: frozenset[str] = frozenset()
    command: str = ""
    sort: str = "start"
    each: bool = False

    def takes_state(self, state: str) -> bool:
        return not self.states or state.upper() in self.states

    def takes(self, record: RunRecord) -> bool:
        """Whether a run is one of those."""
        query = self.query
        return (
            query.jobid in (None, record.jobid)
            and query.domain in (None, record.domain)
            and query.name in (None, record.name)
            and (query.time_from is None or record.started >= query.time_from)
            and (query.time_to is None or record.started < int(query.time_to) + 1)
            and self.takes_state(record.state or states.RUNNING)
            and (not self.command or re.search(self.command, record.command) is not None)
        )


def read_states(text: str) -> frozenset[str]:
    """An option's list of states: ``error,timeout``, or ``failed``."""
    return states.read_states(text, KNOWN_STATES)


def find_jobs(folder: LogFolder, asked: JobQuestion, spool: Path | None, unreadable: Unreadable) -> list[JobRow]:
    """The rows in the order asked for, of which the last ones where there is a limit; ``unreadable``: see logs.folder.

    Jobs of which there is no record (of earlier versions, built-ins, the agent itself) are found by their lines.
    """
    query = asked.query
    # Whatever began behind ``time_from`` printed behind it; when it ended, ``time_to`` does not say.
    printed = _lines(folder, query._replace(time_to=None), unreadable)
    last: dict[object, tuple[RunRecord, int]] = {}
    recorded: set[str] = set()

    def take(record: RunRecord) -> bool:
        recorded.add(record.jobid)
        return asked.takes(record)

    for record in run_records(folder, unreadable, query.time_from, take):
        key = record.number if asked.each else record.jobid
        last[key] = record, last[key][1] + 1 if key in last else 1
    chosen = list(last.values())
    if query.levels is not None or query.regex or query.text:
        chosen = [one for one in chosen if one[0].jobid in printed]
    if asked.sort == "start" and query.limit:  # there may be very many of them
        chosen = sorted(chosen, key=lambda one: one[0].started)[-query.limit :]
    rows = [_row(record, printed.get(record.jobid) or JobRow(record.jobid, "", ""), runs) for record, runs in chosen]
    if not asked.command:
        known = ledger_states(spool) if spool is not None else {}
        left = printed.keys() - recorded
        if left - {RESERVED_ID} and query.time_from is not None:  # those that ran before have a start that is told
            left -= {record.jobid for record in run_records(folder, unreadable, None, lambda one: one.jobid in left)}
        for jobid in left:
            row = printed[jobid]._replace(state=known.get(jobid, ""))
            began_later = query.time_to is not None and row.start >= int(query.time_to) + 1
            if asked.takes_state(row.state) and not began_later:
                rows.append(row)
    rows = sorted(rows, key=SORTS[asked.sort])[-query.limit :]
    kinds = _kinds(spool) if spool is not None else {}
    return [row._replace(kind=kinds[row.jobid]) if row.jobid in kinds else row for row in rows]


def _row(record: RunRecord, lines: JobRow, runs: int) -> JobRow:
    return lines._replace(
        domain=record.domain,
        name=record.name,
        state=record.state or states.RUNNING,
        runs=runs,
        run=record.run,
        controller=record.controller,
        accepted=record.accepted,
        started=record.started if record.has_run else None,
        ended=record.ended,
        waited=round(max(0.0, record.started - record.accepted), 3) if record.run <= 1 else None,
        took=None if record.ended is None or not record.has_run else round(max(0.0, record.ended - record.started), 3),
        exit_code=record.exit_code,
        signal=record.signal,
        reason=record.reason,
        cpu=record.cpu,
        memory=record.memory,
        command=record.command,
    )


def _lines(folder: LogFolder, query: LogQuery, unreadable: Unreadable) -> dict[str, JobRow]:
    """Every job with matching lines."""
    found: dict[str, JobRow] = {}
    for row in totals_of_jobs(folder, query, unreadable):
        job = JobRow(*row)
        if (known := found.get(job.jobid)) is not None:
            job = JobRow(
                job.jobid,
                known.domain or job.domain,
                known.name or job.name,
                known.lines + job.lines,
                min(known.first or 0.0, job.first or 0.0),
                max(known.last or 0.0, job.last or 0.0),
            )
        found[job.jobid] = job
    return found


def ledger_states(spool: Path) -> dict[str, str]:
    """The last state of every job that the ledger knows; nothing where it cannot be read."""
    found: dict[str, str] = {}
    try:
        with reading(spool) as connection, closing(connection.cursor()) as cursor:
            for table in ("job", "outcome"):
                found.update(cursor.execute(f"SELECT id, state FROM {table} ORDER BY row"))
    except sqlite3.Error:
        pass  # the log is the subject here; without the ledger the column stays empty
    return found


def _kinds(spool: Path) -> dict[str, str]:
    """Of the jobs that go on: which are services, and which recur."""
    period, restart = (f"json_extract(command, '$.args.{name}')" for name in ("recurring_period", "restart"))
    recurs = f"typeof({period}) IN ('integer', 'real') AND {period} > 0"
    asked = f"SELECT id, {restart} FROM job WHERE state != 'ended' AND ({restart} = ? OR {recurs}) ORDER BY row"
    try:
        with reading(spool) as connection, closing(connection.cursor()) as cursor:
            return {
                jobid: "service" if found == ALWAYS else "recurring" for jobid, found in cursor.execute(asked, [ALWAYS])
            }
    except sqlite3.Error:
        return {}  # as for the states


def how_it_ran(folder: LogFolder, spool: Path | None, jobid: str) -> str:
    """In words, of a job that printed nothing. Raises GreenagentError."""
    records = run_records(folder, wanted=lambda record: record.jobid == jobid)
    if not records:
        state = ledger_states(spool).get(jobid) if spool is not None else None
        return f"the ledger says {state}" if state else "nothing tells how it ran"
    ran = [record for record in records if record.has_run]
    row = _row((ran or records)[-1], JobRow(jobid, "", ""), 1)
    if not ran:
        return f"it never ran, {_ending(row)}: {row.command}"
    if row.ended is None:
        return f"it runs since {local_time(row.start)}: {row.command}"
    often = f"{len(ran)} times, last " if len(ran) > 1 else ""
    return f"it ran {often}{local_time(row.start)} for {duration(row.took)}, {_ending(row)}: {row.command}"


def how_it_ended(record: RunRecord) -> str:
    """In words, of a run that has."""
    row = _row(record, JobRow(record.jobid, "", ""), 1)
    which = f"run {record.run} of job" if record.run > 1 else "job"
    took = f" after {duration(row.took)}" if record.has_run else ""
    return f"{which} {record.jobid} ended {local_time(record.ended or 0)}{took}, {_ending(row)}"


def _ending(row: JobRow) -> str:
    if row.exit:
        return f"exit {row.exit} ({row.state})"
    return f"{row.state} ({row.reason})" if row.reason else row.state


def print_jobs(
    rows: list[JobRow], form: str, out: TextIO, raw: bool = False, known: Callable[[], Iterable[str]] = tuple
) -> None:
    """A table; ``form`` "json": one object a line, "csv": one row a line, with ``raw`` as it is.

    ``known``: the ids from which a shortened one is to be told apart.
    """
    if form == "json":
        out.writelines(json_line(row._asdict()) + "\n" for row in rows)
    elif form == "csv":
        csv_writer(out, raw)([JobRow._fields, *rows])
    elif rows:
        heads = ("JOB", "DOMAIN/NAME", "LINES", "START", "WAITED", "TOOK", "EXIT", "STATE", "RUN", "COMMAND")
        width = terminal_width(out)
        short = beginnings((row.jobid for row in rows), known(), SHORT) if width else {}
        print_table(heads, map(_cells, rows), out, 2, width, [short[row.jobid] for row in rows] if short else ())


def _cells(row: JobRow) -> tuple[str, ...]:
    return (
        row.jobid,
        "/".join(part for part in (row.domain, row.name) if part) or "-",
        str(row.lines),
        local_time(row.start) if row.start and (row.run is None or row.started is not None) else "-",
        duration(row.waited),
        duration(row.took),
        row.exit or "-",
        state_and_why(row.state, row.reason, row.exit, row.kind) or "-",
        str(row.run or "-"),
        one_line(row.command) or "-",
    )
