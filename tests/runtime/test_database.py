"""A small database behind its own thread: shared commits, each caller told what became of its own."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from greenagent.runtime import checkpoints
from greenagent.runtime.blocked import BlockedTime
from greenagent.runtime.database import NativeDatabase
from greenagent.runtime.native import native_sleep
from tests.support.waiting import wait_until


@pytest.fixture
def database(tmp_path: Path) -> Iterator[NativeDatabase]:
    database = NativeDatabase(tmp_path / "a.db", ["CREATE TABLE IF NOT EXISTS t (x INTEGER UNIQUE)"])
    database.start()
    yield database
    database.stop()


def insert(*numbers: int):
    return lambda connection: [connection.execute("INSERT INTO t VALUES (?)", (number,)) for number in numbers]


def test_in_a_shared_commit_only_the_failed_function_is_undone(database: NativeDatabase) -> None:
    outcomes = [database.submit(insert(*numbers)) for numbers in ((1,), (2, 1), (3,), (4, 4), (5,))]
    for index in (1, 3):
        with pytest.raises(sqlite3.IntegrityError):
            outcomes[index].get(timeout=60)
    for index in (0, 2, 4):
        outcomes[index].get(timeout=60)
    assert database.run(lambda c: c.execute("SELECT x FROM t ORDER BY x").fetchall()) == [(1,), (3,), (5,)]


def test_a_function_alone_is_undone_too(database: NativeDatabase) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        database.run(insert(1, 1))
    assert database.run(lambda c: c.execute("SELECT count(*) FROM t").fetchone()) == (0,)
    database.run(insert(1))
    assert database.run(lambda c: c.execute("SELECT count(*) FROM t").fetchone()) == (1,)


def test_what_is_returned_is_committed(database: NativeDatabase, tmp_path: Path) -> None:
    database.run(insert(7))
    other = sqlite3.connect(tmp_path / "a.db")
    assert other.execute("SELECT x FROM t").fetchall() == [(7,)]
    other.close()


def test_a_commit_that_fails_as_the_database_stops_is_told_to_everybody_in_it(tmp_path: Path) -> None:
    """The last commit was made by the closing of the file, and whoever waited for it was told success."""
    schema = [
        "PRAGMA foreign_keys = ON",
        "CREATE TABLE IF NOT EXISTS parent (x INTEGER PRIMARY KEY)",
        # Checked by COMMIT, not by the statement.
        "CREATE TABLE IF NOT EXISTS child (x INTEGER REFERENCES parent (x) DEFERRABLE INITIALLY DEFERRED)",
    ]
    database = NativeDatabase(tmp_path / "a.db", schema)
    database.start()
    database.submit(lambda connection: native_sleep(0.2))  # what follows waits, and is one batch
    outcomes = [
        database.submit(lambda connection, n=n, table=table: connection.execute(f"INSERT INTO {table} VALUES ({n})"))
        for n, table in ((1, "parent"), (7, "child"))
    ]
    database.stop()
    for outcome in outcomes:
        with pytest.raises(sqlite3.IntegrityError):
            outcome.get(timeout=60)
    again = sqlite3.connect(tmp_path / "a.db")
    assert again.execute("SELECT count(*) FROM parent").fetchone() == (0,)
    again.close()


def test_a_damaged_page_is_found_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    damage(path)
    with pytest.raises(sqlite3.DatabaseError, match="malformed"):
        NativeDatabase(path, ["CREATE TABLE IF NOT EXISTS t (x TEXT)"]).start()


def damage(path: Path) -> None:
    """A file whose beginning is in order, and a page in its middle is not."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x TEXT)")
    connection.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,) for _ in range(100)])
    connection.commit()
    connection.close()
    content = bytearray(path.read_bytes())
    content[5 * 4096 : 6 * 4096] = bytes(4096)
    path.write_bytes(content)


def salts_of(log: Path) -> bytes:
    """Others each time that a write-ahead log is begun anew."""
    with log.open("rb") as file:
        return file.read(24)[16:]


def where(connection: sqlite3.Connection) -> int:
    return threading.get_native_id()


def test_what_is_quick_runs_on_the_hub_while_the_thread_has_nothing_to_do(database: NativeDatabase) -> None:
    here = threading.get_native_id()
    assert database.run(where) != here
    assert database.run_at_once(where) == here
    database.submit(lambda connection: native_sleep(0.05))
    assert database.run_at_once(where) != here


def test_what_was_put_for_later_keeps_its_place_before_what_runs_at_once(database: NativeDatabase) -> None:
    later = [database.submit_later(insert(*numbers), seconds=60) for numbers in ((1,), (1,), (2,))]
    found = database.run_at_once(lambda c: c.execute("SELECT x FROM t ORDER BY x").fetchall())
    assert found == [(1,), (2,)]
    later[0].get(block=False)
    with pytest.raises(sqlite3.IntegrityError):
        later[1].get(block=False)


