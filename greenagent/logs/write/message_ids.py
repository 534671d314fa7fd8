"""Message ids: unsigned 32 bits, reserved in blocks, never given twice until they wrap (protocol 6.4).

``message_id_file`` holds, as decimal text, the last id of what is reserved; after a clean stop the
last one used. It is replaced and on disk before the first id of a block is given out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gevent.event import Event

from greenagent.logs.lines import LAST_ID
from greenagent.runtime.files import replace_file
from greenagent.values.errors import GreenagentError

BLOCK: Final = 100_000
_MANY: Final = 10
"""Blocks reserved at once while ids are used up faster than one block a second."""


class MessageIds:
    """Gives out ids on the hub; ``run_soon(function)`` runs the reservations in the writer's thread."""

    def __init__(
        self,
        path: Path,
        run_soon: Callable[[Callable[[], None]], None],
        post: Callable[[Callable[[], None]], None],
        warn: Callable[[str], None],
    ) -> None:
        self.path = path
        self._run_soon = run_soon
        self._post = post
        self._warn = warn
        self._next = 0
        self._left = 0
        self._asked = 0
        self._asked_at = 0.0
        self._granted = Event()
        self._said = False
        self._has_ended = False

    def start(self, newest: int) -> None:
        """Reads the file and reserves the first block at once. ``newest``: the newest line's id, -1 if none.

        Raises OSError where the file cannot be written.
        """
        last, known = self._read(), True
        if last is None:
            known = False
        elif newest >= 0 and 0 < (newest - last) & LAST_ID < 1 << 31:
            self._warn(f"{self.path} is behind the newest log line: ids go on after {newest}")
            known = False
        if not known:
            last = (newest + BLOCK) & LAST_ID if newest >= 0 else 0
        assert last is not None
        self._next = (last + 1) & LAST_ID
        self._left = 0
        end = (last + BLOCK) & LAST_ID
        replace_file(self.path, str(end).encode("ascii"))
        self._left = BLOCK

    def _read(self) -> int | None:
        try:
            text = self.path.read_bytes().strip()
        except FileNotFoundError:
            return None
        if text.isdigit() and len(text) <= 10 and int(text) <= LAST_ID:
            return int(text)
        self._warn(f"{self.path} does not hold a message id: ids go on after the newest log line")
        return None

    @property
    def left(self) -> int:
        """How many ids can be taken now."""
        return self._left

    def take(self, count: int) -> int:
        """The first of ``count`` consecutive ids; never more than ``left``."""
        if count > self._left:
            raise ValueError(f"{count} ids asked, {self._left} reserved")
        first = self._next
        self._next = (first + count) & LAST_ID
        self._left -= count
        if self._left < BLOCK // 2:
            self._reserve(0)
        return first

    def wait_for(self, count: int) -> None:
        """Blocks the greenlet until ``count`` ids can be taken (somebody else may take them first).

        Raises GreenagentError once no more are reserved: the writer's thread has ended.
        """
        while self._left < count:
            if self._has_ended:
                raise GreenagentError("no message ids are reserved any more: the log writer has stopped")
            self._reserve(count)
            self._granted.clear()
            self._granted.wait()

    def end(self) -> None:
        """The thread that reserves has died: whoever waits is woken."""
        self._has_ended = True
        self._granted.set()

    def last_used(self) -> int:
        return (self._next - 1) & LAST_ID

    def store_last_used(self) -> None:
        """At a clean stop, in any thread: nothing reserved is wasted. Raises OSError."""
        replace_file(self.path, str(self.last_used()).encode("ascii"))

    def _reserve(self, count: int) -> None:
        if self._asked:
            return
        now = time.monotonic()
        blocks = _MANY if now - self._asked_at < 1 else 1
        self._asked_at = now
        self._asked = max(blocks * BLOCK, count)
        end = (self._next + self._left + self._asked - 1) & LAST_ID
        self._run_soon(lambda: self._write(end))

    def _write(self, end: int) -> None:
        problem = ""
        try:
            replace_file(self.path, str(end).encode("ascii"))
        except OSError as error:
            problem = f"{self.path} cannot be written ({error}): ids go on from memory"
        self._post(lambda: self._grant(problem))

    def _grant(self, problem: str) -> None:
        """On the hub. A file that cannot be written must not stop the jobs: the newest line's id is a second guard."""
        self._left += self._asked
        self._asked = 0
        self._granted.set()
        if problem and not self._said:
            self._warn(problem)
        self._said = bool(problem)
