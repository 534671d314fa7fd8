"""``--pid-file``: written when the agent is ready, removed at its end (design, section 1)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from greenagent.runtime.files import FileId, new_beside, replace_file
from greenagent.runtime.plain_files import UnfitFileError, read_plain
from greenagent.runtime.state_files import StateFiles
from greenagent.values.errors import GreenagentError


class PidFile:
    """The file that tells the init script who we are; without a path it does nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._written: FileId | None = None

    def probe(self) -> None:
        """Finds out before any job runs whether it can be written. Raises GreenagentError."""
        if self._path is None:
            return
        if self._path.is_dir():
            raise GreenagentError(f"--pid-file {self._path}: this is a folder; name a file in it")
        # Under such a name what a kill leaves is removed by the next start.
        with self._naming_it("written"), new_beside(self._path) as trial:
            os.close(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def write(self) -> None:
        """Says that the agent is ready. Raises GreenagentError."""
        if self._path is not None:
            with self._naming_it("written"):
                self._written = replace_file(self._path, f"{os.getpid()}\n".encode(), 0o644)

    def watch(self, state_files: StateFiles) -> None:
        """From now on it is written again when somebody removes, replaces or empties it."""
        if self._path is not None:
            state_files.watch(self._path, "the pid file", lambda: self._written, self._write_again)

    def _write_again(self, fault: str) -> None:
        assert self._path is not None
        named = ""
        with suppress(FileNotFoundError, UnfitFileError):  # what is no file of a few bytes names nobody
            named = "" if self._path.is_symlink() else read_plain(self._path, 64).decode("ascii", "replace").strip()
        if named.isdecimal() and int(named) != os.getpid() and os.path.exists(f"/proc/{int(named)}"):
            raise GreenagentError(f"it names process {named}, which runs")
        self.write()

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
