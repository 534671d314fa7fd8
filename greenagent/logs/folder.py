"""The log folder: which file is which (design, section 4). For the agent and the reading tool alike."""

from __future__ import annotations

import os
import re
import stat
import time
from pathlib import Path
from typing import Final

CURRENT: Final = "current.db"
UPLOADS: Final = "uploads.sqlite"
"""Cursors and pairs. Not ``*.db``: it is no log database, and reading tools pass it by."""
COMPANIONS: Final = ("-wal", "-shm", "-journal")

_ARCHIVE = re.compile(r"([0-9]{1,18})\.db\Z")
_LEFTOVER = re.compile(r"([0-9]{1,18})\.db-wal\Z")


class LogFolder:
    """Names and sizes of the files in one log folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.current = path / CURRENT
        self.uploads = path / UPLOADS
        self.lock = path / ".lock"

    def create(self) -> None:
        """Makes the folder with mode 0750 where it is missing. Raises OSError."""
        self.path.mkdir(mode=0o750, parents=True, exist_ok=True)

    def free_bytes(self) -> int:
        """Room for us on its file system. Raises OSError."""
        space = os.statvfs(self.path)
        return space.f_bavail * space.f_frsize

    def archives(self) -> list[Path]:
        """Closed databases, oldest first."""
        found = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                match = _ARCHIVE.match(entry.name)
                if match is not None and not is_special(entry):
                    found.append((int(match.group(1)), self.path / entry.name))
        return [path for _, path in sorted(found)]

    def databases(self) -> list[Path]:
        """Every log database, oldest first, ``current.db`` last."""
        while True:
            files = self.archives()
            is_there = self.current.exists() and not is_special(self.current)
            if files == self.archives():  # not rotated in between
                return [*files, self.current] if is_there else files

    def next_archive(self) -> Path:
        """The name of the next archive: names rise whatever the clock does."""
        stamp = int(time.time())
        archives = self.archives()
        if archives:
            stamp = max(stamp, archive_stamp(archives[-1]) + 1)
        return self.path / f"{stamp}.db"

    def rename_with_companions(self, source: Path, target: Path) -> None:
        """Renames a database together with its log; the log first, so that a start can complete it."""
        for suffix in COMPANIONS:
            companion = source.with_name(source.name + suffix)
            if companion.exists():
                os.rename(companion, target.with_name(target.name + suffix))
        os.rename(source, target)

    def moved_log(self) -> Path | None:
        """The log that a rename has taken from ``current.db`` while the database still has its old name.

        For a moment within every rename under a reader; for longer after a crash in there.
        """
        if not self.current.exists():
            return None
        with os.scandir(self.path) as entries:
            names = sorted(entry.name for entry in entries if _LEFTOVER.match(entry.name))
        for name in names:
            if not (self.path / name.removesuffix("-wal")).exists():
                return self.path / name
        return None

    def complete_renames(self) -> list[Path]:
        """Ends renames that a crash interrupted; returns the archives that were completed this way."""
        completed = []
        while (log := self.moved_log()) is not None:
            target = log.with_name(log.name.removesuffix("-wal"))
            # A reader may have made companions of the old name since: empty, and not to replace the log.
            for suffix in COMPANIONS:
                self.current.with_name(CURRENT + suffix).unlink(missing_ok=True)
            os.rename(self.current, target)
            completed.append(target)
        return completed

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


def is_special(path: str | os.PathLike[str]) -> bool:
    """True for a pipe, a device, a socket: opening one may wait for ever. Other trouble is said where it is read."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def archive_stamp(path: Path) -> int:
    """The number in an archive's name: seconds since 1970 at its rotation, or a little more."""
    return int(path.name.partition(".")[0])


def inode_of(path: Path) -> int:
    """What tells a file from the next one of its name; 0 where it is not there."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def file_size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
