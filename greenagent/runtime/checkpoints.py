"""Checkpoints of a sqlite database off the way of those who commit.

sqlite makes them inside of a commit, which then waits for the disk: 20 ms, or a second on a busy one. Here they are
made on a connection and in a native thread of their own, and hold up nobody.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from greenagent.runtime.native import NativeLock, NativeSignal, start_thread

PAUSE: Final = 0.5
"""Seconds from a commit to the checkpoint, for it and all that are made meanwhile."""
LARGE: Final = 32 * 1024 * 1024
"""Bytes of the write-ahead log from which on the writer itself is to begin it anew: it never ends by itself while
there is always one more commit."""


class Checkpoints:
    """The checkpoints of one open database."""

    def __init__(self, path: Path, is_intact: Callable[[], bool]) -> None:
        """``is_intact``: false while something else lies in the log, which must not get into the database.

        Raises sqlite3.Error and NoThreadError.
        """
        self._is_intact = is_intact
        self.is_large = False
        """Whether the log has grown too large; for the writer, which calls ``restart``."""
        self._lock = NativeLock()
        self._committed = NativeSignal()
        self._ending = NativeSignal()
        self._is_ending = False
        self._connection = sqlite3.connect(str(path), isolation_level=None, timeout=0, check_same_thread=False)
        try:
            (self._page_size,) = self._connection.execute("PRAGMA page_size").fetchone()
            # Opens the log now, the one that the writer has: a later one would be another file if that was removed.
            self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            start_thread(self._run)
        except BaseException:
            self._connection.close()
            raise

    def is_due(self) -> None:
        """Something was committed; callable from any thread."""
        self._committed.set()

    def restart(self, connection: sqlite3.Connection) -> None:
        """Has the next commit begin the log anew; in the writer's native thread, outside of a transaction."""
        self.is_large = False
        if self._is_intact():
            _checkpoint(connection, "RESTART")

    def close(self) -> None:
        """Ends the thread and its connection: before the writer's own, which is to be the last."""
        self._is_ending = True
        self._committed.set()
        self._ending.set()
        with self._lock:
            self._connection.close()

    def _run(self) -> None:
        while True:
            self._committed.wait()
            if not self._is_ending:
                self._ending.wait(PAUSE)
            with self._lock:
                if self._is_ending:
                    return
                size = _checkpoint(self._connection, "PASSIVE") * self._page_size if self._is_intact() else 0
            self.is_large = size > LARGE


def _checkpoint(connection: sqlite3.Connection, mode: str) -> int:
    """How many pages the log has; 0 where they cannot be known: a full disk, say, which whoever commits finds out."""
    try:
        _, pages, _ = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    except sqlite3.Error:
        return 0
    return int(pages)
