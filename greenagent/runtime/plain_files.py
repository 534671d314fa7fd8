"""Reading files that nobody must be kept waiting for: a pipe in the place of one would hold up all that we do."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


class UnfitFileError(OSError):
    """In the place of a file lies something else, or one that is too large; ``strerror`` says what."""


def not_a_file(found: os.stat_result) -> str:
    """What lies there instead of a plain file, such as "is a folder"; "" for a file."""
    if stat.S_ISREG(found.st_mode):
        return ""
    kinds = ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))
    return f"is a {next((name for is_kind, name in kinds if is_kind(found.st_mode)), 'device')}"


def open_plain(path: Path, *, pipe_given: bool = False) -> int:
    """A descriptor that reads a plain file, without ever waiting for somebody who writes. Raises OSError.

    UnfitFileError where something else lies there. ``pipe_given``: a pipe without a name will do, too, since only a
    shell hands one over, by ``<(command)`` or as standard input; its writer is waited for. It can be read only once.
    """
    _refuse_unfit(path, os.stat(path), pipe_given)  # first: to open a device may do something already
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        is_given = pipe_given and os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:")
        _refuse_unfit(path, found, is_given)
        os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_unfit(path: Path, found: os.stat_result, pipe_will_do: bool) -> None:
    what = not_a_file(found)
    if what and not (pipe_will_do and stat.S_ISFIFO(found.st_mode)):
        code = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
        raise UnfitFileError(code, f"it {what}, not a file", str(path))


def read_plain(path: Path, limit: int, *, pipe_given: bool = False) -> bytes:
    """What is in a file of ``limit`` bytes at most, see ``open_plain``. Raises OSError."""
    descriptor = open_plain(path, pipe_given=pipe_given)
    try:
        return read_open(descriptor, path, limit)
    finally:
        os.close(descriptor)


def read_open(descriptor: int, path: Path, limit: int) -> bytes:
    """As ``read_plain``, of a descriptor that was opened before."""
    parts, size = [], os.fstat(descriptor).st_size
    if size <= limit:
        size = 0
        while size <= limit and (part := os.read(descriptor, 1 << 20)):
            parts.append(part)
            size += len(part)
    if size > limit:
        raise UnfitFileError(errno.EFBIG, f"it is larger than {limit} bytes", str(path))
    return b"".join(parts)
