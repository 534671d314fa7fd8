"""A started ledger and what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from greenagent.ledger.ledger import Ledger
from tests.support.agent_logs import RecordedLog


@pytest.fixture
def agent_log() -> RecordedLog:
    return RecordedLog()


@pytest.fixture
def ledger(tmp_path: Path, agent_log: RecordedLog) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.db", agent_log, result_memory=1000)
    ledger.start()
    yield ledger
    ledger.stop()
