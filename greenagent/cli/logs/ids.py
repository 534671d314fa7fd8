"""Which job is meant by ``--job``: an id, or how one begins."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from greenagent.cli.common import one_line
from greenagent.logs.folder import LogFolder, Unreadable
from greenagent.logs.read.query import LogQuery, ask_all, order_column
from greenagent.values.errors import GreenagentError

_NAMED: Final = 10
"""So many of the jobs that may be meant are named."""
_LAST: Final = "\U0010ffff"
"""Sorts behind every character of an id."""


def find_job(folder: LogFolder, text: str, ledger: Callable[[], Iterable[str]], unreadable: Unreadable) -> str | None:
    """The id that a text is, or the only one that begins with it; None where there is none.

    ``ledger`` gives the ids that are known there. Raises GreenagentError naming some where several begin with the text.
    ``unreadable``: see logs.folder.
    """
    if next(_ask(folder, _exactly, text, unreadable), None) is not None:
        return text
    found = {jobid for jobid in ledger() if jobid.startswith(text)}
    found.update(jobid for jobid in _ask(folder, _beginning, text, unreadable) if isinstance(jobid, str))
    if text in found or not found:
        return text if found else None
    if len(found) == 1:
        return found.pop()
    named = ", ".join(map(one_line, sorted(found)[:_NAMED]))
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    raise GreenagentError(f"several jobs begin with {one_line(text)}: {named}{more}")


def all_jobs(folder: LogFolder, ledger: Iterable[str], unreadable: Unreadable) -> Iterator[str]:
    """The ids that ``find_job`` knows, some more than once."""
    yield from ledger
    yield from (jobid for jobid in _ask(folder, _beginning, "", unreadable) if isinstance(jobid, str))


def _ask(folder: LogFolder, ask: Any, text: str, unreadable: Unreadable) -> Iterator[Any]:
    return ask_all(folder, LogQuery(), lambda connection: ask(connection, _tables(connection), text), unreadable)


def _tables(connection: sqlite3.Connection) -> set[str]:
    """Where a job of this file may be found: ``spans`` tells of the lines of ours, without looking at them."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    lines = "spans" if "spans" in tables and order_column(connection) == "seq" else "logs"
    return tables & {lines, "open_lines", "runs"}


def _exactly(connection: sqlite3.Connection, tables: set[str], text: str) -> list[str]:
    """By what is quick to ask: an id in full is often given, and then has lines."""
    for table in sorted(tables - {"runs"}):
        if connection.execute(f"SELECT 1 FROM {table} WHERE jobid = ? LIMIT 1", (text,)).fetchone():
            return [text]
    return []


def _beginning(connection: sqlite3.Connection, tables: set[str], text: str) -> list[Any]:
    found: list[Any] = []
    for table in sorted(tables):
        statement = f"SELECT DISTINCT jobid FROM {table} WHERE jobid >= ? AND jobid < ? AND substr(jobid, 1, ?) = ?"
        found += [row[0] for row in connection.execute(statement, (text, text + _LAST, len(text), text))]
    return found
