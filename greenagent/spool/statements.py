"""The spool's transactions of more than one step: functions of a connection, run in its native thread.

They work on the file or on the overlay, whose views take no RETURNING, upsert or default values and give
no ``lastrowid``: rows are numbered by the caller.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from greenagent.runtime.clock import monotonic_epoch
from greenagent.spool.schema import (
    ENDED,
    IS_RESULT,
    RESULT_WAITS,
    RESULTS,
    RUNNING,
    STATISTICS,
    STATISTICS_WAIT,
    WAITING,
    WAITS,
    DeadLetter,
    JobRecord,
    Waiting,
)
from greenagent.values.command import Command, same_json
from greenagent.values.json_shape import object_text
from greenagent.values.result import PendingBody, without_output

PENDING_BYTES: Final = 4 * 1024 * 1024
"""How much of the outbox is read at a time, beyond the first row."""
MAX_DEAD_LETTER_BYTES: Final = 64 * 1024 * 1024
ROW_OVERHEAD: Final = 120
"""Bytes a row takes beside its body, about."""
STATISTICS_JOB: Final = -1

_ENDED_JOBS: Final = (
    "SELECT row, command FROM job WHERE id = ? AND controller IS ? AND state = 'ended' AND ended >= ? "
    "AND kind != 'startup' ORDER BY row DESC LIMIT "
)

_LAST_ROW: Final = "SELECT max({})".format(
    ", ".join(f"coalesce((SELECT max(row) FROM {table}), 0)" for table in ("job", "outcome", "aside"))
)


def last_row(connection: sqlite3.Connection) -> int:
    """The largest row number in use. One series of numbers serves all tables."""
    return int(connection.execute(_LAST_ROW).fetchone()[0])


def noted_row(connection: sqlite3.Connection) -> int:
    """The largest row number that ever was in use, also of rows that are deleted, as far as ``note_row`` was told."""
    found = connection.execute("SELECT value FROM meta WHERE key = 'last_row'").fetchone()
    return int(found[0]) if found is not None else 0


def note_row(connection: sqlite3.Connection, row: int) -> None:
    """See ``noted_row``."""
    connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('last_row', ?)", (str(row),))


# -- jobs and their results


def unfinished(connection: sqlite3.Connection) -> list[JobRecord]:
    """Jobs that are waiting or running, in order of acceptance."""
    columns = ", ".join(JobRecord._fields)
    return [
        JobRecord(*row)
        for row in connection.execute(f"SELECT {columns} FROM job WHERE state != 'ended' ORDER BY row").fetchall()
    ]


def has_ended(connection: sqlite3.Connection, job_id: str, accepted: float | None) -> bool:
    """See ``Spool.has_ended``."""
    query = "SELECT 1 FROM job WHERE id = ? AND abs(accepted - ifnull(?, accepted)) < 0.0005 AND state = 'ended'"
    return connection.execute(query, (job_id, accepted)).fetchone() is not None


def add_job(connection: sqlite3.Connection, values: Sequence[Any]) -> None:
    """A new job: row, id, controller, kind, command, accepted, state, run and starttime."""
    columns = "row, id, controller, kind, command, accepted, state, run, starttime"
    connection.execute(f"INSERT INTO job ({columns}) VALUES (?,?,?,?,?,?,?,?,?)", values)


def run_begins(connection: sqlite3.Connection, row: int, run: int, starttime: int) -> None:
    """A run of a job is about to start; run 0: it waits, and none has started."""
    connection.execute(
        "UPDATE job SET state = ?, run = ?, starttime = ?, pid = NULL, start_ticks = NULL, due = NULL WHERE row = ?",
        (RUNNING if run else WAITING, run, starttime, row),
    )


def end(connection: sqlite3.Connection, row: int) -> None:
    """A job is over."""
    connection.execute("UPDATE job SET state = ?, ended = ?, pid = NULL WHERE row = ?", (ENDED, monotonic_epoch(), row))


def between_runs(connection: sqlite3.Connection, row: int, due: float) -> None:
    """The next run of a job begins at ``due``, in seconds since 1970."""
    connection.execute("UPDATE job SET due = ?, pid = NULL, start_ticks = NULL WHERE row = ?", (due, row))


def put(
    connection: sqlite3.Connection, row: int, job: int, job_id: str, controller: str, path: str, state: str, body: str
) -> None:
    """Adds a row to the outbox."""
    connection.execute(
        "INSERT INTO outcome (row, job, id, controller, path, state, body, created) VALUES (?,?,?,?,?,?,?,?)",
        (row, job, job_id, controller, path, state, body, monotonic_epoch()),
    )


def forget_earlier(connection: sqlite3.Connection, job: int, row: int) -> None:
    """A recurring job's settled results before ``row``: they would pile up for as long as it lives."""
    connection.execute(
        "DELETE FROM outcome WHERE job = ? AND row < ? AND coalesce(delivered, refused) IS NOT NULL", (job, row)
    )


