"""A real agent whose jobs, queues and ledger are asked directly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.inside import InsideAgent
from tests.support.recording_controller import RecordingController


@pytest.fixture
def controller() -> Iterator[RecordingController]:
    with RecordingController() as controller:
        yield controller


@pytest.fixture
def inside(tmp_path: Path, controller: RecordingController) -> Iterator[InsideAgent]:
    with InsideAgent(tmp_path, {"main": controller.url}, kill_grace=0.5) as inside:
        yield inside
