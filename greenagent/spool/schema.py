"""What the spool's file holds. The names are those of version 0.1: its files are used as they are.

Plain SQL: nothing reads through a model, and the overlay asks sqlite for the columns anyway.
"""

from __future__ import annotations

from typing import Final

SCHEMA: Final = (
    # One accepted job; ``row`` gives the order of acceptance. ``controller`` is null for startup tasks; all stamps
    # are seconds since 1970: ``accepted`` by the wall clock (shown to people, and kept in the history), ``ended`` and
    # ``created`` by ``monotonic_epoch``, which no step of the wall clock moves while the agent lives. ``pid`` and
    # ``start_ticks`` name the process of the run number ``run``.
    "CREATE TABLE IF NOT EXISTS job (row INTEGER NOT NULL PRIMARY KEY, id TEXT NOT NULL, controller TEXT, "
    "kind TEXT NOT NULL, command TEXT NOT NULL, accepted REAL NOT NULL, state TEXT NOT NULL, run INTEGER NOT NULL, "
    "pid INTEGER, start_ticks INTEGER, starttime INTEGER NOT NULL, ended REAL)",
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
    "CREATE INDEX IF NOT EXISTS outcome_results ON outcome (controller, row) "
    "WHERE delivered IS NULL AND refused IS NULL AND path != 'stats'",
    "CREATE INDEX IF NOT EXISTS outcome_statistics ON outcome (controller, row) "
    "WHERE delivered IS NULL AND refused IS NULL AND path = 'stats'",
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

WAITS: Final = "delivered IS NULL AND refused IS NULL"
RESULT_WAITS: Final = f"{WAITS} AND path != 'stats'"
STATISTICS_WAIT: Final = f"{WAITS} AND path = 'stats'"
"""As the partial indexes have it: sqlite uses those where their very conditions stand."""
