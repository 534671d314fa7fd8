"""The log folder: which file is which (design, section 4), and how one is opened to read.

For the agent and the reading tools alike: plain sqlite, no gevent, no peewee.

Every database has its final name from its first moment: ``1700000000.db``, the second in which it was begun.
``current.db`` is a symbolic link to the newest one, for people; we ourselves open files by their numbers, so that
no file is ever renamed under a reader. A real ``current.db`` is one of the original agent or of our 0.1: it holds the
newest lines, and an agent that starts gives it a number.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from greenagent.runtime.files import sync_folder
from greenagent.values.errors import GreenagentError

CURRENT: Final = "current.db"
COMPANIONS: Final = ("-wal", "-shm", "-journal")
"""What sqlite keeps beside a database, by what follows the database's name."""
TOTALS_SEQ: Final = "totals_seq"
"""Key in the meta table: up to which ``seq`` table ``totals`` tells of all lines."""
READER_PATIENCE = 2.0
"""Seconds that a reader from outside waits for a database that is locked, as while it is being closed."""
Unreadable = Callable[[Path, sqlite3.Error], None]
"""Told of a file that cannot be read: returns to go on with the other files, or raises."""

_NUMBERED = re.compile(r"([0-9]+)\.db\Z")
_LEFT_LOG = re.compile(r"([0-9]+)\.db-wal\Z")


class LogFolder:
    """Names of the files in one log folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.current = path / CURRENT
        self.uploads = path / "uploads.sqlite"
        self.lock = path / ".lock"

    def create(self) -> None:
        """Makes the folder with mode 0750 where it is missing. Raises OSError."""
        self.path.mkdir(mode=0o750, parents=True, exist_ok=True)

    def free_bytes(self) -> int:
        """Room for us on its file system. Raises OSError."""
        space = os.statvfs(self.path)
        return space.f_bavail * space.f_frsize

    def databases(self, since: float | None = None) -> list[Path]:
        """Every log database, oldest first; ``since`` (seconds since 1970): those that may hold such lines.

        ``current.db`` is in it only where it is a database of its own.
        """
        paths = self._numbered()
        if self.has_real_current() and not is_special(self.current):
            paths.append(self.current)
        if since is None:
            return paths
        return [path for path, next_one in zip(paths, [*paths[1:], None], strict=True) if _end(path, next_one) >= since]

    def archives(self) -> list[Path]:
        """All but the newest, oldest first: nobody writes them any more."""
        return self.databases()[:-1]

    def _numbered(self) -> list[Path]:
        found = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                match = _NUMBERED.match(entry.name)
                if match is not None and not is_special(entry):
                    found.append((int(match.group(1)), self.path / entry.name))
        return [path for _, path in sorted(found)]

    def next_path(self, above: int = 0) -> Path:
        """The name of the next database: numbers rise, ``above`` also, whatever the clock does."""
        newest = [number_of(path) for path in self._numbered()[-1:]]
        return self.path / f"{max(int(time.time()), *(number + 1 for number in (*newest, above)))}.db"

    def has_real_current(self) -> bool:
        """False where ``current.db`` is a link to one of ours, however spelt, or leads nowhere.

        Also where it is a second name or a copy of the newest: somebody copied a folder of ours, link followed. Under a
        number of its own it would show every line twice; a second name would even get a second log, which destroys it.
        """
        place, name = os.path.split(os.path.realpath(self.current))
        is_ours = _NUMBERED.match(name) is not None and place == os.path.realpath(self.path)
        if is_ours or not os.path.exists(self.current):
            return False
        has_log = file_size(self.current.with_name(CURRENT + "-wal"))
        return bool(has_log) or not any(_are_equal(path, self.current) for path in self._numbered()[-1:])

    def is_linked(self, path: Path) -> bool:
        """True while ``current.db`` is the link to this database."""
        try:
            return os.readlink(self.current) == path.name
        except OSError:
            return False

    def link_current(self, path: Path) -> None:
        """Makes ``current.db`` the link to a database, in one step. Raises OSError."""
        new = self.path / (CURRENT + ".new")
        new.unlink(missing_ok=True)
        new.symlink_to(path.name)
        os.replace(new, self.current)
        sync_folder(self.path)

    def number_current(self) -> Path:
        """Gives a real ``current.db`` its number, with all that is in its log; returns its new name. Raises OSError."""
        target = self.next_path()
        self.rename_with_companions(self.current, target)
        return target

    def rename_with_companions(self, source: Path, target: Path) -> None:
        """Renames a database together with its log; the log first, so that a start can complete it."""
        for suffix in COMPANIONS:
            companion = source.with_name(source.name + suffix)
            if companion.exists():
                os.rename(companion, target.with_name(target.name + suffix))
        os.rename(source, target)

    def moved_log(self) -> Path | None:
        """The log that a rename has taken from a real ``current.db``, which a crash then left under its old name.

        Not one that stayed of a removed database: applied to ``current.db`` it would destroy that. A rename's number
        is above all others, and ``current.db`` has no log any more.
        """
        if not self.has_real_current() or file_size(self.current.with_name(CURRENT + "-wal")):
            return None
        newest = max((number_of(path) for path in self._numbered()), default=-1)
        with os.scandir(self.path) as entries:
            names = [match[0] for entry in entries if (match := _LEFT_LOG.match(entry.name)) and int(match[1]) > newest]
        return self.path / min(names) if names else None

    def complete_renames(self) -> None:
        """Ends renames of ``current.db`` that a crash interrupted."""
        while (log := self.moved_log()) is not None:
            # A reader may have made companions of the old name since: empty, and not to replace the log.
            for suffix in COMPANIONS:
                self.current.with_name(CURRENT + suffix).unlink(missing_ok=True)
            os.rename(self.current, log.with_name(log.name.removesuffix("-wal")))

    def move_aside(self, path: Path) -> Path:
        """Takes a damaged file out of the way, its log with it; returns its new name, which no tool reads."""
        number = int(time.time())
        while True:
            target = self.path / f"damaged-{number}.sqlite"
            if not target.exists():
                break
            number += 1
        self.rename_with_companions(path, target)
        return target


def number_of(path: Path) -> int:
    """The number in a database's name: the second in which it was begun, or a little more.

    In a folder of the original agent, or of our 0.1, it is the second in which the file was closed.
    """
    return int(path.stem)


def _end(path: Path, next_one: Path | None) -> float:
    """Seconds since 1970 from which on a database holds no lines: an old name tells it, of ours the next one."""
    if next_one is None:
        return float("inf")
    return number_of(path if next_one.name == CURRENT else next_one) + 1


def _are_equal(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def is_special(path: str | os.PathLike[str]) -> bool:
    """True for a pipe, a device, a socket: opening one may wait for ever. Other trouble is said where it is read."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def inode_of(path: Path) -> int:
    """What tells a file from the next one of its name; 0 where it is not there, or cannot be seen."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def file_size(path: Path) -> int:
    """Bytes; 0 where it is not there."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


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
    connection = connect(path, options, READER_PATIENCE)
    connection.text_factory = lambda data: data.decode("utf-8", "backslashreplace")
    return connection
