"""What the log databases hold, declared once as peewee models; all SQL of the hot path comes from them.

The models are not used to read or write rows: that happens in native threads, and peewee keeps its
connection state per greenlet; ``Model.create`` per line would be 10 to 50 times too slow (design,
section 3).
"""

from __future__ import annotations

from typing import Any, Final

from peewee import CompositeKey, FloatField, IntegerField, Model, SqliteDatabase, TextField

from greenagent.logs.folder import TOTALS_SEQ

_NO_DATABASE = SqliteDatabase(None)


class _LastField(IntegerField):
    """A key that stands behind the seed's columns: people see the columns they know first."""

    _order: int

    def bind(self, model: Any, name: str, set_attribute: bool = True) -> None:
        self._sort_key = (3, self._order)
        super().bind(model, name, set_attribute)


class LogModel(Model):
    class Meta:
        database = _NO_DATABASE
        legacy_table_names = False


class Line(LogModel):
    """One message (protocol 6.1, then our additions).

    ``epoch`` is seconds since 1970 with milliseconds. ``marks`` holds a bit per upload pair that
    wants the line. ``seq`` orders all lines of all files and is never reused; ``id`` wraps.
    """

    id = IntegerField()
    jobid = TextField(null=True)
    domain = TextField(null=True)
    name = TextField(null=True)
    epoch = FloatField(null=True)
    level = IntegerField(null=True)
    data = TextField(null=True)
    marks = IntegerField(default=0)
    seq = _LastField(primary_key=True)


class Logs(Line):
    """What the DB logger's levels ask for, for people with any sqlite tool."""


class Outgoing(Line):
    """Lines that only a controller wants, until it has them."""


class Spans(LogModel):
    """Where a job's lines are in ``logs``: it has some between the seqs ``first`` and ``last``, both included.

    One row per batch instead of an index entry per line: a quarter of the writing time.
    """

    jobid = TextField()
    first = IntegerField()
    last = IntegerField()

    class Meta:
        primary_key = CompositeKey("jobid", "first")
        without_rowid = True


class Totals(LogModel):
    """So many lines of ``logs`` are of a level and of a job or a minute, and the epoch of the first and last of them.

    ``minute`` is when that began, in seconds since 1970; of ``jobid`` and ``minute`` one is null. Two rows may tell of
    the same job or minute: each of other lines. Made once a file has many lines (``logs.write.totals``).
    """

    jobid = TextField(null=True)
    domain = TextField(null=True)
    name = TextField(null=True)
    minute = IntegerField(null=True)
    level = IntegerField()
    lines = IntegerField()
    first = FloatField()
    last = FloatField()

    class Meta:
        primary_key = False


class OpenLines(LogModel):
    """What a stream of a job has begun and not ended, for whoever looks on (design, section 8).

    In the newest file only, one row per stream, overwritten as it grows. ``data`` is the end of ``size`` bytes.
    """

    jobid = TextField()
    stream = IntegerField()
    domain = TextField()
    name = TextField()
    epoch = FloatField()
    level = IntegerField()
    data = TextField()
    size = IntegerField()

    class Meta:
        primary_key = CompositeKey("jobid", "stream")
        without_rowid = True  # one page less in each file


class Runs(LogModel):
    """One run of a job as a process, or a start that failed: ``greenagent.logs.runs.RunRecord``.

    Written when it starts and again, whole, when it ends; where it ends in a later file, only that one has its end.
    """

    number = IntegerField(primary_key=True)
    jobid = TextField()
    run = IntegerField()
    controller = TextField(null=True)
    domain = TextField()
    name = TextField()
    command = TextField()
    accepted = FloatField()
    started = FloatField()
    ended = FloatField(null=True)
    exit_code = IntegerField(null=True)
    signal = TextField(null=True)
    state = TextField(null=True)
    reason = TextField()
    cpu = FloatField(null=True)
    memory = IntegerField(null=True)


class Meta(LogModel):
    """Numbers that go with the file: ``next_seq`` and ``last_id``, written with every batch, and ``first_seq``.

    ``pair BIT NAME`` holds the cursor that an upload pair had when this was written, ``totals_seq`` up to where
    ``totals`` tells of all lines.
    """

    key = TextField(primary_key=True)
    value = IntegerField()


def _creation(model: Any) -> list[str]:
    schema = model._schema
    statements = [schema._create_table(safe=True), *schema._create_indexes(safe=True)]
    return [statement.query()[0] for statement in statements]


def _table(model: Any) -> str:
    return str(model._meta.table_name)


def _columns(model: Any) -> list[str]:
    return [field.column_name for field in model._meta.sorted_fields]


