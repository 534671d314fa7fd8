"""Lines that an earlier writer stored and that are in no database any more, as a start finds out. In its thread."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from greenagent.logs.folder import LogFolder, number_of
from greenagent.logs.write.cursors import Cursors
from greenagent.logs.write.database_file import LEAP

ARCHIVE: Final = "file "
"""Begins the key of an archive in the meta table of the newest database: ``file NUMBER FIRST_SEQ``, its last seq."""


class Vanished(NamedTuple):
    """``waited_for``: None where so many are lost, whoever they were for. Where no database is left at all, or
    ``files`` are gone: the upload pairs that may have waited for some, and ``lines`` is how many at most.
    """

    lines: int
    waited_for: tuple[str, ...] | None = None
    files: tuple[str, ...] = ()


def archive_mark(path: Path, first_seq: int, last_seq: int) -> tuple[str, int]:
    """What the meta table tells of an archive, for ``gone``."""
    return f"{ARCHIVE}{number_of(path)} {first_seq}", last_seq


def behind_cursors(cursors: Cursors, last_seq: int) -> Vanished:
    """No database is left: what may have waited is told by the cursors alone."""
    waiting = {cursor.name: (last_seq - cursor.seq) % LEAP for cursor in cursors.wanting(last_seq)}
    return Vanished(max(waiting.values(), default=0), tuple(waiting))


def gone(meta: Mapping[str, int], folder: LogFolder, cursors: Cursors) -> list[Vanished]:
    """The archives that somebody removed while no agent ran, where lines in them may have waited."""
    there = {path.name for path in folder.databases()}
    files: list[str] = []
    pairs: dict[str, None] = {}
    lines = 0
    for key, last_seq in meta.items():
        if not key.startswith(ARCHIVE):
            continue
        number, first_seq = key.removeprefix(ARCHIVE).split()
        waiting = cursors.wanting(last_seq)
        if f"{number}.db" in there or not waiting:
            continue
        files.append(f"{number}.db")
        pairs.update((cursor.name, None) for cursor in waiting)
        lines += last_seq - max(int(first_seq) - 1, min(cursor.seq for cursor in waiting))
    return [Vanished(lines, tuple(pairs), tuple(files))] if files else []
