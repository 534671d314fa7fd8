"""The spool's statements: functions of a connection, run in its native thread on the file or on the overlay.

The overlay's views take no RETURNING, no upsert and no default values, and give no ``lastrowid``:
rows are numbered by the caller.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from typing import Final

from greenagent.runtime.clock import monotonic_epoch
from greenagent.spool.records import ENDED, RUNNING, STATISTICS, WAITING, AsideRecord, JobRecord, Waiting
from greenagent.values.command import Command, same_json
from greenagent.values.result import PendingResult, Result

PENDING_BYTES: Final = 4 * 1024 * 1024
"""How much of the outbox is read at a time, beyond the first row."""
ROW_OVERHEAD: Final = 120
"""Bytes a row takes beside its body, about."""
STATISTICS_JOB: Final = -1

_WAITS: Final = "delivered IS NULL AND refused IS NULL"
_RESULT_WAITS: Final = f"{_WAITS} AND path != 'stats'"
_STATISTICS_WAIT: Final = f"{_WAITS} AND path = 'stats'"
"""As the partial indexes have it: sqlite uses those where their very conditions stand."""
_JOB_COLUMNS = "row, id, controller, kind, command, accepted, state, run, pid, start_ticks, starttime"


def instance(connection: sqlite3.Connection) -> str:
    """The spool's own name, made once with it; children carry it in their tag."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'instance'").fetchone()
    if row is not None:
        return str(row[0])
    # uuid4 reads os.urandom; uuid1 and getnode would start programs behind our back.
    made = uuid.uuid4().hex
    connection.execute("INSERT INTO meta (key, value) VALUES ('instance', ?)", (made,))
    return made


def last_row(connection: sqlite3.Connection) -> int:
    """The largest row number in use. One series of numbers serves all tables."""
    tables = ("job", "outcome", "aside")
    return max(int(connection.execute(f"SELECT max(row) FROM {table}").fetchone()[0] or 0) for table in tables)


# -- jobs


def command_text(command: Command) -> str:
    """A command as the spool keeps it."""
    return json.dumps(command.received, ensure_ascii=False, separators=(",", ":"))


def accept(
    connection: sqlite3.Connection,
    row: int,
    job_id: str,
    controller: str | None,
    kind: str,
    command: str,
    now: float,
    state: str,
    starttime: int = 0,
) -> None:
    """``starttime``: of the first run if that is to follow at once, else 0."""
    connection.execute(
        "INSERT INTO job (row, id, controller, kind, command, accepted, state, run, starttime) "
        "VALUES (?,?,?,?,?,?,?,?,?)",
        (row, job_id, controller, kind, command, now, state, 1 if starttime else 0, starttime),
    )


def not_begun(connection: sqlite3.Connection, row: int) -> None:
    """Takes back what ``accept`` wrote of a first run."""
    connection.execute(
        "UPDATE job SET state = ?, run = 0, starttime = 0, pid = NULL, start_ticks = NULL WHERE row = ?",
        (WAITING, row),
    )


def running(connection: sqlite3.Connection, row: int, run: int, starttime: int) -> None:
    connection.execute(
        "UPDATE job SET state = ?, run = ?, starttime = ?, pid = NULL, start_ticks = NULL WHERE row = ?",
        (RUNNING, run, starttime, row),
    )


def process(connection: sqlite3.Connection, row: int, pid: int | None, start_ticks: int | None) -> None:
    connection.execute("UPDATE job SET pid = ?, start_ticks = ? WHERE row = ?", (pid, start_ticks, row))


def end(connection: sqlite3.Connection, row: int, now: float) -> None:
    connection.execute("UPDATE job SET state = ?, ended = ?, pid = NULL WHERE row = ?", (ENDED, now, row))


def unfinished(connection: sqlite3.Connection) -> list[JobRecord]:
    rows = connection.execute(f"SELECT {_JOB_COLUMNS} FROM job WHERE state != 'ended' ORDER BY row")
    return [JobRecord(*row) for row in rows]


def ended_run(connection: sqlite3.Connection, job_id: str, accepted: float) -> bool:
    """Whether the job of that id accepted at that stamp has ended."""
    found = connection.execute(
        "SELECT 1 FROM job WHERE id = ? AND abs(accepted - ?) < 0.0005 AND state = ?", (job_id, accepted, ENDED)
    ).fetchone()
    return found is not None


# -- the outbox


def put(
    connection: sqlite3.Connection, row: int, job: int, job_id: str, controller: str, path: str, state: str, body: str
) -> None:
    """Adds a row that waits for its controller."""
    connection.execute(
        "INSERT INTO outcome (row, job, id, controller, path, state, body, created) VALUES (?,?,?,?,?,?,?,?)",
        (row, job, job_id, controller, path, state, body, monotonic_epoch()),
    )


