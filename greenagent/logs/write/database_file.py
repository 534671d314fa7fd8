"""Log databases as files: made, inspected before they are written, and closed for good. In the writer's thread."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from greenagent.logs.folder import (
    COMPANIONS,
    LogFolder,
    connect,
    file_size,
    is_damage,
    is_locked,
    is_special,
    read_numbers,
)
from greenagent.logs.schema import CLEAR_OPEN, LINE_COLUMNS, SCHEMA, SET_META
from greenagent.runtime.procfs import boot_id

PAGE_SIZE: Final = 8192
"""A fifth faster than 4096."""
LOCK_WAIT: Final = 5.0
"""Seconds for which the writer waits for another program that holds its file."""
LOCKED: Final = f"{{}} is locked by another program for {LOCK_WAIT:g} s: logging goes on in a new file"
LEAP: Final = 1 << 40
"""What ``seq`` leaps over when the newest file cannot tell its last one."""
OTHER_COLUMNS: Final = "other columns"
"""What ``inspect`` says of a file of the original agent."""


def find_newest(folder: LogFolder, warn: Callable[[str], None]) -> tuple[Path | None, int]:
    """The file to go on in, None for a new one; and what ``seq`` must leap over. At the start.

    A real ``current.db`` gets a number first; a damaged, foreign or locked file is left, which is said.
    Raises OSError or sqlite3.Error.
    """
    folder.complete_renames()
    if is_special(folder.current):
        set_aside(folder, folder.current, "it is not a file", warn)
        return None, LEAP
    if folder.has_real_current():
        folder.number_current()
    elif not folder.current.is_symlink():
        folder.current.unlink(missing_ok=True)  # a copy of the newest, until that is changed
    paths = folder.databases()
    if not paths:
        return None, 0
    newest = paths[-1]
    if newest.is_symlink() and newest.exists():
        warn(f"{newest} is a link to {newest.resolve()}, which is left as it is: logging goes on in a new file")
        return None, 0
    try:
        problem = inspect(newest) if newest.is_file() else "it is not a file"
    except sqlite3.OperationalError as error:
        if not is_locked(error):
            raise
        warn(LOCKED.format(newest))
        return None, LEAP
    if problem == OTHER_COLUMNS:
        warn(f"{newest} was written by another version: logging goes on in a new file")
        return None, 0
    if problem:
        set_aside(folder, newest, problem, warn)
        return None, LEAP
    if not file_size(newest):
        warn(f"{newest} was empty: what it held is lost, logging goes on in it")
        return newest, LEAP
    return newest, 0


def set_aside(folder: LogFolder, path: Path, problem: str, warn: Callable[[str], None]) -> None:
    """Keeps a damaged file under another name. Raises OSError."""
    target = folder.move_aside(path)
    warn(f"{path} is damaged ({problem}): it is kept as {target.name}, logging goes on")


def create_database(path: Path, numbers: list[tuple[str, int]]) -> None:
    """Makes a log database, 0640. ``numbers`` go to its meta table.

    It gets its name when it has its tables: nobody ever sees it without them, even after a crash.
    Raises OSError or sqlite3.Error.
    """
    new = path.with_name("next.db.new")
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


def inspect(path: Path) -> str:
    """What is wrong with a database that is about to be written; "" when nothing is.

    Only where it was not closed cleanly is every page read. Raises OSError or sqlite3.OperationalError where it cannot
    be told: a lock, a full disk, a missing permission. That is no damage, and the file stays where it is.
    """
    with open(path, "rb") as file:
        header = file.read(100)
    if not header:  # sqlite would take it for a new one, and do away with its log
        return "it is empty" if file_size(path.with_name(path.name + "-wal")) else ""
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
        except sqlite3.DatabaseError as error:
            if not is_damage(error) and str(error) != "unsupported file format":
                raise
            return str(error)
    return "" if columns in ((), LINE_COLUMNS) else OTHER_COLUMNS


def sign_off(connection: sqlite3.Connection) -> None:
    """The last thing that is written into a file: when it was closed, by a clock that nobody can set."""
    with suppress(sqlite3.Error):
        connection.execute(CLEAR_OPEN)  # of no use in a file that is not the newest
        connection.executemany(SET_META, [("closed", int(time.monotonic())), ("boot", _boot_number())])


def closed_in_this_boot(numbers: Mapping[str, int]) -> float | None:
    """When a file with these numbers was closed, by the monotonic clock; None where that cannot be told."""
    is_this = numbers.get("boot", 0) == _boot_number() != 0
    return float(numbers["closed"]) if is_this and "closed" in numbers else None


def _boot_number() -> int:
    """The meta table holds numbers."""
    return int(boot_id().replace("-", "")[:15] or "0", 16)


def stored_numbers(paths: list[Path]) -> dict[str, int]:
    """The numbers of the newest file that tells any."""
    for path in reversed(paths):
        try:
            with closing(connect(path, timeout=0.1)) as connection:
                numbers = read_numbers(connection)
        except sqlite3.Error:
            continue
        if numbers is not None:
            return numbers
    return {}


def finish(path: Path) -> bool:
    """Merges what is left of a closed database's log; False while somebody has it open."""
    if not path.exists():
        return True
    try:
        with closing(sqlite3.connect(str(path), timeout=0, isolation_level=None)) as connection:
            return merge_for_good(connection)
    except sqlite3.DatabaseError:
        return False


def merge_for_good(connection: sqlite3.Connection) -> bool:
    """Merges the log and does away with it; False while that is not possible."""
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return bool(connection.execute("PRAGMA journal_mode=DELETE").fetchone()[0] == "delete")
    except sqlite3.OperationalError:
        return False
