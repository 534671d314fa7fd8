"""``--pid-file``: written when the agent is ready, removed at its end (design, section 1)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from greenagent.runtime.files import replace_file
from greenagent.values.errors import GreenagentError


class PidFile:
    """The file that tells the init script who we are; without a path it does nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def probe(self) -> None:
        """Finds out before any job runs whether it can be written. Raises GreenagentError."""
        if self._path is None:
            return
        if self._path.is_dir():
            raise GreenagentError(f"--pid-file {self._path}: this is a folder; name a file in it")
        trial = self._path.with_name(self._path.name + ".new")
        with self._naming_it("written"):
            os.close(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
            trial.unlink()

    def write(self) -> None:
        """Says that the agent is ready. Raises GreenagentError."""
        if self._path is not None:
            with self._naming_it("written"):
                replace_file(self._path, f"{os.getpid()}\n".encode(), 0o644)

    def remove(self) -> None:
        """Raises GreenagentError."""
        if self._path is not None:
            with self._naming_it("removed"):
                self._path.unlink(missing_ok=True)

    @contextmanager
    def _naming_it(self, done: str) -> Iterator[None]:
        """Turns OSError into GreenagentError."""
        try:
            yield
        except OSError as error:
            raise GreenagentError(f"--pid-file {self._path}: cannot be {done}: {error.strerror}") from error