def report(
    connection: sqlite3.Connection, row: int, job: int, controller: str, result: Result, body: str, *, ends: bool
) -> None:
    """Puts a result into the outbox; with ``ends`` its job is over."""
    put(connection, row, job, result.id, controller, "result", result.state, body)
    if job > 0:  # a recurring job's settled results would pile up for as long as it lives
        connection.execute(
            "DELETE FROM outcome WHERE job = ? AND row < ? AND coalesce(delivered, refused) IS NOT NULL", (job, row)
        )
    if ends:
        end(connection, job, monotonic_epoch())


def send_again(
    connection: sqlite3.Connection, command: Command, controller: str | None, since: float, rows: Iterator[int]
) -> bool:
    """Whether this is the command of an ended job, delivered once more: its results are sent again.

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
            f"(SELECT count(*) FROM outcome WHERE job = first.job AND body = first.body AND {_WAITS}) < 2",
            (next(rows), monotonic_epoch(), row),
        )
        connection.execute("DELETE FROM outcome WHERE row = ? AND coalesce(delivered, refused) IS NOT NULL", (row,))
    return True


_ENDED_JOBS: Final = (
    "SELECT row, command FROM job WHERE id = ? AND controller IS ? AND state = ? AND ended >= ? "
    "AND kind != 'startup' ORDER BY row DESC LIMIT "
)


def _ended_job(connection: sqlite3.Connection, command: Command, controller: str | None, since: float) -> int | None:
    """The row of the ended job that was this very command of this controller; None for any other, also of its id."""
    which = (command.id, controller, ENDED, since)
    newest = connection.execute(_ENDED_JOBS + "1", which).fetchone()
    if newest is None:
        return None
    if same_json(json.loads(newest[1]), command.received):
        return int(newest[0])
    # Of older ones the text must be the same: to parse all that an id has had would hold up every other job.
    found = connection.execute(
        f"SELECT row FROM ({_ENDED_JOBS} 100) WHERE command = ? LIMIT 1", (*which, command_text(command))
    ).fetchone()
    return None if found is None else int(found[0])


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
    total = sum(size for _, size in _statistics(connection)) if max_bytes else 0
    doomed: list[tuple[int]] = []
    if total > max_bytes:
        for row, size in sorted(_statistics(connection)):
            if total <= max_bytes:
                break
            doomed.append((row,))
            total -= size
        connection.executemany("DELETE FROM outcome WHERE row = ?", doomed)
    return len(doomed)


def _statistics(connection: sqlite3.Connection) -> Iterator[tuple[int, int]]:
    """Row and size of all that wait."""
    return connection.execute(f"SELECT row, length(body) + {ROW_OVERHEAD} FROM outcome WHERE {_STATISTICS_WAIT}")


def drop_statistics(connection: sqlite3.Connection, known: Sequence[str]) -> int:
    """Drops what waits only for controllers that statistics no longer go to; returns how many objects."""
    which = f"FROM outcome WHERE {_STATISTICS_WAIT} AND controller NOT IN ({','.join('?' * len(known))})"
    (count,) = connection.execute(f"SELECT count(*) {which}", tuple(known)).fetchone()
    if count:
        connection.execute(f"DELETE {which}", tuple(known))
    return int(count)


def pending(
    connection: sqlite3.Connection, controller: str, limit: int, after: int, path: str = "result"
) -> list[PendingResult]:
    """The oldest that a controller does not have, behind row ``after``: results and lines, or statistics."""
    waits = _STATISTICS_WAIT if path == STATISTICS else _RESULT_WAITS
    found: list[PendingResult] = []
    size = 0
    # The rows are chosen before their bodies are read: over the overlay, sqlite sorts what it has chosen.
    for row, job_id, body, kind in connection.execute(
        "SELECT row, id, body, path FROM outcome WHERE row IN "
        f"(SELECT row FROM outcome WHERE controller = ? AND {waits} AND row > ? ORDER BY row LIMIT ?) ORDER BY row",
        (controller, after, limit),
    ):
        if found and size + len(body) > PENDING_BYTES:
            break
        size += len(body)
        found.append(PendingResult(row, job_id, body.encode(), kind))
    return found


def waiting(connection: sqlite3.Connection) -> dict[str, Waiting]:
    """What waits, by controller."""
    found: dict[str, Waiting] = {}
    for controller, count in connection.execute(
        f"SELECT controller, count(*) FROM outcome WHERE {_RESULT_WAITS} GROUP BY controller"
    ):
        found[controller] = Waiting(count)
    for controller, count, size in connection.execute(
        f"SELECT controller, count(*), sum(length(body) + {ROW_OVERHEAD}) FROM outcome "
        f"WHERE {_STATISTICS_WAIT} GROUP BY controller"
    ):
        found[controller] = Waiting(found.get(controller, Waiting()).results, count, size)
    return found


def delivered(connection: sqlite3.Connection, rows: list[int], now: float) -> None:
    connection.executemany("UPDATE outcome SET delivered = ? WHERE row = ?", [(now, row) for row in rows])


def forget(connection: sqlite3.Connection, rows: list[int]) -> None:
    """Statistics that a controller has: nobody asks for them again."""
    connection.executemany("DELETE FROM outcome WHERE row = ?", [(row,) for row in rows])


# -- dead letters


def refuse(
    connection: sqlite3.Connection,
    row: int,
    status: int,
    answer_text: str,
    now: float,
    rows: Iterator[int],
    max_bytes: int,
) -> int:
    """Moves a pending body to the dead letters; returns as ``set_aside``."""
    found = connection.execute("SELECT controller, path, body FROM outcome WHERE row = ?", (row,)).fetchone()
    if found is None:
        return 0
    controller, path, body = found
    if path == STATISTICS:
        forget(connection, [row])
    else:
        connection.execute("UPDATE outcome SET refused = ? WHERE row = ?", (now, row))
    return set_aside(connection, next(rows), controller, path, body, status, answer_text, now, max_bytes)


def set_aside(
    connection: sqlite3.Connection,
    row: int,
    controller: str,
    path: str,
    body: str,
    status: int,
    answer_text: str,
    now: float,
    max_bytes: int,
) -> int:
    """Keeps a refused record; returns how many old ones had to go for the cap."""
    connection.execute(
        "INSERT INTO aside (row, controller, path, body, status, answer, stamp, due) VALUES (?,?,?,?,?,?,?,0)",
        (row, controller, path, body, status, answer_text, now),
    )
    total = connection.execute("SELECT coalesce(sum(length(body)), 0) FROM aside").fetchone()[0]
    dropped = 0
    while total > max_bytes:
        oldest, size = connection.execute("SELECT row, length(body) FROM aside ORDER BY row LIMIT 1").fetchone()
        connection.execute("DELETE FROM aside WHERE row = ?", (oldest,))
        total -= size
        dropped += 1
    return dropped


def retry_due(connection: sqlite3.Connection, rows: Iterator[int]) -> list[str]:
    """Puts records marked due back among the pending ones; returns the controllers concerned."""
    due = asides(connection, due_only=True)
    for record in due:
        job = STATISTICS_JOB if record.path == STATISTICS else 0
        put(connection, next(rows), job, f"set aside {record.row}", record.controller, record.path, "", record.body)
    connection.executemany("DELETE FROM aside WHERE row = ?", [(record.row,) for record in due])
    return sorted({record.controller for record in due})


def asides(
    connection: sqlite3.Connection, due_only: bool = False, limit: int = 1000, after: int = 0
) -> list[AsideRecord]:
    """Records set aside behind row ``after``, oldest first."""
    rows = connection.execute(
        "SELECT row, controller, path, body, status, answer, stamp, due FROM aside "
        + ("WHERE row > ? AND due = 1 " if due_only else "WHERE row > ? ")
        + "ORDER BY row LIMIT ?",
        (after, limit),
    )
    return [AsideRecord(*row) for row in rows]


# -- upkeep


def purge(connection: sqlite3.Connection, before: float, max_results: int, max_bytes: int) -> int:
    """Forgets jobs ended before a stamp, then the oldest beyond the caps; never one with a result undelivered.

    Works in slices of 1000 jobs; returns how many were forgotten, so that the caller can go on.
    """
    undelivered = f"SELECT job FROM outcome WHERE {_RESULT_WAITS}"
    rows = [
        row
        for (row,) in connection.execute(
            f"SELECT row FROM job WHERE state = ? AND ended < ? AND row NOT IN ({undelivered}) ORDER BY row LIMIT 1000",
            (ENDED, before),
        )
    ]
    if not rows:
        count, size = connection.execute(
            "SELECT count(*), coalesce(sum(length(body)), 0) FROM outcome WHERE path != 'stats'"
        ).fetchone()
        if count > max_results or size > max_bytes:
            for row, number, weight in connection.execute(
                "SELECT job.row, count(outcome.row), coalesce(sum(length(outcome.body)), 0) FROM job "
                "JOIN outcome ON outcome.job = job.row WHERE job.state = ? "
                f"AND job.row NOT IN ({undelivered}) GROUP BY job.row ORDER BY job.row LIMIT 1000",
                (ENDED,),
            ).fetchall():
                if count <= max_results and size <= max_bytes:
                    break
                rows.append(row)
                count -= number
                size -= weight
    connection.executemany("DELETE FROM outcome WHERE job = ?", [(row,) for row in rows])
    connection.executemany("DELETE FROM job WHERE row = ?", [(row,) for row in rows])
    # Answers that belong to no job (duplicates, refusals, records tried again) go once they are settled.
    connection.execute("DELETE FROM outcome WHERE job = 0 AND coalesce(delivered, refused) < ?", (before,))
    return len(rows)


def expire_removed(connection: sqlite3.Connection, known: list[str], before: float) -> int:
    """Drops results for controllers no longer configured once their memory is over; returns how many."""
    marks = ",".join("?" * len(known))
    cursor = connection.execute(
        f"UPDATE outcome SET refused = ? WHERE {_RESULT_WAITS} AND created < ? AND controller NOT IN ({marks})",
        (before, before, *known),
    )
    return cursor.rowcount
