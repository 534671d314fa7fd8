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
from tests.support.metrics import listening, samples
from tests.support.ports import reserve_port
from tests.support.recording_controller import RecordingController, status
from tests.support.waiting import wait_until

LOST = re.compile(r"error: (\d+) lines that were stored are lost")


def stored(folder: Path, place: Path) -> int:
    """How many lines there are, told from a copy: whoever opens the files themselves merges their logs."""
    shutil.copytree(folder, place)
    (path,) = [path for path in place.glob("*.db") if path.name != "current.db"]
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM logs").fetchone()[0])


def next_seq(folder: Path) -> str:
    with closing(sqlite3.connect(folder / "current.db")) as connection:
        (number,) = connection.execute("SELECT value FROM meta WHERE key = 'next_seq'").fetchone()
        return str(number)


@pytest.mark.parametrize("how", ["emptied", "overwritten with zeros", "removed"])
def test_lines_that_went_with_a_log_are_counted_and_said(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path, how: str
) -> None:
    port = reserve_port()
    agent = start_agent(more=listening(port))
    for number in range(2):
        controller.push(shell(f"j{number}", "seq 1000"))
        assert controller.wait_for_result(f"j{number}")["state"] == "SUCCESS"
    logs = agent.folder / "logs"
    wait_until(lambda: (agent.newest("j1", 1) or (None,))[-1] == "1000", what="all lines in the databases")
    wait_until(lambda: next_seq(logs) in (logs / ".lock").read_text().split(), what="the lock to tell of them")
    agent.kill()
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
    noted = "jobid = 'agent' AND data LIKE '%that were stored are lost%'"
    wait_until(lambda: agent.rows(noted), what="the note of it to be stored")
    assert samples(port)[("greenagent_log_lines_dropped_total",)] == before - left
    agent.kill()
    agent.start()
    assert agent.stop() == 0
    agent.start()
    assert len(LOST.findall(agent.stderr)) == 1, "said once, and nothing was lost since"


@pytest.mark.parametrize(("what", "is_killed"), [("*.db*", False), ("*.db*", True), ("*", False)])
def test_lines_that_waited_in_databases_that_are_gone_are_counted_and_said(
    controller: RecordingController, start_agent: StartAgent, what: str, is_killed: bool
) -> None:
    """The cursors in the ledger tell from where on they waited, the lock or the ledger up to where."""
    port = reserve_port()
    agent = start_agent(more=listening(port))
    controller.push(shell("sent", "seq 5 >&2"))
    wait_until(lambda: len(controller.logs) == 5, what="the lines")
    controller.misbehave("log", status(503))
    controller.push(shell("waits", "seq 7 >&2"))
    assert controller.wait_for_result("waits")["state"] == "SUCCESS"
    wait_until(lambda: (agent.newest("waits", 2) or (None,))[-1] == "7", what="all lines in the databases")
    if is_killed:
        agent.kill()
    else:
        agent.stop()
    for path in (agent.folder / "logs").glob(what):
        path.unlink()
    agent.start()
    (most,) = re.findall(
        r"no log database of an earlier run: up to (\d+) that waited for ac/main are lost", agent.stderr
    )
    assert 7 <= int(most) < 1000, "lines for nobody are in between, but no reserved block of ids"
    noted = "jobid = 'agent' AND data LIKE '%holds no log database of an earlier run%'"
    wait_until(lambda: agent.rows(noted), what="the note of it to be stored")
    assert samples(port)[("greenagent_log_lines_dropped_total",)] == int(most)
    agent.kill()
    agent.start()
    assert agent.stderr.count("no log database of an earlier run") == 1


@pytest.mark.parametrize("is_killed", [False, True])
def test_lines_that_waited_in_an_older_database_that_is_gone_are_counted_and_said(
    controller: RecordingController, start_agent: StartAgent, is_killed: bool
) -> None:
    """Not what a cap removed before, which is said then."""
    port = reserve_port()
    agent = start_agent(more=listening(port), logging="max_db_size = 300_000\nmax_dbs = 2")

    def archives() -> list[Path]:
        return sorted(path for path in (agent.folder / "logs").glob("1*.db"))[:-1]

    controller.misbehave("log", status(503))
    controller.push(shell("waits", "seq 15000 >&2"))
    assert controller.wait_for_result("waits")["state"] == "SUCCESS"
    wait_until(lambda: (agent.newest("waits", 2) or (None,))[-1] == "15000", what="all lines in the databases")
    agent.await_said("is removed for max_dbs")
    known = archives()
    agent.kill() if is_killed else agent.stop()
    with closing(sqlite3.connect(known[-1])) as connection:
        (waiting,) = connection.execute("SELECT count(*) FROM logs WHERE jobid = 'waits'").fetchone()
        assert waiting
    known[-1].unlink()
    agent.start()
    (found,) = re.findall(
        r"removed from .* while no agent ran: (.*): up to (\d+) lines that waited for (.*) are lost", agent.stderr
    )
    assert (found[0], found[2]) == (known[-1].name, "ac/main")
    assert waiting <= int(found[1]) <= waiting + 10, "lines for nobody may be in between"
    assert samples(port)[("greenagent_log_lines_dropped_total",)] == int(found[1])
    agent.kill()
    agent.start()
    assert agent.stderr.count("while no agent ran") == 1


def test_what_is_not_known_of_log_databases_that_are_gone_is_not_made_up(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent()
    assert "no log database" not in agent.stderr
    controller.push(shell("sent", "seq 5 >&2"))
    wait_until(lambda: len(controller.logs) == 5, what="the lines")
    agent.stop()
    for path in (agent.folder / "logs").iterdir():
        path.unlink()
    agent.start()
    assert f"lines were stored, but {agent.folder}/logs holds no log database of an earlier run\n" in agent.stderr


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
