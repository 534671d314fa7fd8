"""A started ledger and what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from greenagent.spool.spool import Spool
from tests.support.agent_logs import RecordedLog


@pytest.fixture
def agent_log() -> RecordedLog:
    return RecordedLog()


@pytest.fixture
def spool(tmp_path: Path, agent_log: RecordedLog) -> Iterator[Spool]:
    spool = Spool(tmp_path / "ledger.db", agent_log, result_memory=1000)
    spool.start()
    yield spool
    spool.stop()
