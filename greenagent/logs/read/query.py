"""Questions to all log databases at once, newest first (protocol 6.2). For the agent and the reading tool alike.

Plain sqlite, no gevent: it runs in native threads of the agent and in ``greenagent-logs``.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice, starmap
from typing import Any, Final, NamedTuple, TypeVar

from greenagent.logs.folder import LogFolder, Unreadable, reading, refuse_unreadable
from greenagent.values.errors import GreenagentError
from greenagent.values.levels import LevelSet
from greenagent.values.message import Record

Item = TypeVar("Item")

_MANY_RANGES: Final = 50
_LAST_EPOCH: Final = 1 << 53
"""A number beyond is no time: its milliseconds would be no number that JSON readers understand."""
EPOCH: Final = (
    "CASE WHEN typeof(epoch) IN ('integer', 'real') "
    f"AND epoch BETWEEN -{_LAST_EPOCH} AND {_LAST_EPOCH} THEN epoch ELSE 0 END"
)
LEVEL: Final = "CASE typeof(level) WHEN 'integer' THEN level ELSE 0 END"
_ID: Final = "CASE typeof(id) WHEN 'integer' THEN id ELSE 0 END"
_TEXT: Final = "CAST(coalesce({}, '') AS TEXT)".format
RECORD: Final = ", ".join(
    (_ID, *map(_TEXT, ("jobid", "domain", "name")), f"CAST({EPOCH} AS REAL)", LEVEL, _TEXT("data"))
)
"""SQL for the columns as a ``Record`` has them behind its ``seq``, whatever an older version or another program left
out or put in: sqlite sees to that in a tenth of the time."""


_UNCLEAR: Final = re.compile(r"[|(){}\ud800-\udfff]|\\[xuUN0-9]")
"""Parts that may be left out, flags, what sqlite knows no text for, and escapes of several characters."""
_PARTS: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
"""Of a regular expression without groups: an escape, a set of characters, or one character."""


class LogQuery(NamedTuple):
    """What is asked; None and "" ask for nothing in particular.

    ``time_from`` and ``time_to`` are seconds since 1970 and include their whole second. ``text`` is
    looked for as it is, ``regex`` as a regular expression. ``limit`` 0 means all.
    """

    jobid: str | None = None
    domain: str | None = None
    name: str | None = None
    levels: LevelSet | None = None
    time_from: float | None = None
    time_to: float | None = None
    text: str = ""
    regex: str = ""
    limit: int = 1000


def newest_first(
    folder: LogFolder, query: LogQuery, unreadable: Unreadable = refuse_unreadable
) -> Generator[Record, None, None]:
    """Matching lines of all databases, newest first.

    A file that has no table yet, or vanished, holds nothing. Raises GreenagentError naming a file that cannot be
    read, unless ``unreadable`` takes note of it and returns, and for a bad regular expression.
    """
    found = 0

    def ask_one(connection: sqlite3.Connection) -> Iterator[Record]:
        return ask(connection, query, query.limit and query.limit - found)

    for record in ask_all(folder, query, ask_one, unreadable):
        yield record
        found += 1
        if found == query.limit:
            return


def ask_all(
    folder: LogFolder,
    query: LogQuery,
    ask_one: Callable[[sqlite3.Connection], Iterable[Item]],
    unreadable: Unreadable = refuse_unreadable,
) -> Iterator[Item]:
    """What ``ask_one`` finds in each database that may hold lines of the time asked for, the newest first.

    It sees one snapshot of each; the newest comes first, so that no line is in two of them.
    """
    since = int(query.time_from) if query.time_from is not None else None
    paths = folder.databases(since)
    while paths:
        path = paths.pop()
        try:
            with reading(path) as connection:
                connection.execute("BEGIN")
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                if path == folder.current and folder.databases(since)[:-1] != paths:
                    # The original agent has just renamed what this was: listed anew, nothing is left out.
                    paths = folder.databases(since)
                    continue
                yield from ask_one(connection)
        except sqlite3.Error as error:
            if path.exists():
                unreadable(path, error)


def ask(connection: sqlite3.Connection, query: LogQuery, limit: int, after_seq: int | None = None) -> Iterator[Record]:
    """Matching lines of an open database: newest first, or, with ``after_seq``, those behind it, oldest first."""
    key = order_column(connection)
    if key is None:
        return
    where, values = conditions(connection, query)
    order = "DESC"
    if after_seq is not None:
        where.append(f"{key} > ?")
        values.append(after_seq)
        order = "ASC"
    spans = spans_of(connection, query.jobid, after_seq) if key == "seq" and query.jobid is not None else None
    if spans is not None:
        where.append("seq BETWEEN ? AND ?")
    statement = f"SELECT {key}, {RECORD} FROM logs"
    if where:
        statement += " WHERE " + " AND ".join(where)
    statement += f" ORDER BY {key} {order} LIMIT ?"
    left = limit or -1
    if spans is None:
        yield from starmap(Record, _rows(connection, statement, (*values, left)))
        return
    for span in spans:
        for row in _rows(connection, statement, (*values, *span, left)):
            yield Record(*row)
            left -= 1
        if limit and left <= 0:
            return


def _rows(connection: sqlite3.Connection, statement: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """The rows within the snapshot that the caller holds, in half the time that the connection's decoder takes.

    Text that another program wrote and that is no UTF-8 is left to that decoder: the statement is asked once more.
    """
    decoder = connection.text_factory
    connection.text_factory = str
    given = 0
    try:
        for row in connection.execute(statement, values):
            yield row
            given += 1
    except sqlite3.OperationalError as error:
        if "decode" not in str(error):
            raise
        connection.text_factory = decoder
        yield from islice(connection.execute(statement, values), given, None)
    finally:
        connection.text_factory = decoder


def spans_of(connection: sqlite3.Connection, jobid: str, after_seq: int | None) -> list[tuple[int, int]] | None:
    """Where a job's lines are, in the order in which ``ask`` wants them; None in a file without such a table."""
    try:
        if after_seq is None:
            statement = "SELECT first, last FROM spans WHERE jobid = ? ORDER BY first DESC"
            return connection.execute(statement, (jobid,)).fetchall()
        statement = "SELECT first, last FROM spans WHERE jobid = ? AND last > ? ORDER BY first"
        return connection.execute(statement, (jobid, after_seq)).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        return None


