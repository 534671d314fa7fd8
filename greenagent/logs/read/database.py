"""Opening log databases to read, wherever they are and whoever writes them. Plain sqlite, no gevent, no peewee."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from greenagent.logs.folder import CURRENT, LogFolder, file_size, is_special
from greenagent.values.errors import GreenagentError

Unreadable = Callable[[Path, sqlite3.Error], None]
"""Told of a file that cannot be read: returns to go on with the other files, or raises."""


def refuse_unreadable(path: Path, error: sqlite3.Error) -> None:
    """Nothing but all of it will do. Raises GreenagentError naming the file."""
    raise GreenagentError(f"{path} cannot be read: {error}") from error


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection to one database, also in a folder one may not write. Raises sqlite3.Error.

    Nothing beside the file is changed: a log that a crash left is applied to a copy where reading it would
    have to write. Keep it short: the log of a file that is open cannot be merged for good.
    """
    connection, copied = _open(path)
    try:
        yield connection
    finally:
        connection.close()
        if copied is not None:
            shutil.rmtree(copied, ignore_errors=True)


def connect(path: Path, options: str = "mode=ro", timeout: float = 1.0) -> sqlite3.Connection:
    """A connection for the agent's own threads, which may write beside the file; never makes it.

    ``timeout``: seconds to wait for another program that has locked it. Raises sqlite3.Error.
    """
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}",
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
    )


def read_numbers(connection: sqlite3.Connection) -> dict[str, int] | None:
    """What the meta table of a file of ours tells: ``next_seq``, ``last_id`` and so on; None in other files."""
    try:
        found = dict(connection.execute('SELECT "key", "value" FROM "meta"').fetchall())
    except sqlite3.OperationalError as error:
        if is_locked(error):
            raise
        return None
    return found if "next_seq" in found and "last_id" in found else None


def is_locked(error: sqlite3.Error) -> bool:
    return "locked" in str(error)


def is_damage(error: sqlite3.Error) -> bool:
    """True when the file itself is at fault, not a lock, a disk or a missing table."""
    return type(error) is sqlite3.DatabaseError


def _open(path: Path) -> tuple[sqlite3.Connection, Path | None]:
    if is_special(path):
        raise sqlite3.OperationalError("it is not a file")
    moved = LogFolder(path.parent).moved_log() if path.name == CURRENT else None
    if moved is not None:
        return _open_copy(path, {path: path.name, moved: path.name + "-wal"})
    connection = _connect(path, "mode=ro")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        connection.close()
        if "unable to open" not in str(error) and "readonly" not in str(error):
            raise
        return _open_without_log(path)
    except BaseException:
        connection.close()
        raise
    return connection, None


def _open_without_log(path: Path) -> tuple[sqlite3.Connection, Path | None]:
    """Where reading would have to write: what a crash left beside the file is applied to a copy of it."""
    leftovers = [path.with_name(path.name + suffix) for suffix in ("-wal", "-journal")]
    leftovers = [leftover for leftover in leftovers if file_size(leftover)]
    if not leftovers:
        return _connect(path, "mode=ro&immutable=1"), None
    return _open_copy(path, {source: source.name for source in (path, *leftovers)})


def _open_copy(path: Path, names: dict[Path, str]) -> tuple[sqlite3.Connection, Path]:
    """``names``: which files to copy, and what to call them."""
    folder = Path(tempfile.mkdtemp(prefix="greenagent-logs-"))
    try:
        for source, name in names.items():
            shutil.copyfile(source, folder / name)
        return _connect(folder / path.name, "mode=rw"), folder
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise sqlite3.OperationalError(f"it cannot be copied to {folder.parent}: {error}") from error
        raise


def _connect(path: Path, options: str) -> sqlite3.Connection:
    connection = connect(path, options, 2.0)
    connection.text_factory = lambda data: data.decode("utf-8", "backslashreplace")
    return connection
