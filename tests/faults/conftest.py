"""Real agents on a controller that misbehaves on command; tools to inject faults."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import needs
from tests.end_to_end.conftest import controller, start_agent
from tests.support.faults import Immutable, Unprivileged, lacking
from tests.support.recording_controller import RecordingController

__all__ = ["controller", "start_agent"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        lacking("mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def immutable() -> Iterator[Immutable]:
    found = Immutable(needs("chattr"))
    yield found
    found.lift()


@pytest.fixture
def unprivileged(controller: RecordingController) -> Iterator[Unprivileged]:
    if os.geteuid() != 0:
        lacking("be another user")
    found = Unprivileged(controller)
    yield found
    found.clean_up()
