"""What the streams of a job have begun and not ended, seen from outside: it goes into table ``open_lines``. On the hub.

A table beside the lines, so that nothing here is on the way of a finished line.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic, time
from typing import Final, NamedTuple, Protocol

from gevent.event import Event

from greenagent.logs.lines import OpenLine, OpenText, Owner

AFTER: Final = 2.0
"""Seconds after its first byte from which open text is shown."""
AT_MOST_EVERY: Final = 1.0
"""Seconds between two writings of one row."""
SHOWN: Final = 1 << 16
"""Bytes of open text that are shown: its end."""
CUT_OFF: Final = " [cut off: the agent was killed before this ended]"


class Source(Protocol):
    """What a splitter tells."""

    def open_text(self) -> OpenText | None: ...

    def peek(self, limit: int) -> tuple[int, str]: ...


class Marked(NamedTuple):
    """An open text and the upload pairs that its job's settings give its level to."""

    marks: int
    line: OpenLine


class OpenTexts:
    """What is open just now in all jobs, for controllers that show it. On the hub."""

    def __init__(self) -> None:
        self.version = 0
        """Rises with every change."""
        self._found: dict[tuple[str, int], Marked] = {}
        self._changed = Event()

    def update(self, found: Iterable[Marked]) -> None:
        """``found``: all there are now."""
        now = {(one.line.owner.jobid, one.line.stream): one for one in found}
        if now != self._found:
            self._found = now
            self.version += 1
            self._changed.set()
            self._changed = Event()

    def of(self, marks: int) -> dict[tuple[str, int], OpenLine]:
        """Those that one of these pairs wants, by job and stream."""
        return {key: one.line for key, one in self._found.items() if one.marks & marks}

    def wait(self, seen: int, timeout: float) -> None:
        """Returns once ``version`` is another than ``seen``, or after ``timeout`` seconds."""
        if self.version == seen:
            self._changed.wait(timeout)


class OpenStream:
    """One stream of a job."""

    def __init__(self, owner: Owner, stream: int, source: Source) -> None:
        self.stream = stream
        self._owner = owner
        self._source = source
        self._seen: OpenText | None = None
        self._since = 0.0
        self._epoch = 0.0
        self._written: OpenText | None = None
        """What the row holds; None where there is none."""
        self._written_at = 0.0
        self._written_in: object = None

    def look(self, file: object) -> OpenLine | None:
        """The row as it is to be written now, None where that is not due. ``file``: changes where rows get lost."""
        now = monotonic()
        found = self._source.open_text()
        if found is None or self._seen is None or found.key != self._seen.key:
            self._since, self._epoch = now, round(time(), 3)
        self._seen = found
        if found is None or now - self._since < AFTER:
            return None
        if now - self._written_at < AT_MOST_EVERY or (found == self._written and file == self._written_in):
            return None
        self._written, self._written_at, self._written_in = found, now, file
        level, text = self._source.peek(SHOWN)
        return OpenLine(self._owner, self.stream, self._epoch, level, text, found.size)

    @property
    def has_row(self) -> bool:
        """True when a row was written that no line has closed."""
        return self._written is not None

    @property
    def is_open(self) -> bool:
        """True when something is begun and not ended."""
        return self._source.open_text() is not None

    def is_stale(self) -> bool:
        """True when nothing is open any more and there is a row all the same."""
        return self.has_row and not self.is_open

    def ends(self) -> bool:
        """True once, when the text that the row holds is whole: with the pieces that the source has just given."""
        if self._written is None:
            return False
        found = self._source.open_text()
        if found is not None and found.key == self._written.key:
            return False
        self._written = None
        return True
