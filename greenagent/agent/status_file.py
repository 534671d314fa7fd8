"""How the agent does, in a small file beside its ledger: ``greenagent --status`` and the init script show it.

So nobody has to open a port to see it. The file is there while the agent runs.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import gevent

from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.files import replace_file
from greenagent.runtime.native import NativePool

INTERVAL: Final = 10.0
"""Seconds after which the file says what has changed."""
CLOSE_WAIT: Final = 2.0
"""Seconds for its removal."""
_SAID_ELSEWHERE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE)
"""The ledger and the logs meet the same, and what they say matters."""
LIMIT: Final = 1 << 20
"""Bytes: a file that is larger is none of ours."""


def status_file(ledger_file: Path) -> Path:
    """Where the file of an agent is."""
    return ledger_file.with_name(ledger_file.name + ".status")


class StatusFile:
    """Keeps the file up to date, from a native thread: a disk that hangs holds up nothing else."""

    def __init__(self, path: Path, read: Callable[[], dict[str, Any]], pool: NativePool, agent_log: AgentLog) -> None:
        """``read`` gives what JSON can tell; ``pool`` has one thread."""
        self._path = path
        self._read = read
        self._trouble = agent_log.on_change()
        self._pool = pool
        self._is_closed = False

    def run(self) -> None:
        """The greenlet; writes at once, and then what has changed."""
        written = b""
        while True:
            content = json.dumps(self._read()).encode()
            if content != written:
                try:
                    self._pool.run(self._write, content)
                    written = content
                    self._trouble.resolved(f"{self._path} can be written again")
                except OSError as error:
                    if error.errno not in _SAID_ELSEWHERE:
                        self._trouble.warning(
                            f"{self._path} cannot be written, it is for --status alone: {error.strerror}"
                        )
            gevent.sleep(INTERVAL)

    def _write(self, content: bytes) -> None:
        if not self._is_closed:
            replace_file(self._path, content, durable=False)

    def close(self) -> None:
        """Removes the file; nothing is written any more. Never waits for long."""
        self._is_closed = True
        with suppress(OSError), gevent.Timeout(CLOSE_WAIT, False):
            self._pool.run(self._path.unlink, True)
