"""``greenagent-logs --jobs`` and ``--stats``: the databases in brief."""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
import time
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

from greenagent.cli.logs_text import COLOURS, level_name, visible
from greenagent.logs.folder import LogFolder
from greenagent.logs.query import EPOCH, LEVEL, LogQuery, conditions, opened_files, order_column
from greenagent.logs.reading import Unreadable, reading
from greenagent.values.levels import NAMES

MAX_ROWS: Final = 60
_STEPS: Final = (60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 604800, 2592000, 31536000)


class JobSummary(NamedTuple):
    """What the databases hold of one job; ``state`` is "" where it is not known."""

    jobid: str
    domain: str
    name: str
    lines: int
    first: float
    last: float
    state: str


def summarise_jobs(folder: LogFolder, query: LogQuery, spool: Path | None, unreadable: Unreadable) -> list[JobSummary]:
    """Every job with matching lines, the one that printed last at the end; ``unreadable`` as in logs.reading."""
    found: dict[str, JobSummary] = {}
    texts = (f"coalesce(CAST({text} AS TEXT), '')" for text in ("jobid", "max(domain)", "max(name)"))
    columns = f"{', '.join(texts)}, count(*), min({EPOCH}), max({EPOCH})"
    for jobid, domain, name, lines, first, last in _ask_all(folder, query, columns, "GROUP BY jobid", unreadable):
        job = JobSummary(jobid, domain, name, lines, first, last, "")
        known = found.get(job.jobid)
        if known is not None:
            job = job._replace(
                domain=known.domain or job.domain,
                name=known.name or job.name,
                lines=job.lines + known.lines,
                first=min(job.first, known.first),
                last=max(job.last, known.last),
            )
        found[job.jobid] = job
    states = _states(spool) if spool is not None else {}
    jobs = [job._replace(state=states.get(job.jobid, "")) for job in found.values()]
    return sorted(jobs, key=lambda job: (job.last, job.first))[-query.limit :]


def print_jobs(jobs: list[JobSummary], form: str, out: TextIO) -> None:
    """A table; ``form`` "json": one object a line, "csv": one row a line."""
    if form == "json":
        for job in jobs:
            out.write(json.dumps(job._asdict(), ensure_ascii=False) + "\n")
        return
    if form == "csv":
        csv.writer(out).writerows([JobSummary._fields, *jobs])
        return
    if not jobs:
        return
    rows = [("JOB", "DOMAIN/NAME", "LINES", "FIRST", "LAST", "STATE")]
    for job in jobs:
        label = "/".join(part for part in (job.domain, job.name) if part) or "-"
        rows.append(
            (
                visible(job.jobid),
                visible(label),
                str(job.lines),
                _local(job.first),
                _local(job.last),
                job.state or "-",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        cells = [
            cell.rjust(width) if n == 2 else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        out.write("  ".join((*cells, row[5])).rstrip() + "\n")


def count_levels(folder: LogFolder, query: LogQuery, unreadable: Unreadable) -> dict[int, dict[int, int]]:
    """Lines by minute (seconds since 1970) and level; ``unreadable`` as in logs.reading."""
    counts: dict[int, dict[int, int]] = {}
    columns = f"CAST({EPOCH} AS INTEGER) / 60 * 60, {LEVEL}, count(*)"
    for minute, level, count in _ask_all(folder, query, columns, "GROUP BY 1, 2", unreadable):
        of_minute = counts.setdefault(minute, {})
        of_minute[level] = of_minute.get(level, 0) + count
    return counts


def print_stats(counts: dict[int, dict[int, int]], form: str, colour: bool, out: TextIO) -> None:
    """A bar per minute, or per longer step where these would be too many, its parts by level.

    ``form`` "json": one object for each minute, "csv": one row for each minute and level.
    """
    if form == "json":
        for minute in sorted(counts):
            out.write(json.dumps({"minute": minute, "levels": dict(sorted(counts[minute].items()))}) + "\n")
        return
    if form == "csv":
        rows = ((minute, *count) for minute in sorted(counts) for count in sorted(counts[minute].items()))
        csv.writer(out).writerows([("minute", "level", "lines"), *rows])
        return
    if not counts:
        return
    span = max(counts) - min(counts) + 60
    step = next((step for step in _STEPS if span / step <= MAX_ROWS), _STEPS[-1])
    buckets: dict[int, dict[int, int]] = {}
    totals: dict[int, int] = {}
    for minute, by_level in counts.items():
        bucket = buckets.setdefault(minute // step * step, {})
        for level, count in by_level.items():
            bucket[level] = bucket.get(level, 0) + count
            totals[level] = totals.get(level, 0) + count
    most = max(sum(bucket.values()) for bucket in buckets.values())
    digits = len(str(most))
    width = max(10, shutil.get_terminal_size().columns - digits - 20)
    for start in sorted(buckets):
        bucket = buckets[start]
        total = sum(bucket.values())
        out.write(f"{_local(start)[:16]}  {total:>{digits}}  {_bar(bucket, width / most, colour)}\n")
    out.write(f"one bar: {_duration(step)}; lines by level:\n")
    for level, lines in sorted(totals.items()):
        mark = _paint(_mark(level), level, colour)
        out.write(f"  {mark} {level:>3} {level_name(level):<12} {lines}\n")


_MARKS: Final = dict(zip(sorted(NAMES), "*+=-oxvwzst%&@#:", strict=True))
"""Each standard level has its own: without colour nothing else tells them apart."""
_OTHER_MARKS: Final = "!?^~$acehkmnru"


def _mark(level: int) -> str:
    return _MARKS.get(level) or _OTHER_MARKS[level % len(_OTHER_MARKS)]


def _bar(bucket: dict[int, int], scale: float, colour: bool) -> str:
    """Cumulated rounding, so that the bar is as long as its total says."""
    parts, done, total = [], 0, 0
    for level, count in sorted(bucket.items()):
        total += count
        length = max(round(total * scale), 1) - done
        done += length
        parts.append(_paint(_mark(level) * length, level, colour))
    return "".join(parts)


def _paint(text: str, level: int, colour: bool) -> str:
    code = COLOURS.get(level)
    return f"\x1b[{code}m{text}\x1b[0m" if colour and code is not None and text else text


def _duration(seconds: int) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{seconds} seconds"


def _local(epoch: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(epoch))
    except (ValueError, OverflowError, OSError):
        return str(epoch)


def _ask_all(
    folder: LogFolder, query: LogQuery, columns: str, grouping: str, unreadable: Unreadable
) -> list[tuple[Any, ...]]:
    """The rows of all files, newest file first."""
    found: list[tuple[Any, ...]] = []
    with ExitStack() as stack:
        for path, opened in opened_files(folder, query, unreadable, stack):
            try:
                with nullcontext(opened) if opened is not None else reading(path) as connection:
                    if order_column(connection) is None:
                        continue
                    where, values = conditions(connection, query)
                    condition = f"WHERE {' AND '.join(where)}" if where else ""
                    statement = f"SELECT {columns} FROM logs {condition} {grouping}"
                    found += connection.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                if path.exists():
                    unreadable(path, error)
    return found


def _states(spool: Path) -> dict[str, str]:
    """The last state of every job that the ledger knows; nothing where it cannot be read."""
    states: dict[str, str] = {}
    try:
        with reading(spool) as connection, closing(connection.cursor()) as cursor:
            for table in ("job", "outcome"):
                states.update(cursor.execute(f"SELECT id, state FROM {table} ORDER BY row"))
    except sqlite3.Error:
        pass  # the log is the subject here; without the ledger the column stays empty
    return states