def test_what_fails_at_once_is_undone_alone(database: NativeDatabase) -> None:
    later = database.submit_later(insert(1), seconds=60)
    with pytest.raises(sqlite3.IntegrityError):
        database.run_at_once(insert(2, 1))
    later.get(timeout=60)
    with pytest.raises(ZeroDivisionError):
        database.run_at_once(lambda c: (insert(3)(c), 1 // 0))
    assert database.run_at_once(lambda c: c.execute("SELECT x FROM t").fetchall()) == [(1,)]


def test_another_programs_lock_is_waited_for_in_the_thread(database: NativeDatabase, tmp_path: Path) -> None:
    later = database.submit_later(insert(1), seconds=60)
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    gevent.spawn_later(0.1, other.execute, "COMMIT")  # a hub that waited would never get to it
    ran = database.run_at_once(lambda c: (insert(2)(c), where(c))[1])
    other.close()
    assert ran != threading.get_native_id()
    later.get(timeout=60)
    assert database.run(lambda c: c.execute("SELECT x FROM t ORDER BY x").fetchall()) == [(1,), (2,)]


def test_after_a_slow_commit_the_thread_has_the_next_ones(database: NativeDatabase) -> None:
    database.run_at_once(lambda c: c.set_progress_handler(lambda: native_sleep(0.02), 1))
    assert database.run_at_once(where) != threading.get_native_id()


def test_a_machine_that_is_busy_with_others_is_no_slow_disk() -> None:
    """Nor is work: two that share a processor wait for it most of the time."""
    every = os.sched_getaffinity(0)
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    blocked = BlockedTime()

    def queued() -> float:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9

    try:
        for pid in (0, other.pid):
            os.sched_setaffinity(pid, {min(every)})
        began, worked = time.monotonic(), time.thread_time()
        blocked.start()
        until, deadline = queued() + 0.1, began + 60
        while queued() < until:
            assert time.monotonic() < deadline
        found = blocked.seconds()
        assert found <= time.monotonic() - began - (time.thread_time() - worked) - 0.1
        blocked.start()
        native_sleep(0.05)
        assert blocked.seconds() >= 0.049
        assert blocked.seconds(least=60) == 0
    finally:
        os.sched_setaffinity(0, every)
        other.kill()
        other.wait()
        blocked.close()


def test_checkpoints_are_made_beside_the_commits(database: NativeDatabase, tmp_path: Path) -> None:
    plain = tmp_path / "a.db"  # looked at by its stamp: to open and close it would drop sqlite's locks
    assert database.run(lambda c: c.execute("PRAGMA wal_autocheckpoint").fetchone()) == (0,)
    before = plain.stat().st_mtime_ns
    database.run_at_once(insert(1))
    wait_until(lambda: plain.stat().st_mtime_ns != before)


def test_a_log_that_is_removed_at_once_is_not_made_again_by_the_checkpoints(
    database: NativeDatabase, tmp_path: Path
) -> None:
    """A log of their own would hide from the watch that the writer's is gone."""
    plain, log = tmp_path / "a.db", tmp_path / "a.db-wal"
    log.unlink()
    before = plain.stat().st_mtime_ns
    database.run_at_once(insert(1))
    wait_until(lambda: plain.stat().st_mtime_ns != before or log.exists(), what="a checkpoint")
    assert not log.exists()


def test_a_log_that_was_overwritten_is_not_merged(
    database: NativeDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor begun anew: what is in memory can be saved, until what was written over the log lies in the file, too."""
    plain, log = tmp_path / "a.db", tmp_path / "a.db-wal"
    looks: list[bool] = []
    is_intact = database.is_intact
    monkeypatch.setattr(database, "is_intact", lambda suffix: looks.append(is_intact(suffix)) or looks[-1])
    database.run_at_once(insert(1))
    log.write_bytes(b"x" * 100_000)
    before = plain.stat().st_mtime_ns
    looks.clear()
    database.run(lambda connection: None)
    wait_until(lambda: looks, what="a checkpoint")
    assert not any(looks)
    assert plain.stat().st_mtime_ns == before


def test_a_log_that_never_comes_to_rest_is_begun_anew(
    database: NativeDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "LARGE", 0)
    log = tmp_path / "a.db-wal"
    database.run_at_once(insert(0))
    salts = salts_of(log)
    for number in range(1, 100_000):
        database.run_at_once(insert(number))
        if salts_of(log) != salts:
            break
    else:
        pytest.fail("the log only grows")
