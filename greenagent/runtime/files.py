"""Files that must never be half written, and files that hold a token."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from greenagent.runtime.plain_files import read_plain
from greenagent.values.errors import GreenagentError


def set_aside(path: Path, why: str = "damaged") -> Path:
    """Renames a damaged file, or one ``found`` in the place of ours; returns its new place. Raises OSError.

    The log of a database goes with it, unless this process has it open: then it is that of another file.
    """
    aside = path.with_name(f"{path.name}.{why}-{int(time.time())}")
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists() and not (why == "found" and _is_open(part)):
            part.rename(aside.with_name(aside.name + suffix))
    return aside


def _is_open(path: Path) -> bool:
    """Whether this process has that very file open."""
    wanted = file_id(path)
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            if file_id(int(descriptor)) == wanted:
                return True
        except OSError:
            continue  # it was that of the list
    return False


TOKEN_LIMIT: Final = 64 * 1024
"""Bytes of a file that holds a token."""


class FileId(NamedTuple):
    """Which file it is, whatever its name."""

    device: int
    inode: int


def file_id(file: Path | int) -> FileId | None:
    """Of a path or an open descriptor; None where there is no such file. Raises OSError."""
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return None
    return FileId(found.st_dev, found.st_ino)


def replace_file(path: Path, content: bytes, mode: int = 0o640, *, durable: bool = True) -> FileId:
    """Replaces ``path`` in one step: readers see the old content or the new. Raises OSError.

    ``durable``: also after a crash of the machine, for which the disk is waited for.

    Nobody can have prepared the new file: its name is random, and it is made by this call.
    """
    with new_beside(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            if durable:
                os.fsync(descriptor)
            found = os.fstat(descriptor)
            os.replace(temporary, path)
        finally:
            os.close(descriptor)
    if durable:
        sync_folder(path.parent)
    return FileId(found.st_dev, found.st_ino)


_tidied: set[Path] = set()
"""What this process has replaced before."""
_under_way: set[str] = set()
"""Names that this process is just using."""


@contextmanager
def new_beside(path: Path) -> Iterator[Path]:
    """A name for the file that is to replace ``path``; nothing of it is left in the end.

    Before the first, what a process that was killed in the middle has left of such files is removed: only plain files
    of this user with such a name, and whoever replaces ``path`` is the only one to do so.
    """
    temporary = path.with_name(f"{path.name}.{os.urandom(6).hex()}.new")
    _under_way.add(temporary.name)
    try:
        if path not in _tidied:
            _tidied.add(path)
            with suppress(OSError):  # whatever is wrong with the folder shows when the new file is made
                _remove_leftovers(path)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        _under_way.discard(temporary.name)


def _remove_leftovers(path: Path) -> None:
    left = re.compile(rf"({re.escape(path.name)}\.[0-9a-f]{{12}}\.new)(?:-journal|-wal|-shm)?")
    with os.scandir(path.parent) as entries:
        for entry in entries:
            match = left.fullmatch(entry.name)
            if match is None or match[1] in _under_way or not entry.is_file(follow_symlinks=False):
                continue
            if entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                os.unlink(entry.path)


LINK = "is a symbolic link: put a file of the agent's own there, or name another"


def refuse_link(path: Path, what: str) -> None:
    """Raises GreenagentError where ``path`` is a symbolic link: what it points at must not become our state."""
    if path.is_symlink():
        raise GreenagentError(f"{what} {path} {LINK}")


def working_folder() -> str:
    """Where this process runs; also once that is removed, when ``os.getcwd`` and ``Path.absolute`` fail."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return os.readlink("/proc/self/cwd").removesuffix(" (deleted)")


def absolute(path: Path) -> Path:
    """As ``Path.absolute``, also where the working folder is removed: nothing is at the path then."""
    return path if path.is_absolute() else working_folder() / path


def who_can_write(path: Path) -> str:
    """Which others than its owner can change a file or folder, or put another in its place; "" for none."""
    real = Path(os.path.realpath(absolute(path)))
    try:
        found = real.stat()
        if found.st_mode & stat.S_IWOTH:
            return f"everybody here can write it (chmod o-w {path})"
        if found.st_mode & stat.S_IWGRP and found.st_gid not in (0, os.getegid()):
            return f"group {found.st_gid} can write it (chmod g-w {path})"
        for folder in real.parents:
            if folder.stat().st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
                return f"everybody here can replace it, since they can write {folder}"
    except OSError:
        return ""  # it is missing or out of reach, which is said where it is used
    return ""


def read_token(path: Path, *, pipe_given: bool = False) -> str:
    """The token in a file, without the white space around it. ``pipe_given``: see ``open_plain``.

    Raises GreenagentError.
    """
    try:
        if path.is_file() and (text := who_can_write(path)):
            raise GreenagentError(f"the token file {path} holds no secret, make a new one: {text}")
        token = read_plain(path, TOKEN_LIMIT, pipe_given=pipe_given).decode("utf-8").strip()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise GreenagentError(f"cannot read the token file {path}: {reason}") from error
    if not token or not token.isascii() or any(character.isspace() for character in token):
        raise GreenagentError(f"the token file {path} must hold one word of ASCII characters")
    return token


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
