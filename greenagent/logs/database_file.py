"""Log databases as files: made, opened to read, inspected, and closed for good. Plain sqlite, no gevent."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from greenagent.logs.folder import COMPANIONS, file_size, is_special
from greenagent.logs.models import GET_META, LINE_COLUMNS, SCHEMA, SET_META

PAGE_SIZE: Final = 8192
LOCK_WAIT: Final = 5.0
"""Seconds for which the writer waits for another program that holds its file."""


def create_database(path: Path, numbers: Sequence[tuple[str, int]]) -> None:
    """Makes a log database, 0640. ``numbers`` go to its meta table.

    It gets its name when it has its tables: nobody ever sees it without them, even after a crash.
    Raises OSError or sqlite3.Error.
    """
    new = path.with_name(path.name + ".new")
    for leftover in (new, *(new.with_name(new.name + suffix) for suffix in COMPANIONS)):
        leftover.unlink(missing_ok=True)
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
    with closing(sqlite3.connect(str(new), isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size={PAGE_SIZE}")
        connection.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA:
            connection.execute(statement)
        connection.executemany(SET_META, numbers)
        connection.execute("COMMIT")
    os.rename(new, path)


def open_readonly(path: Path, timeout: float = 1.0) -> sqlite3.Connection:
    """A connection that cannot write. Raises sqlite3.Error."""
    return sqlite3.connect(
        path.absolute().as_uri() + "?mode=ro", uri=True, timeout=timeout, isolation_level=None, check_same_thread=False
    )


def read_numbers(connection: sqlite3.Connection) -> tuple[int, int] | None:
    """The numbers stored with a file: its next seq and last id; None where it has none."""
    try:
        next_seq = connection.execute(GET_META, ("next_seq",)).fetchone()
        last_id = connection.execute(GET_META, ("last_id",)).fetchone()
    except sqlite3.OperationalError as error:
        if is_locked(error):
            raise
        return None
    if next_seq is None or last_id is None:
        return None
    return int(next_seq[0]), int(last_id[0])


def stored_numbers(connection: sqlite3.Connection, archives: Sequence[Path]) -> tuple[int, int]:
    """The next seq and the last id, from this file or the newest archive that tells them."""
    numbers = read_numbers(connection)
    if numbers is not None:
        return numbers
    for path in reversed(archives):
        try:
            with closing(open_readonly(path, 0.1)) as archive:
                numbers = read_numbers(archive)
        except sqlite3.Error:
            continue
        if numbers is not None:
            return numbers
    return 1, -1


def finish_archive(path: Path) -> bool:
    """Merges what is left of an archive's log; False while somebody has it open."""
    if not path.exists():
        return True
    try:
        with closing(sqlite3.connect(str(path), timeout=0, isolation_level=None)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return bool(connection.execute("PRAGMA journal_mode=DELETE").fetchone()[0] == "delete")
    except sqlite3.DatabaseError:
        return False


def is_locked(error: sqlite3.Error) -> bool:
    return "locked" in str(error)


def is_no_room(error: sqlite3.Error) -> bool:
    """True where the disk is full."""
    return "disk is full" in str(error)


def is_damage(error: sqlite3.Error) -> bool:
    """True when the file itself is at fault, not a lock, a disk or a missing table."""
    return type(error) is sqlite3.DatabaseError


def inspect(path: Path) -> str:
    """What is wrong with a database that is about to be written; "" when nothing is. Raises sqlite3.OperationalError.

    Only where it was not closed cleanly is every page read.
    """
    if is_special(path):
        return "it is not a file"
    with open(path, "rb") as file:
        header = file.read(100)
    if not header:
        return ""
    if header[:16] != b"SQLite format 3\x00" or len(header) < 100:
        return "it is not a database"
    with closing(sqlite3.connect(str(path), timeout=LOCK_WAIT, isolation_level=None)) as connection:
        try:
            if header[18] == 1:
                page = int.from_bytes(header[16:18], "big")
                expected = (65536 if page == 1 else page) * int.from_bytes(header[28:32], "big")
                if file_size(path) < expected:
                    return "it is truncated"
            else:
                answer = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
                if answer != "ok":
                    return answer.splitlines()[-1]
            columns = tuple(row[1] for row in connection.execute('PRAGMA table_info("logs")'))
        except sqlite3.OperationalError as error:
            if is_locked(error):
                raise
            return str(error)
        except sqlite3.DatabaseError as error:
            return str(error)
    return "" if columns in ((), LINE_COLUMNS) else "other columns"
