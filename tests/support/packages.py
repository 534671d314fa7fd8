"""The package with one thing changed, as another version of it would be."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from tests.support.processes import ROOT


def copy_package(folder: Path) -> Path:
    """Copies the package into ``folder``, which is the ``python_path`` of an agent then.

    With its bytecode, which stays good: the copied files keep their times.
    """
    shutil.copytree(ROOT / "greenagent", folder / "greenagent")
    return folder


def patient_package(folder: Path) -> Path:
    """Copies the package; an agent of it waits a minute for the answer to a request that is under way, not 2 s.

    On a busy machine an answer may be read seconds late, and what was not known to be accepted goes out once more.
    """
    package = copy_package(folder)
    change_package(package, "uplink/uploader.py", "UNDER_WAY_TIMEOUT = 2.0\n", "UNDER_WAY_TIMEOUT = 60.0\n")
    return package


def change_package(folder: Path, file: str, old: str, new: str) -> None:
    """Replaces a text that stands once in a file of a copied package."""
    path = folder / "greenagent" / file
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} in {file}"
    path.write_text(text.replace(old, new))
    # Bytecode counts as that of a file of the same size and second.
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