def command_text(command: Command, pause: Callable[[], None] = lambda: None) -> str:
    """A command as the spool keeps it. ``pause``: as for ``object_text``."""
    return command.text or object_text(command.received, pause)


def send_again(
    connection: sqlite3.Connection, command: Command, controller: str | None, since: float, rows: Iterator[int]
) -> bool:
    """Whether this is the command of a job ended after ``since``, delivered once more: its results are sent again.

    Copies are put behind all that is pending, and the settled ones go. Always under new row numbers: what
    is on its way this moment is marked delivered when its answer comes. Of one that is pending already
    there is at most one copy.
    """
    job = _ended_job(connection, command, controller, since)
    if job is None:
        return False
    found = connection.execute("SELECT max(row) FROM outcome WHERE job = ? GROUP BY body ORDER BY 1", (job,))
    for (row,) in found.fetchall():
        connection.execute(
            "INSERT INTO outcome (row, job, id, controller, path, state, body, created) "
            "SELECT ?, job, id, controller, path, state, body, ? FROM outcome AS first WHERE row = ? AND "
            f"(SELECT count(*) FROM outcome WHERE job = first.job AND body = first.body AND {WAITS}) < 2",
            (next(rows), monotonic_epoch(), row),
        )
        connection.execute("DELETE FROM outcome WHERE row = ? AND coalesce(delivered, refused) IS NOT NULL", (row,))
    return True


def send_refused_again(connection: sqlite3.Connection, job_id: str, rows: Iterator[int]) -> str | None:
    """Sends the last result of an ended job of this id once more if it was refused; returns its controller."""
    found = connection.execute(
        "SELECT outcome.row, outcome.job, outcome.controller, path, outcome.state, body, refused "
        "FROM job JOIN outcome ON outcome.job = job.row "
        "WHERE job.id = ? AND job.state = 'ended' ORDER BY outcome.row DESC LIMIT 1",
        (job_id,),
    ).fetchone()
    if found is None:
        return None
    row, job, controller, path, state, body, refused = found
    if refused is None:
        return None
    connection.execute("DELETE FROM outcome WHERE row = ?", (row,))
    put(connection, next(rows), job, job_id, controller, path, state, body)
    return str(controller)


def last_result(connection: sqlite3.Connection, job_id: str, accepted: float) -> dict[str, Any] | None:
    """The last result of a job, by its id and accept stamp; None where it is not known (any more)."""
    found = connection.execute(
        "SELECT body FROM job JOIN outcome ON outcome.job = job.row "
        "WHERE job.id = ? AND abs(accepted - ?) < 0.001 ORDER BY outcome.row DESC LIMIT 1",
        (job_id, accepted),
    ).fetchone()
    return json.loads(found[0]) if found else None


def _ended_job(connection: sqlite3.Connection, command: Command, controller: str | None, since: float) -> int | None:
    """The row of the ended job that was this very command of this controller; None for any other, also of its id."""
    which = (command.id, controller, since)
    newest = connection.execute(_ENDED_JOBS + "1", which).fetchone()
    if newest is None:
        return None
    if same_json(json.loads(newest[1]), command.received):
        return int(newest[0])
    # Of older ones the text must be the same: to parse all that an id has had would hold up every other job.
    query = f"SELECT row FROM ({_ENDED_JOBS} 100) WHERE command IN (?, ?) LIMIT 1"
    texts = (command.text, object_text(command.received, lambda: None))
    found = connection.execute(query, (*which, *texts)).fetchone()
    return None if found is None else int(found[0])


# -- the outbox


