"""What is done with a connection of sqlite: transactions, locks, a look whether the file is whole."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Begin = Callable[[sqlite3.Connection], None]
"""Begins a transaction."""


def check(connection: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError for a damaged file: damage is told in a row, the statement itself succeeds."""
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError("malformed: " + " ".join(found.split()))


def begin_immediate(connection: sqlite3.Connection) -> None:
    """Begins a transaction that writes. Raises sqlite3.OperationalError under another program's lock."""
    connection.execute("BEGIN IMMEDIATE")


def roll_back(connection: sqlite3.Connection) -> None:
    """Undoes a transaction that failed."""
    if connection.in_transaction:  # a full disk has sqlite roll back by itself
        connection.execute("ROLLBACK")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is done inside, or nothing of it."""
    begin_immediate(connection)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


def wait_for_locks(connection: sqlite3.Connection, seconds: float) -> None:
    """How long statements of this connection wait for another program's lock."""
    connection.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
