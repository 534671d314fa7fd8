"""The ledger's transactions: functions of a connection, run in the ledger's native thread."""

from __future__ import annotations

import sqlite3
import uuid

from greenagent.spool.records import (
    ENDED,
    RUNNING,
    WAITING,
    AsideRecord,
    JobRecord,
    StoredAnswer,
)
from greenagent.values.result import PendingResult

PENDING_BYTES = 4 * 1024 * 1024
"""How much of the outbox is read at a time, beyond the first result."""

_JOB_COLUMNS = "row, id, controller, kind, command, accepted, state, run, pid, start_ticks, starttime"


def instance(connection: sqlite3.Connection) -> str:
    """The ledger's own name, made once with it; children carry it in their tag."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'instance'").fetchone()
    if row is not None:
        return str(row[0])
    # uuid4 reads os.urandom; uuid1 and getnode would start programs behind our back.
    made = uuid.uuid4().hex
    connection.execute("INSERT INTO meta (key, value) VALUES ('instance', ?)", (made,))
    return made


def write_nothing(connection: sqlite3.Connection) -> None:
    """Writes what is there already: shows whether the disk takes a transaction."""
    connection.execute("UPDATE meta SET value = value WHERE key = 'instance'")


def accept(
    connection: sqlite3.Connection,
    job_id: str,
    controller: str | None,
    kind: str,
    command: str,
    now: float,
    state: str,
    starttime: int = 0,
) -> int:
    """``starttime``: of the first run if that is to follow at once, else 0."""
    cursor = connection.execute(
        "INSERT INTO job (id, controller, kind, command, accepted, state, run, starttime) VALUES (?,?,?,?,?,?,?,?)",
        (job_id, controller, kind, command, now, state, 1 if starttime else 0, starttime),
    )
    return int(cursor.lastrowid or 0)


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


def report(
    connection: sqlite3.Connection, job: int, job_id: str, controller: str, state: str, body: str, now: float
) -> int:
    cursor = connection.execute(
        "INSERT INTO outcome (job, id, controller, path, state, body, created) VALUES (?,?,?,'result',?,?,?)",
        (job, job_id, controller, state, body, now),
    )
    return int(cursor.lastrowid or 0)


def forget_earlier(connection: sqlite3.Connection, job: int, row: int) -> None:
    """A recurring job's settled results before ``row``: else they would pile up for as long as it lives."""
    connection.execute(
        "DELETE FROM outcome WHERE job = ? AND row < ? AND coalesce(delivered, refused) IS NOT NULL", (job, row)
    )


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


def command(connection: sqlite3.Connection, row: int) -> str | None:
    """A job's command, as JSON text."""
    found = connection.execute("SELECT command FROM job WHERE row = ?", (row,)).fetchone()
    return None if found is None else str(found[0])


_ENDED_JOBS = (
    "SELECT row, command FROM job WHERE id = ? AND controller IS ? AND state = ? AND ended >= ? "
    "AND kind != 'startup' ORDER BY row DESC LIMIT "
)


def answer(connection: sqlite3.Connection, job_id: str, controller: str | None, since: float) -> StoredAnswer | None:
    """The newest ended job of an id and a controller within the result memory, or None."""
    found = connection.execute(_ENDED_JOBS + "1", (job_id, controller, ENDED, since)).fetchone()
    return None if found is None else StoredAnswer(*found)


def answer_to(
    connection: sqlite3.Connection, text: str, job_id: str, controller: str | None, since: float
) -> int | None:
    """The row of the newest of them whose command has this very text, among the newest 100."""
    found = connection.execute(
        f"SELECT row FROM ({_ENDED_JOBS} 100) WHERE command = ? LIMIT 1", (job_id, controller, ENDED, since, text)
    ).fetchone()
    return None if found is None else int(found[0])


def results(connection: sqlite3.Connection, job: int) -> list[int]:
    """The rows of a job's results, copies left out."""
    found = connection.execute("SELECT max(row) FROM outcome WHERE job = ? GROUP BY body ORDER BY 1", (job,))
    return [row for (row,) in found]


def send_again(connection: sqlite3.Connection, rows: list[int], now: float) -> None:
    """Puts copies of results behind all that is pending, and lets the settled ones go.

    Always under new row numbers: what is on its way this moment is marked delivered when its answer
    comes, and a sender takes a number it has seen accepted for one that it need not send. Of one
    that is pending already there is at most one copy.
    """
    for row in rows:
        connection.execute(
            "INSERT INTO outcome (job, id, controller, path, state, body, created) "
            "SELECT job, id, controller, path, state, body, ? FROM outcome AS first WHERE row = ? AND "
            "(SELECT count(*) FROM outcome WHERE job = first.job AND body = first.body "
            "AND delivered IS NULL AND refused IS NULL) < 2",
            (now, row),
        )
        connection.execute("DELETE FROM outcome WHERE row = ? AND coalesce(delivered, refused) IS NOT NULL", (row,))