def pending(connection: sqlite3.Connection, controller: str, limit: int, after: int, path: str) -> list[PendingBody]:
    """The oldest that a controller does not have, behind row ``after``: results and lines, or statistics."""
    waits = STATISTICS_WAIT if path == STATISTICS else RESULT_WAITS
    found: list[PendingBody] = []
    size = 0
    for row, job_id, body, kind in connection.execute(
        f"SELECT row, id, body, path FROM outcome WHERE controller = ? AND {waits} AND row > ? ORDER BY row LIMIT ?",
        (controller, after, limit),
    ):
        size += len(body)
        if found and size > PENDING_BYTES:
            break
        found.append(PendingBody(row, job_id, body.encode(), kind))
    return found


def waiting(connection: sqlite3.Connection) -> dict[str, Waiting]:
    """What waits, by controller."""
    results = connection.execute(f"SELECT controller, count(*) FROM outcome WHERE {RESULT_WAITS} GROUP BY controller")
    found = {controller: Waiting(count) for controller, count in results}
    for controller, objects, size in connection.execute(
        f"SELECT controller, count(*), sum(length(body) + {ROW_OVERHEAD}) FROM outcome "
        f"WHERE {STATISTICS_WAIT} GROUP BY controller"
    ):
        found[controller] = Waiting(found.get(controller, Waiting()).results, objects, size)
    return found


def put_statistics(
    connection: sqlite3.Connection,
    controllers: Sequence[str],
    bodies: Sequence[str],
    rows: Iterator[int],
    max_bytes: int,
) -> int:
    """A row for each body and controller; returns how many old ones went for ``max_bytes`` (0: no cap)."""
    for body in bodies:
        for controller in controllers:
            put(connection, next(rows), STATISTICS_JOB, "", controller, STATISTICS, "", body)
    size = f"length(body) + {ROW_OVERHEAD}"
    return _keep_newest(connection, "outcome", STATISTICS_WAIT, size, max_bytes) if max_bytes else 0


def drop_statistics(connection: sqlite3.Connection, known: Sequence[str]) -> int:
    """Drops what waits only for controllers that statistics no longer go to; returns how many objects."""
    which = f"FROM outcome WHERE {STATISTICS_WAIT} AND controller NOT IN ({','.join('?' * len(known))})"
    (count,) = connection.execute(f"SELECT count(*) {which}", tuple(known)).fetchone()
    if count:
        connection.execute(f"DELETE {which}", tuple(known))
    return int(count)


# -- dead letters


def make_dead_letter(
    connection: sqlite3.Connection, row: int, status: int, answer: str, rows: Iterator[int]
) -> tuple[int, bool]:
    """Makes a body of the outbox a dead letter.

    In place of a job's last result one without its output waits, since the job must end at its controller too.
    Returns as ``keep_dead_letter``, and whether there is one.
    """
    found = connection.execute("SELECT controller, path, body, job, id, state FROM outcome WHERE row = ?", (row,))
    if (outcome := found.fetchone()) is None:
        return 0, False
    controller, path, body, job, job_id, state = outcome
    is_result = path.rpartition("/")[2] == RESULTS and job > 0  # also of a former gid and nid
    shorter = without_output(body, status) if is_result else None
    is_last = not connection.execute("SELECT 1 FROM outcome WHERE job = ? AND row > ?", (job, row)).fetchone()
    waits_on = shorter is not None and is_last
    if path == STATISTICS or waits_on:
        connection.execute("DELETE FROM outcome WHERE row = ?", (row,))
    else:
        connection.execute("UPDATE outcome SET refused = ? WHERE row = ?", (monotonic_epoch(), row))
    if is_result and shorter is None:  # refused once more: the whole one is kept already
        return 0, False
    if shorter is not None and waits_on:
        put(connection, next(rows), job, job_id, controller, path, state, shorter)
    return keep_dead_letter(connection, next(rows), controller, path, body, status, answer), waits_on


def keep_dead_letter(
    connection: sqlite3.Connection,
    row: int,
    controller: str,
    path: str,
    body: str,
    status: int,
    answer: str,
    max_bytes: int = MAX_DEAD_LETTER_BYTES,
) -> int:
    """Adds a dead letter; returns how many old ones had to go for the cap."""
    connection.execute(
        "INSERT INTO aside (row, controller, path, body, status, answer, stamp, due) VALUES (?,?,?,?,?,?,?,0)",
        (row, controller, path, body, status, answer, monotonic_epoch()),
    )
    return _keep_newest(connection, "aside", "1", "length(body)", max_bytes)


