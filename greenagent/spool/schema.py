"""What the spool's file holds, and the rows it hands out. The names are those of version 0.1: its files are used.

Plain SQL: nothing reads through a model, and the overlay asks sqlite for the columns anyway.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from greenagent.values.command import Command

WAITING: Final = "waiting"
"""Accepted, never started: it is run at the agent's next start."""
RUNNING: Final = "running"
"""Started at least once; sleeping between runs counts as running."""
ENDED: Final = "ended"

FROM_CONTROLLER: Final = "controller"
FROM_HISTORY: Final = "history"
FROM_STARTUP: Final = "startup"

RESULTS: Final = "result"
STATISTICS: Final = "stats"
"""The two queues of the outbox, each emptied by an uploader of its own; a row's ``path`` says where it is posted.

What is posted anywhere else (a log line that is tried again) waits among the results.
"""
IS_RESULT: Final = f"path != '{STATISTICS}'"
WAITS: Final = "delivered IS NULL AND refused IS NULL"
RESULT_WAITS: Final = f"{WAITS} AND {IS_RESULT}"
STATISTICS_WAIT: Final = f"{WAITS} AND path = '{STATISTICS}'"
"""As the partial indexes have it: sqlite uses those where their very conditions stand."""

SCHEMA: Final = (
    # One accepted job; ``row`` gives the order of acceptance. ``controller`` is null for startup tasks; all stamps
    # are seconds since 1970: ``accepted`` by the wall clock (shown to people, and kept in the history), ``ended`` and
    # ``created`` by ``monotonic_epoch``, which no step of the wall clock moves while the agent lives. ``pid`` and
    # ``start_ticks`` name the process of the run number ``run``. ``due``, by the wall clock, is when the next run of a
    # recurring job begins: only between its runs.
    "CREATE TABLE IF NOT EXISTS job (row INTEGER NOT NULL PRIMARY KEY, id TEXT NOT NULL, controller TEXT, "
    "kind TEXT NOT NULL, command TEXT NOT NULL, accepted REAL NOT NULL, state TEXT NOT NULL, run INTEGER NOT NULL, "
    "pid INTEGER, start_ticks INTEGER, starttime INTEGER NOT NULL, ended REAL, due REAL)",
    "CREATE INDEX IF NOT EXISTS job_id ON job (id)",
    # Only what is not over is looked for by state, so that an ended job costs no index entry.
    "CREATE INDEX IF NOT EXISTS job_unfinished ON job (row) WHERE state != 'ended'",
    # The outbox: bodies to post, waiting while ``delivered`` and ``refused`` are null. ``path`` is result, stats, or,
    # for a dead letter that is tried again, log; the bodies of the last two are lists of one. ``job`` is 0 for what
    # belongs to no job, -1 for statistics.
    "CREATE TABLE IF NOT EXISTS outcome (row INTEGER NOT NULL PRIMARY KEY, job INTEGER NOT NULL, id TEXT NOT NULL, "
    "controller TEXT NOT NULL, path TEXT NOT NULL, state TEXT NOT NULL, body TEXT NOT NULL, created REAL NOT NULL, "
    "delivered REAL, refused REAL)",
    "CREATE INDEX IF NOT EXISTS outcome_job ON outcome (job)",
    # One index each, so that statistics of days do not stand between an uploader and its next result.
    f"CREATE INDEX IF NOT EXISTS outcome_results ON outcome (controller, row) WHERE {RESULT_WAITS}",
    f"CREATE INDEX IF NOT EXISTS outcome_statistics ON outcome (controller, row) WHERE {STATISTICS_WAIT}",
    "DROP INDEX IF EXISTS outcome_waiting",  # of version 0.1
    # Dead letters: what a controller refused for good; ``greenagent-logs outbox`` lists these, not the outbox.
    # ``due`` is 1 when somebody asked to try it again.
    "CREATE TABLE IF NOT EXISTS aside (row INTEGER NOT NULL PRIMARY KEY, controller TEXT NOT NULL, path TEXT NOT NULL, "
    "body TEXT NOT NULL, status INTEGER NOT NULL, answer TEXT NOT NULL, stamp REAL NOT NULL, due INTEGER NOT NULL)",
    # How far a pair of AC logger and controller has got in the log databases: ``seq`` is the last line that the
    # controller has, ``removed`` is when the pair left the configuration.
    "CREATE TABLE IF NOT EXISTS cursor (name TEXT NOT NULL PRIMARY KEY, bit INTEGER NOT NULL, seq INTEGER NOT NULL, "
    "removed REAL)",
    # Single facts, such as the spool's instance.
    "CREATE TABLE IF NOT EXISTS meta (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)",
)


class NewJob(NamedTuple):
    """A job that is to be written down before anything is done about it."""

    command: Command
    controller: str | None
    kind: str
    waiting: bool
    """It needs a slot, and is WAITING until ``Spool.running`` is called for it. False for built-ins: they are RUNNING
    at once, never wait, and are reported as cut off after a crash."""
    accepted: float | None = None
    """The stamp of its acceptance in seconds since 1970, where it has one already (in the history); None for now."""
    begins: bool = False
    """Its first run is to follow at once, so ``Spool.running`` need not be called for it; if it does not follow after
    all, ``Spool.not_begun`` must be."""
    reruns: bool = False
    """A command equal to one that has ended is run again."""


class JobRecord(NamedTuple):
    """One job as the spool knows it (columns of table ``job``)."""

    row: int
    id: str
    controller: str | None
    kind: str
    command: str
    accepted: float
    state: str
    run: int
    pid: int | None
    start_ticks: int | None
    starttime: int
    due: float | None = None


class DeadLetter(NamedTuple):
    """What a controller refused for good (a row of table ``aside``)."""

    row: int
    controller: str
    path: str
    body: str
    status: int
    answer: str
    stamp: float
    due: int


class Waiting(NamedTuple):
    """What one controller does not have yet."""

    results: int = 0
    statistics: int = 0
    """Objects."""
    statistics_bytes: int = 0
