"""Losses that their jobs' logs do not tell yet, kept for the next start or the next image of the agent.

The file lies beside the message id file. It has its room from the start and is overwritten in
place, so that it can be written while the disk is full.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from greenagent.logs.lines import Owner

ROOM: Final = 16 << 10
"""Bytes of the file: some two hundred jobs by name."""
OTHERS: Final = Owner("", "", "")
"""Stands for the jobs that had no room; no job has an empty id."""

Unsaid = dict[Owner, int]
"""Lines lost, by job."""


class UnsaidFile:
    """One such file. No thread of its own: the caller chooses where it may block."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> tuple[Unsaid, str]:
        """What was kept, and a problem or "". Takes the room. Raises OSError when the file cannot be used."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            content = os.pread(descriptor, ROOM, 0)
            try:
                os.posix_fallocate(descriptor, 0, ROOM)
            except OSError:
                pass  # a full disk: writing is tried all the same
        finally:
            os.close(descriptor)
        text = content.partition(b"\n")[0].strip(b"\0")
        if not text:
            return {}, ""
        try:
            return {Owner(job, domain, name): lines for job, domain, name, lines in _rows(text)}, ""
        except (ValueError, TypeError, RecursionError):
            return {}, f"{self.path} does not hold counts of lost lines: it is written anew"

    def write(self, unsaid: Mapping[Owner, int]) -> None:
        """Replaces what is kept. What cannot be written is left: it may fit the next time."""
        rows: list[str] = []
        others, left = 0, ROOM - 200
        for owner, lines in sorted(unsaid.items(), key=lambda item: -item[1]):
            row = json.dumps([*owner, lines])
            if owner == OTHERS or len(row) + 1 > left:
                others += lines
            else:
                rows.append(row)
                left -= len(row) + 1
        if others:
            rows.append(json.dumps([*OTHERS, others]))
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError:
            return
        try:
            os.pwrite(descriptor, f"[{','.join(rows)}]\n".encode(), 0)  # in one call: never half of it
        except OSError:
            pass
        finally:
            os.close(descriptor)


def _rows(text: bytes) -> list[tuple[str, str, str, int]]:
    """Raises ValueError or TypeError where it is no such list."""
    rows = []
    for job, domain, name, lines in json.loads(text):
        if not (all(isinstance(part, str) for part in (job, domain, name)) and isinstance(lines, int)):
            raise ValueError
        rows.append((job, domain, name, lines))
    return rows
