"""Files that must never be half written, locks that must never be granted twice, and files that hold a token."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from greenagent.runtime.plain_files import not_a_file, open_plain, read_plain
from greenagent.runtime.procfs import boot_id
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


class LockedError(GreenagentError):
    """Another agent holds these files."""


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


def replace_file(path: Path, content: bytes, mode: int = 0o640) -> FileId:
    """Replaces ``path`` in one step: readers see the old content or the new, also after a crash. Raises OSError.

    Nobody can have prepared the new file: its name is random, and it is made by this call.
    """
    with new_beside(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
            found = os.fstat(descriptor)
            os.replace(temporary, path)
        finally:
            os.close(descriptor)
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


def lock_of(path: Path) -> Path:
    """The file whose lock guards ``path``."""
    return path.with_name(path.name + ".lock")


LINK = "is a symbolic link: put a file of the agent's own there, or name another"


NOT_OWN = "is no file of its own: remove it, or name another place"


def refuse_link(path: Path, what: str) -> None:
    """Raises GreenagentError where ``path`` is a symbolic link: what it points at must not become our state."""
    if path.is_symlink():
        raise GreenagentError(f"{what} {path} {LINK}")


def working_folder() -> Path:
    """Where this process runs; also once that is removed, when ``os.getcwd`` and ``Path.absolute`` fail."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path(os.readlink("/proc/self/cwd").removesuffix(" (deleted)"))


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


_inherited: dict[str, int] = {}


def inherit_locks(locks: dict[str, int]) -> None:
    """Locks that an earlier image of this process held, by path: ``acquire`` adopts them instead of asking anew.

    The path may be spelled in another way by then.
    """
    _inherited.update({os.path.realpath(path): descriptor for path, descriptor in locks.items()})


_HOLDER_SIZE: Final = 32
"""Bytes in which a lock tells its holder; the note begins behind them."""


def lock_holder(path: Path) -> str:
    """The number of the process that holds the ``FileLock`` at ``path``; "" when nobody does."""
    try:
        descriptor = open_plain(path)
    except OSError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _holder(descriptor)
    finally:
        os.close(descriptor)
    return ""


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, _HOLDER_SIZE, 0).decode("ascii", "replace").strip()


def lock_fault(path: Path) -> str:
    """Why something that lies at ``path`` cannot be a ``FileLock``; "" where it can be one. Raises OSError."""
    if path.is_symlink():
        return LINK
    found = path.stat() if path.exists() else None
    return NOT_OWN if found is not None and (not_a_file(found) or found.st_nlink > 1) else ""


class FileLock:
    """An advisory lock on a file of its own, which is never replaced nor deleted.

    A lock on a file that is itself replaced would be granted twice (design, section 3). It holds the number of the
    process and, behind that, a note for the next holder (``note``).
    """

    def __init__(self, path: Path, guards: str) -> None:
        """``guards`` says in words what the lock protects, for the error."""
        self.path = path
        self.guards = guards
        self.note = ""
        """One word for the next holder. Once acquired, what the last one left there: "" in a copy, or after a boot."""
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock at once or raises LockedError naming who holds it; OSError if there is no such place.

        Raises GreenagentError where something else than a plain file lies in its place, which is left untouched.
        """
        inherited = _inherited.pop(os.path.realpath(self.path), None)
        self._descriptor = self._take() if inherited is None else inherited
        try:
            self.note = self._read_note(self._descriptor)
            self._sign(self._descriptor)
        except BaseException:
            self.release()
            raise

    def leave(self, note: str) -> None:
        """Keeps one word for the next holder, whatever becomes of this process. Raises OSError."""
        assert self._descriptor is not None, "only a lock that is held can be signed"
        self.note = note
        self._sign(self._descriptor)

    def _take(self) -> int:
        if fault := lock_fault(self.path):
            raise GreenagentError(f"the lock {self.path} {fault}")
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o640)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise GreenagentError(f"the lock {self.path} {NOT_OWN}")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _holder(descriptor)
                who = f"process {holder}" if holder.isdigit() else "another process"
                raise LockedError(
                    f"{self.guards} is in use by {who} (lock {self.path}): stop that one or give this one other files"
                ) from error
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _sign(self, descriptor: int) -> None:
        content = f"{os.getpid()}\n"
        if self.note:
            content = f"{content:<{_HOLDER_SIZE}}{self.note} {_place(descriptor)}\n"
        data = content.encode()
        os.pwrite(descriptor, data, 0)  # over what was there: no moment, and no full disk, takes the note away
        os.ftruncate(descriptor, len(data))

    def _read_note(self, descriptor: int) -> str:
        text = os.pread(descriptor, 512, _HOLDER_SIZE).decode("ascii", "replace")
        note, _, place = text.rstrip("\n").partition(" ")
        return note if place == _place(descriptor) else ""

    def held(self) -> FileId | None:
        """The file that is locked; None when none is."""
        return None if self._descriptor is None else file_id(self._descriptor)

    def renew(self, fault: str) -> None:
        """Takes the lock anew under its name, since its file ``fault``: was removed, say. Raises as ``acquire``."""
        assert self._descriptor is not None, "only a lock that is held can be renewed"
        if file_id(self.path) == self.held():
            self._sign(self._descriptor)
            return
        descriptor = self._take()
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._sign(descriptor)

    def duplicate(self) -> int:
        """Another descriptor of the same lock, which keeps it held when this one is released."""
        assert self._descriptor is not None, "only a lock that is held can be handed over"
        return fcntl.fcntl(self._descriptor, fcntl.F_DUPFD_CLOEXEC, 3)

    def release(self) -> None:
        """Gives the lock back; harmless when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _place(descriptor: int) -> str:
    """This very file, in this run of the machine: a copy is another one's, and no process outlives a boot."""
    return f"{os.fstat(descriptor).st_ino} {boot_id()}"
