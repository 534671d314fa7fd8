"""Lines that were stored and are gone at the next start, since their database lost its write-ahead log."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.agents import StartAgent
from tests.support.commands import shell
from tests.support.metrics import free_port, listening, samples
from tests.support.recording_controller import RecordingController

LOST = re.compile(r"error: (\d+) lines that were stored are lost")


def stored(folder: Path, place: Path) -> int:
    """How many lines there are, told from a copy: whoever opens the files themselves merges their logs."""
    shutil.copytree(folder, place)
    (path,) = [path for path in place.glob("*.db") if path.name != "current.db"]
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM logs").fetchone()[0])


@pytest.mark.parametrize("how", ["emptied", "overwritten with zeros", "removed"])
def test_lines_that_went_with_a_log_are_counted_and_said(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path, how: str
) -> None:
    port = free_port()
    agent = start_agent(more=listening(port))
    for number in range(2):
        controller.push(shell(f"j{number}", "seq 1000"))
        assert controller.wait_for_result(f"j{number}")["state"] == "SUCCESS"
    agent.kill()
    logs = agent.folder / "logs"
    before = stored(logs, tmp_path / "before")
    (log,) = logs.glob("*.db-wal")
    if how == "removed":
        log.unlink()
    else:
        log.write_bytes(b"\0" * (log.stat().st_size if how == "overwritten with zeros" else 0))
    left = stored(logs, tmp_path / "after")
    assert left < before
    agent.start()
    assert [int(count) for count in LOST.findall(agent.stderr)] == [before - left]
    assert agent.rows("jobid = 'agent' AND data LIKE '%that were stored are lost%'")
    assert samples(port)[("greenagent_log_lines_dropped_total",)] == before - left
    agent.kill()
    agent.start()
    assert agent.stop() == 0
    agent.start()
    assert len(LOST.findall(agent.stderr)) == 1, "said once, and nothing was lost since"


def test_a_copy_of_a_log_folder_misses_nothing(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    """It may be older than the lock that was copied with it."""
    agent = start_agent(folder=tmp_path / "first")
    controller.push(shell("j", "seq 1000"))
    assert controller.wait_for_result("j")["state"] == "SUCCESS"
    agent.kill()
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    for log in (tmp_path / "second" / "logs").glob("*.db-wal"):
        log.unlink()
    second = start_agent(folder=tmp_path / "second")
    assert not LOST.findall(second.stderr)
