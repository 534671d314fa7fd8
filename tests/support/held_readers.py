"""Processes that read a large command and stop before they begin: else one has ended before a test finds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenagent.runtime import reading_process
from tests.support.packages import change_package, copy_package

_BEGIN = "import sys; "
_STOP = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP); "


def hold_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of an agent in the test's own process, until this is undone."""
    monkeypatch.setattr(reading_process, "_PROGRAM", _STOP + reading_process._PROGRAM)


def package_that_holds_readers(folder: Path) -> str:
    """A ``python_path`` for an agent of its own; it gives them all the time there is."""
    package = copy_package(folder)
    change_package(package, "runtime/reading_process.py", f'"{_BEGIN}', f'"{_STOP}{_BEGIN}')
    change_package(package, "runtime/reading_process.py", "SECONDS: Final = 5.0", "SECONDS: Final = 600.0")
    return str(package)