LINE_COLUMNS: Final = tuple(_columns(Logs))
"""In the order of the table: also the order of the values of INSERT_ROW."""

FORGET_TOTALS: Final = f'DELETE FROM "{_table(Meta)}" WHERE "key" = \'{TOTALS_SEQ}\''


def _forget_totals_after(change: str) -> str:
    """A trigger: whoever changes lines, and with whatever program, leaves no sums that are wrong."""
    name = f"totals_after_{change.lower()}"
    return f'CREATE TRIGGER IF NOT EXISTS "{name}" AFTER {change} ON "{_table(Logs)}" BEGIN {FORGET_TOTALS}; END'


SCHEMA: Final = (
    *(statement for model in (Logs, Outgoing, Spans, OpenLines, Runs, Meta) for statement in _creation(model)),
    # What a start looks for after a crash, among any number of runs.
    f'CREATE INDEX IF NOT EXISTS "runs_unended" ON "{_table(Runs)}" ("number") WHERE "ended" IS NULL',
    _forget_totals_after("DELETE"),
    _forget_totals_after("UPDATE"),
)
"""Statements that create what is missing in a log database."""


def _insert_row(model: Any) -> str:
    places = ", ".join("?" for _ in LINE_COLUMNS)
    return f'INSERT INTO "{_table(model)}" VALUES ({places})'


def _insert_block(model: Any, mixed: bool) -> str:
    """One statement for a whole block, given as a JSON list of texts: sqlite makes the rows itself,
    outside the interpreter lock. ``key`` counts the list from 0; ids wrap in 32 bits. In a mixed
    block every text begins with its level and two colons."""
    values = {
        "id": "(?1 + key) & 4294967295",
        "jobid": "?2",
        "domain": "?3",
        "name": "?4",
        "epoch": "?5",
        "level": "CAST(value AS INTEGER) + ?6" if mixed else "?6",
        "data": "substr(value, instr(value, '::') + 2)" if mixed else "value",
        "marks": "?7",
        "seq": "?8 + key",
    }
    chosen = ", ".join(values[column] for column in LINE_COLUMNS)
    return f'INSERT INTO "{_table(model)}" SELECT {chosen} FROM json_each(?9)'


INSERT_ROW: Final = {True: _insert_row(Logs), False: _insert_row(Outgoing)}
"""By "belongs in logs"."""
INSERT_BLOCK: Final = {
    (keep, mixed): _insert_block(Logs if keep else Outgoing, mixed) for keep in (True, False) for mixed in (True, False)
}
"""By "belongs in logs" and "is mixed"."""
PUT_SPAN: Final = f'INSERT OR REPLACE INTO "{_table(Spans)}" ("jobid", "first", "last") VALUES (?, ?, ?)'
CREATE_TOTALS: Final = _creation(Totals)[0]
PUT_TOTALS: Final = f'INSERT INTO "{_table(Totals)}" VALUES ({", ".join("?" for _ in _columns(Totals))})'
MOVE_TOTALS_SEQ: Final = f'UPDATE "{_table(Meta)}" SET "value" = ? WHERE "key" = \'{TOTALS_SEQ}\' AND "value" = ?'
COUNT_TOTALS: Final = (
    f'SELECT count(*), coalesce(sum(CASE WHEN "jobid" IS NULL THEN 0 ELSE "lines" END), 0) FROM "{_table(Totals)}"'
)
"""How many rows there are, and of how many lines they tell."""
PUT_OPEN: Final = f'INSERT OR REPLACE INTO "{_table(OpenLines)}" VALUES (?, ?, ?, ?, ?, ?, ?, ?)'
CLOSE_OPEN: Final = f'DELETE FROM "{_table(OpenLines)}" WHERE "jobid" = ? AND "stream" = ?'
PUT_RUN: Final = f'INSERT OR REPLACE INTO "{_table(Runs)}" VALUES ({", ".join("?" for _ in _columns(Runs))})'
HAS_RUNS: Final = f'SELECT 1 FROM "{_table(Runs)}" LIMIT 1'
FORGET_RUNS: Final = f'DELETE FROM "{_table(Runs)}" WHERE "number" < ? AND "ended" < ?'
"""The number alone tells about when a run began: not every row is looked at."""
CLEAR_OPEN: Final = f'DELETE FROM "{_table(OpenLines)}"'
SET_META: Final = f'INSERT OR REPLACE INTO "{_table(Meta)}" VALUES (?, ?)'
DELETE_META: Final = f'DELETE FROM "{_table(Meta)}" WHERE "key" LIKE ?'
