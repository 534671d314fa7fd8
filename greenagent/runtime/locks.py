"""Locks that must never be granted twice, and what they tell the next holder."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from greenagent.runtime.files import LINK, FileId, file_id
from greenagent.runtime.native import NativeLock
from greenagent.runtime.plain_files import not_a_file, open_plain
from greenagent.runtime.procfs import boot_id
from greenagent.values.errors import GreenagentError

NOT_OWN: Final = "is no file of its own: remove it, or name another place"


class LockedError(GreenagentError):
    """Another agent holds these files."""


def lock_of(path: Path) -> Path:
    """The file whose lock guards ``path``."""
    return path.with_name(path.name + ".lock")


_inherited: dict[str, int] = {}


def inherit_locks(locks: dict[str, int]) -> None:
    """Locks that an earlier image of this process held, by path: ``acquire`` adopts them instead of asking anew.

    The path may be spelled in another way by then.
    """
    _inherited.update({os.path.realpath(path): descriptor for path, descriptor in locks.items()})


_HOLDER_SIZE: Final = 32
"""Bytes in which a lock tells its holder; the note begins behind them."""
_NUMBER_AT: Final = 256
"""Where in a lock the number stands."""


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

    A lock on a file that is itself replaced would be granted twice (design, section 3). It holds the pid of the
    process and, behind that, a note and a number for the next holder. ``record`` is for any thread, all else for one.
    """

    def __init__(self, path: Path, guards: str) -> None:
        """``guards`` says in words what the lock protects, for the error."""
        self.path = path
        self.guards = guards
        self.note = ""
        """One word for the next holder. Once acquired, what the last one left there: "" in a copy, or after a boot."""
        self.number = 0
        """As ``note``: what was recorded last, or by the last holder; 0 in a copy."""
        self._descriptor: int | None = None
        self._guard = NativeLock()

    def acquire(self) -> None:
        """Takes the lock at once or raises LockedError naming who holds it; OSError if there is no such place.

        Raises GreenagentError where something else than a plain file lies in its place, which is left untouched.
        """
        inherited = _inherited.pop(os.path.realpath(self.path), None)
        self._descriptor = self._take() if inherited is None else inherited
        try:
            self._read(self._descriptor)
            self._sign(self._descriptor)
        except BaseException:
            self.release()
            raise

    def leave(self, note: str) -> None:
        """Keeps one word for the next holder, whatever becomes of this process. Raises OSError."""
        assert self._descriptor is not None, "only a lock that is held can be signed"
        self.note = note
        self._sign(self._descriptor)

    def record(self, number: int) -> None:
        """Keeps a number for the next holder, as ``leave`` does a note: a matter of microseconds. Raises OSError."""
        with self._guard:
            self.number = number
            # An emptied file must stay so until that is seen and it is signed again, the number with it.
            if self._descriptor is not None and os.fstat(self._descriptor).st_size >= _NUMBER_AT:
                os.pwrite(self._descriptor, self._number_of(self._descriptor), _NUMBER_AT)

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
        text = f"{os.getpid()}\n"
        if self.note:
            text = f"{text:<{_HOLDER_SIZE}}{self.note} {_place(descriptor)} {boot_id()}\n"
        with self._guard:
            number = self._number_of(descriptor) if self.number else b""
            # Over what was there: no moment, and no full disk, takes the note or the number away.
            os.pwrite(descriptor, f"{text:<{_NUMBER_AT - 1}}\n".encode() + number, 0)

    def _number_of(self, descriptor: int) -> bytes:
        return f"{self.number:<20} {_place(descriptor)}\n".encode()

    def _read(self, descriptor: int) -> None:
        """What the last holder left, unless this is a copy of its file. No process outlives a boot: no note does."""
        data = os.pread(descriptor, 2 * _NUMBER_AT, 0).decode("ascii", "replace")
        place = _place(descriptor)
        note, number = data[_HOLDER_SIZE:_NUMBER_AT].split(), data[_NUMBER_AT:].split()
        self.note = note[0] if note[1:] == [place, boot_id()] else ""
        self.number = int(number[0]) if number[1:] == [place] and number[0].isdigit() else 0

    def held(self) -> FileId | None:
        """The file that is locked; None when none is."""
        return None if self._descriptor is None else file_id(self._descriptor)

    def renew(self, fault: str) -> None:
        """Takes the lock anew under its name, since its file ``fault``: was removed, say. Raises as ``acquire``."""
        assert self._descriptor is not None, "only a lock that is held can be renewed"
        if file_id(self.path) == self.held():
            self._sign(self._descriptor)
            return
        descriptor, former = self._take(), self._descriptor
        with self._guard:
            self._descriptor = descriptor
        os.close(former)
        self._sign(descriptor)

    def duplicate(self) -> int:
        """Another descriptor of the same lock, which keeps it held when this one is released."""
        assert self._descriptor is not None, "only a lock that is held can be handed over"
        return fcntl.fcntl(self._descriptor, fcntl.F_DUPFD_CLOEXEC, 3)

    def release(self) -> None:
        """Gives the lock back; harmless when it is not held."""
        with self._guard:
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _place(descriptor: int) -> str:
    """This very file: a copy is another one's."""
    return str(os.fstat(descriptor).st_ino)
