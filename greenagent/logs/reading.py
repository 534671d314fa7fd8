"""Opening log databases to read, wherever they are and whoever writes them. Plain sqlite, no gevent."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from greenagent.logs.folder import CURRENT, LogFolder, file_size, inode_of, is_special
from greenagent.values.errors import GreenagentError

_ATTEMPTS: Final = 50

Unreadable = Callable[[Path, sqlite3.Error], None]
"""Told of a file that cannot be read: returns to go on with the other files, or raises."""


def refuse_unreadable(path: Path, error: sqlite3.Error) -> None:
    """Nothing but all of it will do. Raises GreenagentError naming the file."""
    raise GreenagentError(f"{path} cannot be read: {error}") from error


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection to one database; nothing beside it is changed. Raises sqlite3.Error.

    Keep it short: a file that is open cannot be rotated in the plain way.
    """
    connection, copied = _open(path)
    try:
        yield connection
    finally:
        connection.close()
        if copied is not None:
            shutil.rmtree(copied, ignore_errors=True)


def _open(path: Path) -> tuple[sqlite3.Connection, Path | None]:
    if is_special(path):
        raise sqlite3.OperationalError("it is not a file")
    for attempt in range(_ATTEMPTS):
        if attempt:
            os.sched_yield()  # a patched sleep has no place in the agent's native threads
        if _moved_log(path) is not None:
            continue
        before = inode_of(path)
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
        # A rotation between opening the file and its log would have joined two different ones, or a
        # file with none at all.
        if inode_of(path) == before and _moved_log(path) is None:
            return connection, None
        connection.close()
    moved = _moved_log(path)
    if moved is None:
        raise sqlite3.OperationalError("the file is replaced faster than it can be opened")
    return _open_copy(path, {path: path.name, moved: path.name + "-wal"})  # a crash left them apart


def _moved_log(path: Path) -> Path | None:
    return LogFolder(path.parent).moved_log() if path.name == CURRENT else None


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
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}", uri=True, timeout=2, isolation_level=None, check_same_thread=False
    )
    connection.text_factory = _lenient_text
    return connection


def _lenient_text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
