"""What the spool's file holds, declared once as peewee models; the SQL of its creation comes from them.

The models are not used to read or write: that happens in a native thread, and peewee keeps its
connection state per greenlet (design, section 3).
"""

from __future__ import annotations

from typing import Any, Final

from peewee import (
    AutoField,
    FloatField,
    IntegerField,
    Model,
    SqliteDatabase,
    TextField,
)


class SpoolModel(Model):
    class Meta:
        database = SqliteDatabase(None)
        legacy_table_names = False


class Job(SpoolModel):
    """One accepted job. ``row`` gives the order of acceptance.

    ``controller`` is null for startup tasks; ``accepted`` and ``ended`` are seconds since 1970;
    ``pid`` and ``start_ticks`` name the process of the current run, with ``run`` its number.
    """

    row = AutoField()
    id = TextField(index=True)
    controller = TextField(null=True)
    kind = TextField()
    command = TextField()
    accepted = FloatField()
    state = TextField()
    run = IntegerField(default=0)
    pid = IntegerField(null=True)
    start_ticks = IntegerField(null=True)
    starttime = IntegerField(default=0)
    ended = FloatField(null=True)


class Outcome(SpoolModel):
    """One row of the outbox: a body to post, waiting while ``delivered`` and ``refused`` are null.

    ``path`` is ``result``, ``stats``, or ``log`` for a line that was set aside and is tried again; the
    bodies of the last two are lists of one. ``job`` is 0 for what belongs to no job, -1 for statistics.
    """

    row = AutoField()
    job = IntegerField(index=True)
    id = TextField()
    controller = TextField()
    path = TextField()
    state = TextField()
    body = TextField()
    created = FloatField()
    delivered = FloatField(null=True)
    refused = FloatField(null=True)


class Aside(SpoolModel):
    """A dead letter: a record that its controller refused for good, with status and answer.

    ``due`` is 1 when somebody asked to try it again.
    """

    row = AutoField()
    controller = TextField()
    path = TextField()
    body = TextField()
    status = IntegerField()
    answer = TextField()
    stamp = FloatField()
    due = IntegerField(default=0)


class Cursor(SpoolModel):
    """How far one pair of AC logger and controller has got in the log databases.

    ``seq`` is the last line that the controller has; ``removed`` is when the pair left the configuration.
    """

    name = TextField(primary_key=True)
    bit = IntegerField()
    seq = IntegerField()
    removed = FloatField(null=True)


class Meta(SpoolModel):
    """Single facts, such as the spool's instance."""

    key = TextField(primary_key=True)
    value = TextField()


MODELS: Final = (Job, Outcome, Aside, Cursor, Meta)


def _creation(model: Any) -> list[str]:
    schema = model._schema
    statements = [schema._create_table(safe=True), *schema._create_indexes(safe=True)]
    return [statement.query()[0] for statement in statements]


SCHEMA: Final[tuple[str, ...]] = (
    *(statement for model in MODELS for statement in _creation(model)),
    # Only what is not over is looked for by state, so that an ended job costs no index entry.
    'CREATE INDEX IF NOT EXISTS "job_unfinished" ON "job" ("row") WHERE state != \'ended\'',
    # One index each, so that statistics of days do not stand between a sender and its next result.
    'CREATE INDEX IF NOT EXISTS "outcome_results" ON "outcome" ("controller", "row") '
    "WHERE delivered IS NULL AND refused IS NULL AND path != 'stats'",
    'CREATE INDEX IF NOT EXISTS "outcome_statistics" ON "outcome" ("controller", "row") '
    "WHERE delivered IS NULL AND refused IS NULL AND path = 'stats'",
    'DROP INDEX IF EXISTS "outcome_waiting"',  # of version 0.1
)
