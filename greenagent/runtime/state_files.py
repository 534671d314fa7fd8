"""The one place that watches the files of the agent's state while it runs.

Somebody removes a folder, moves it, puts a backup in its place, empties a file: the descriptors that we hold go on
working, nothing fails, and the next start finds nothing. So each file is looked at every few seconds.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import gevent

from greenagent.runtime.agent_log import AgentLog, LogOnChange
from greenagent.runtime.files import FileId
from greenagent.runtime.native import NativePool
from greenagent.values.errors import GreenagentError

CHECK_INTERVAL: Final = 5.0
"""Seconds between looks."""
_CONFIRM_AFTER: Final = 0.2
"""Seconds until a fault is looked at once more: the owner may just be replacing the file itself."""


class _Watched(NamedTuple):
    path: Path
    what: str
    held: Callable[[], FileId | None]
    mend: Callable[[str], str | None]
    is_intact: Callable[[], bool] | None
    trouble: LogOnChange


class StateFiles:
    """Says once that a file is not what its owner holds, has it made again, and keeps what cannot be mended for health.

    All methods belong to the hub.
    """

    def __init__(self, agent_log: AgentLog) -> None:
        self._agent_log = agent_log
        self._watched: list[_Watched] = []
        self._problems: dict[Path, str] = {}
        self._pool: NativePool | None = None

    @property
    def problems(self) -> list[str]:
        """What is wrong and could not be mended, a line each."""
        return list(self._problems.values())

    def watch(
        self,
        path: Path,
        what: str,
        held: Callable[[], FileId | None],
        mend: Callable[[str], str | None],
        is_intact: Callable[[], bool] | None = None,
    ) -> None:
        """Looks after ``path``, a file or a folder, from now on.

        ``what`` names it for people, such as "the ledger". ``held`` tells which file the owner has open or wrote last;
        None: there is none to watch now. ``mend`` gets the fault in words, such as "was removed", makes the file again,
        and returns what came of it if that is not just "it is made again"; GreenagentError, OSError and sqlite3.Error
        say why it cannot. It is called again at every look until the file is right. ``is_intact``,
        asked in a native thread, tells whether the open file was overwritten in its place.
        """
        self._watched.append(_Watched(path, what, held, mend, is_intact, self._agent_log.on_change()))

    def run(self) -> None:
        """Never returns."""
        self._begin()  # now: when there are no threads left, none could be started
        while True:
            gevent.sleep(CHECK_INTERVAL)
            self.look()

    def look(self) -> None:
        """One look at everything. Waits for the disk in a native thread: a network disk may be away."""
        self._begin()
        for watched in self._watched:
            fault = self._fault(watched)
            if fault:
                gevent.sleep(_CONFIRM_AFTER)
                fault = self._fault(watched)
            if not fault:
                watched.trouble.resolved(f"{watched.what} {watched.path} is right again")
                self._problems.pop(watched.path, None)
                continue
            self._mend(watched, fault)

    def _begin(self) -> None:
        if self._pool is None:
            self._pool = NativePool(1)

    def close(self) -> None:
        """Watches nothing any more and ends its thread."""
        self._watched.clear()
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _fault(self, watched: _Watched) -> str:
        """What is wrong with a file; "" when nothing is."""
        held = watched.held()
        if held is None:
            return ""
        assert self._pool is not None
        try:
            # Never opened: to close it again would drop the locks that sqlite has on it.
            found = self._pool.run(os.stat, watched.path)
        except (FileNotFoundError, NotADirectoryError):
            return "was removed"
        except OSError as error:
            return f"cannot be reached ({error.strerror})"
        if (found.st_dev, found.st_ino) != held:
            return "was replaced"
        if not stat.S_ISREG(found.st_mode):
            return ""
        if not found.st_size:
            return "was emptied"
        return "" if watched.is_intact is None or self._pool.run(watched.is_intact) else "was overwritten"

    def _mend(self, watched: _Watched, fault: str) -> None:
        try:
            watched.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            outcome = watched.mend(fault) or "it is made again"
        except (GreenagentError, OSError, sqlite3.Error) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            problem = f"{watched.what} {watched.path} {fault}"
            self._problems[watched.path] = problem
            watched.trouble.warning(f"{problem} and cannot be made again: {reason}")
        else:
            self._agent_log.warning(f"{watched.what} {watched.path} {fault}: {outcome}")
            self._problems.pop(watched.path, None)
            if watched.trouble.is_open:
                watched.trouble.resolved(f"{watched.what} {watched.path} is right again")