def _keep_newest(connection: sqlite3.Connection, table: str, condition: str, size: str, max_bytes: int) -> int:
    """Deletes the oldest rows beyond ``max_bytes``; returns how many."""
    (total,) = connection.execute(f"SELECT coalesce(sum({size}), 0) FROM {table} WHERE {condition}").fetchone()
    if total <= max_bytes:
        return 0
    newest_first = f"SELECT row, sum({size}) OVER (ORDER BY row DESC) AS total FROM {table} WHERE {condition}"
    doomed = connection.execute(f"SELECT row FROM ({newest_first}) WHERE total > ?", (max_bytes,)).fetchall()
    connection.executemany(f"DELETE FROM {table} WHERE row = ?", doomed)
    return len(doomed)


def retry_due(connection: sqlite3.Connection, rows: Iterator[int]) -> list[str]:
    """Puts dead letters marked due back into the outbox; returns the controllers concerned."""
    due = dead_letters(connection, due_only=True)
    for record in due:
        job = STATISTICS_JOB if record.path == STATISTICS else 0
        put(connection, next(rows), job, f"set aside {record.row}", record.controller, record.path, "", record.body)
    connection.executemany("DELETE FROM aside WHERE row = ?", [(record.row,) for record in due])
    return sorted({record.controller for record in due})


def dead_letters(
    connection: sqlite3.Connection, due_only: bool = False, limit: int = 1000, after: int = 0
) -> list[DeadLetter]:
    """The dead letters behind row ``after``, oldest first."""
    rows = connection.execute(
        "SELECT row, controller, path, body, status, answer, stamp, due FROM aside WHERE row > ? "
        f"{'AND due = 1 ' if due_only else ''}ORDER BY row LIMIT ?",
        (after, limit),
    )
    return [DeadLetter(*row) for row in rows]


# -- upkeep


def purge(connection: sqlite3.Connection, before: float, max_results: int, max_bytes: int) -> int:
    """Forgets jobs ended before a stamp, then the oldest beyond the caps; never one with a result undelivered.

    Works in slices of 1000 jobs; returns how many were forgotten, so that the caller can go on.
    """
    over = f"job.state = 'ended' AND job.row NOT IN (SELECT job FROM outcome WHERE {RESULT_WAITS})"
    doomed = connection.execute(
        f"SELECT row FROM job WHERE {over} AND ended < ? ORDER BY row LIMIT 1000", (before,)
    ).fetchall()
    if not doomed:
        count, size = connection.execute(
            f"SELECT count(*), coalesce(sum(length(body)), 0) FROM outcome WHERE {IS_RESULT}"
        ).fetchone()
        if count > max_results or size > max_bytes:
            for row, number, weight in connection.execute(
                "SELECT job.row, count(outcome.row), coalesce(sum(length(outcome.body)), 0) FROM job "
                f"JOIN outcome ON outcome.job = job.row WHERE {over} GROUP BY job.row ORDER BY job.row LIMIT 1000"
            ).fetchall():
                if count <= max_results and size <= max_bytes:
                    break
                doomed.append((row,))
                count -= number
                size -= weight
    connection.executemany("DELETE FROM outcome WHERE job = ?", doomed)
    connection.executemany("DELETE FROM job WHERE row = ?", doomed)
    # Answers that belong to no job (duplicates, refusals, records tried again) go once they are settled.
    connection.execute("DELETE FROM outcome WHERE job = 0 AND coalesce(delivered, refused) < ?", (before,))
    return len(doomed)


def expire_removed(connection: sqlite3.Connection, known: Sequence[str], before: float) -> int:
    """Drops what waits for controllers no longer configured and is older than ``before``; returns how many rows.

    These are results, and dead letters of any kind but statistics that were to be tried again. They are stamped as
    settled at ``before``, not now: their memory is over already, so that the next ``purge`` forgets them.
    """
    which = f"{RESULT_WAITS} AND created < ? AND controller NOT IN ({','.join('?' * len(known))})"
    # Not ``rowcount``: through the overlay's views that is 0.
    (count,) = connection.execute(f"SELECT count(*) FROM outcome WHERE {which}", (before, *known)).fetchone()
    if count:
        connection.execute(f"UPDATE outcome SET refused = ? WHERE {which}", (before, before, *known))
    return int(count)
