"""A started ledger and what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from greenagent.ledger.ledger import Ledger
from tests.support.voices import HeardVoice


@pytest.fixture
def voice() -> HeardVoice:
    return HeardVoice()


@pytest.fixture
def ledger(tmp_path: Path, voice: HeardVoice) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.db", voice, result_memory=1000)
    ledger.start()
    yield ledger
    ledger.stop()