def order_column(connection: sqlite3.Connection) -> str | None:
    """``seq``, or ``rowid`` in a file of the original agent; None where there is no table."""
    columns = {row[1] for row in connection.execute("PRAGMA table_info(logs)")}
    if not columns:
        return None
    return "seq" if "seq" in columns else "rowid"


def conditions(connection: sqlite3.Connection, query: LogQuery) -> tuple[list[str], list[Any]]:
    """The SQL conditions of a query, and their values. Raises GreenagentError for a bad expression."""
    where: list[str] = []
    values: list[Any] = []
    for column in ("jobid", "domain", "name"):
        wanted = getattr(query, column)
        if wanted is not None:
            where.append(f"{column} = ?")
            values.append(wanted)
    if query.time_from is not None:
        where.append("epoch >= ?")
        values.append(int(query.time_from))
    if query.time_to is not None:
        where.append("epoch < ?")
        values.append(int(query.time_to) + 1)
    levels = query.levels
    if levels is not None and not levels.everything:
        if len(levels.ranges) > _MANY_RANGES:
            connection.create_function("level_wanted", 1, lambda level: _whole(level) in levels, deterministic=True)
            where.append("level_wanted(level)")
        else:
            where.append("(" + " OR ".join(f"level BETWEEN {low} AND {high}" for low, high in levels.ranges) + ")")
    if query.text:
        where.append("instr(data, ?) > 0")
        values.append(query.text)
    if query.regex:
        try:
            search = re.compile(query.regex).search
        except re.error as error:
            raise GreenagentError(f"{query.regex!r} is not a regular expression: {error}") from error
        if literal := literal_in(query.regex):
            where.append("instr(data, ?) > 0")
            values.append(literal)
        if literal != query.regex:
            connection.create_function(
                "text_matches", 1, lambda text: search(text if isinstance(text, str) else str(text)) is not None
            )
            where.append("text_matches(data)")
    return where, values


def literal_in(expression: str) -> str:
    """The longest text that whatever matches the expression must contain; "" where that is not plain to see.

    sqlite looks for it many times faster than it calls a function of ours for each line.
    """
    if _UNCLEAR.search(expression):
        return ""
    found, run = [], ""
    for part in _PARTS.findall(expression):
        if part in ("?", "*"):
            run = run[:-1]  # what it follows may be missing
        sign = part[1:] if part.startswith("\\") and not part[1:].isalnum() else part
        if len(sign) == 1 and (sign != part or sign not in ".^$?*+"):
            run += sign
        else:
            found.append(run)
            run = ""
    return max([*found, run], key=len)


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0
