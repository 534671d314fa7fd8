"""Upload cursors survive with the spool, and those of version 0.1 are taken over."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from greenagent.spool.spool import Spool
from greenagent.values.errors import GreenagentError
from tests.data.make_state_0_1 import STATE
from tests.support.agent_logs import RecordedLog

ROWS = [("ac/main", 1, 17, None), ("ac/gone", 2, 5, 1234.5)]


def reopened(spool: Spool) -> Spool:
    spool.stop()
    again = Spool(spool.path, RecordedLog(), result_memory=1000)
    again.start()
    return again


def test_what_is_stored_is_loaded(spool: Spool, tmp_path: Path) -> None:
    assert spool.cursors.load(tmp_path / "none") == ([], 0)
    spool.cursors.replace(ROWS, 18)
    spool.cursors.advance("ac/main", 20, 25)
    again = reopened(spool)
    assert again.cursors.load(tmp_path / "none") == ([("ac/main", 1, 20, None), ROWS[1]], 25)
    again.cursors.replace(ROWS[:1], 30)
    assert again.cursors.load(tmp_path / "none") == (ROWS[:1], 30)
    again.stop()


def test_those_of_0_1_are_taken_over_and_their_file_goes_at_the_next_start(spool: Spool, tmp_path: Path) -> None:
    for path in (STATE / "logs").glob("uploads.sqlite*"):
        shutil.copy(path, tmp_path)
    uploads = tmp_path / "uploads.sqlite"
    [(name, bit, seq, removed)], floor = spool.cursors.load(uploads)
    assert (name, bit, removed) == ("ac/main", 1, None)
    assert 2500 < seq < floor
    assert uploads.exists()
    again = reopened(spool)
    assert again.cursors.load(uploads) == ([(name, bit, seq, removed)], floor)
    assert not list(tmp_path.glob("uploads.sqlite*"))
    again.stop()


def test_a_damaged_file_of_0_1_is_said(spool: Spool, tmp_path: Path, agent_log: RecordedLog) -> None:
    uploads = tmp_path / "uploads.sqlite"
    uploads.write_bytes(b"this is no database " * 1000)
    assert spool.cursors.load(uploads) == ([], 0)
    assert any("uploads.sqlite cannot be read" in line for line in agent_log.lines)


def test_a_file_of_0_1_that_cannot_be_read_now_is_no_damaged_one(spool: Spool, tmp_path: Path) -> None:
    uploads = tmp_path / "uploads.sqlite"
    uploads.mkdir()  # sqlite: unable to open database file
    with pytest.raises(GreenagentError, match=r"uploads\.sqlite cannot be read: unable to open"):
        spool.cursors.load(uploads)