def pending(connection: sqlite3.Connection, controller: str, limit: int, after: int) -> list[PendingResult]:
    found: list[PendingResult] = []
    size = 0
    for row, job_id, body, path in connection.execute(
        "SELECT row, id, body, path FROM outcome WHERE controller = ? AND delivered IS NULL AND refused IS NULL "
        "AND row > ? ORDER BY row LIMIT ?",
        (controller, after, limit),
    ):
        if found and size + len(body) > PENDING_BYTES:
            break
        size += len(body)
        found.append(PendingResult(row, job_id, body.encode(), path))
    return found


def waiting_results(connection: sqlite3.Connection) -> dict[str, int]:
    rows = connection.execute(
        "SELECT controller, count(*) FROM outcome WHERE delivered IS NULL AND refused IS NULL GROUP BY controller"
    )
    return dict(rows.fetchall())


def delivered(connection: sqlite3.Connection, rows: list[int], now: float) -> None:
    connection.executemany("UPDATE outcome SET delivered = ? WHERE row = ?", [(now, row) for row in rows])


def refuse(connection: sqlite3.Connection, row: int, status: int, answer_text: str, now: float, max_bytes: int) -> int:
    """Moves a pending body to the set-aside records; returns as ``set_aside``."""
    found = connection.execute("SELECT controller, path, body FROM outcome WHERE row = ?", (row,)).fetchone()
    if found is None:
        return 0
    connection.execute("UPDATE outcome SET refused = ? WHERE row = ?", (now, row))
    controller, path, body = found
    return set_aside(connection, controller, path, body, status, answer_text, now, max_bytes)


def set_aside(
    connection: sqlite3.Connection,
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
        "INSERT INTO aside (controller, path, body, status, answer, stamp, due) VALUES (?,?,?,?,?,?,0)",
        (controller, path, body, status, answer_text, now),
    )
    total = connection.execute("SELECT coalesce(sum(length(body)), 0) FROM aside").fetchone()[0]
    dropped = 0
    while total > max_bytes:
        row, size = connection.execute("SELECT row, length(body) FROM aside ORDER BY row LIMIT 1").fetchone()
        connection.execute("DELETE FROM aside WHERE row = ?", (row,))
        total -= size
        dropped += 1
    return dropped


def retry_due(connection: sqlite3.Connection, now: float) -> list[str]:
    """Puts records marked due back among the pending ones; returns the controllers concerned."""
    due = asides(connection, due_only=True)
    for record in due:
        connection.execute(
            "INSERT INTO outcome (job, id, controller, path, state, body, created) VALUES (0,?,?,?,'',?,?)",
            (f"set aside {record.row}", record.controller, record.path, record.body, now),
        )
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


def purge(connection: sqlite3.Connection, before: float, max_results: int, max_bytes: int) -> int:
    """Forgets jobs ended before a stamp, then the oldest beyond the caps; never one with a result undelivered.

    Works in slices of 1000 jobs; returns how many were forgotten, so that the caller can go on.
    """
    undelivered = "SELECT job FROM outcome WHERE delivered IS NULL AND refused IS NULL"
    rows = [
        row
        for (row,) in connection.execute(
            f"SELECT row FROM job WHERE state = ? AND ended < ? AND row NOT IN ({undelivered}) ORDER BY row LIMIT 1000",
            (ENDED, before),
        )
    ]
    if not rows:
        count, size = connection.execute("SELECT count(*), coalesce(sum(length(body)), 0) FROM outcome").fetchone()
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
    connection.execute("DELETE FROM outcome WHERE job <= 0 AND coalesce(delivered, refused) < ?", (before,))
    return len(rows)


def expire_removed(connection: sqlite3.Connection, known: list[str], before: float) -> int:
    """Drops results for controllers no longer configured once their memory is over; returns how many."""
    marks = ",".join("?" * len(known))
    cursor = connection.execute(
        "UPDATE outcome SET refused = ? WHERE delivered IS NULL AND refused IS NULL AND created < ? "
        f"AND controller NOT IN ({marks})",
        (before, before, *known),
    )
    return cursor.rowcount
