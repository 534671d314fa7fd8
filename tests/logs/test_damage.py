"""Files that are damaged, foreign or locked, and a disk that is full: logging goes on and says so."""

import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import gevent
import pytest

from greenagent.logs.lines import Block
from greenagent.logs.read.query import LogQuery
from greenagent.logs.write import database, database_file
from greenagent.logs.write.job_log import Routes
from greenagent.values.message import Message
from tests.support.namespaces import run_with_mount
from tests.support.stores import CHATTY, Stores, job, rows


def fill(stores: Stores, lines: int = 2000) -> None:
    store = stores.open()
    job(store).append([Block(1, "old line of some length\n" * lines, lines)])
    store.stop()


def damaged(stores: Stores) -> list[str]:
    return [path.name for path in stores.folder.path.glob("damaged-*.sqlite")]


@pytest.mark.parametrize("how", ["garbage", "short garbage", "truncated", "cut in a page", "overwritten", "crashed"])
def test_a_damaged_file_is_set_aside_at_start(stores: Stores, how: str) -> None:
    fill(stores)
    path = stores.folder.current
    content = path.read_bytes()
    if how == "garbage":
        path.write_bytes(os.urandom(len(content)))
    elif how == "short garbage":
        path.write_bytes(b"hello")
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 8192 * 4096])
    elif how == "cut in a page":
        path.write_bytes(content[:-1000])
    elif how == "overwritten":
        path.write_bytes(content[:18] + b"\2\2" + content[20:8192] + b"\xff" * (len(content) - 8192))
    else:
        # Half of a file that was not closed cleanly.
        path.write_bytes(content[:18] + b"\2\2" + content[20 : len(content) // 8192 * 4096])
    store = stores.open()
    job(store).append([Message(1, "new")])
    store.flush()
    assert rows(stores.folder, "data") == [("new",)]
    assert len(damaged(stores)) == 1
    assert len([line for line in stores.agent_log.lines if "is damaged" in line]) == 1
    # Neither ids nor seq may repeat although the file cannot tell its last ones.
    assert rows(stores.folder, "id")[0][0] > 2000
    assert rows(stores.folder, "seq")[0][0] > 2000


def test_a_database_that_was_emptied_is_said(stores: Stores) -> None:
    fill(stores)
    (path,) = stores.folder.databases()
    os.truncate(path, 0)
    store = stores.open()
    job(store).append([Message(1, "new")])
    store.flush()
    assert rows(stores.folder, "data") == [("new",)]
    assert rows(stores.folder, "seq")[0][0] > 2000
    assert [line for line in stores.agent_log.lines if f"{path} was empty" in line]


@pytest.mark.parametrize("error", ["disk I/O error", "unable to open database file", "database or disk is full"])
def test_trouble_at_the_start_that_is_no_damage_touches_no_healthy_file(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    fill(stores, lines=1)
    before = sorted(os.listdir(stores.folder.path))

    def connect(*args: object, **kwargs: object) -> None:
        raise sqlite3.OperationalError(error)

    with monkeypatch.context() as patch:
        patch.setattr(database_file.sqlite3, "connect", connect)
        (path,) = stores.folder.databases()
        with pytest.raises(sqlite3.OperationalError, match=error):
            database_file.inspect(path)
        with pytest.raises(sqlite3.OperationalError, match=error):
            database_file.find_newest(stores.folder, stores.agent_log.warning)
    assert sorted(os.listdir(stores.folder.path)) == before
    stores.open()
    assert rows(stores.folder, "data") == [("old line of some length",)]
    assert not damaged(stores)


@pytest.mark.parametrize("how", ["overwritten", "truncated"])
def test_damage_while_running_costs_no_line_that_is_still_to_be_written(stores: Stores, how: str) -> None:
    store = stores.open()
    log = job(store)
    log.append([Block(1, "old\n" * 5000, 5000)])
    store.flush()

    def damage() -> None:
        store.writer.database.merge_log()
        path = store.writer.database.path
        if how == "truncated":
            os.truncate(path, 8192)
        else:
            with open(path, "r+b") as file:
                file.seek(100)
                file.write(b"\xff" * (path.stat().st_size - 100))
        store.writer.database.connection.execute("PRAGMA shrink_memory")

    store.intake.call(damage)
    log.append([Block(1, "new\n" * 5000, 5000)])
    store.flush()
    log.append([Message(1, "last")])
    store.flush()
    kept = [data for (data,) in rows(stores.folder, "data")]
    assert kept == ["new"] * 5000 + ["last"]
    assert len(damaged(stores)) == 1
    assert len([line for line in stores.agent_log.lines if "is damaged" in line]) == 1


def test_a_file_locked_by_another_program_is_left_to_it(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_WAIT", 0.3)
    monkeypatch.setattr(database_file, "LOCK_WAIT", 0.3)
    store = stores.open()
    log = job(store)
    log.append([Message(1, "before")])
    store.flush()
    with closing(sqlite3.connect(stores.folder.current, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        log.append([Message(1, "meanwhile")])
        store.flush()
        assert [data for (data,) in rows(stores.folder, "data")] == ["before", "meanwhile"]
        other.execute("INSERT INTO meta VALUES ('theirs', 1)")
        other.execute("COMMIT")
    said = [line for line in stores.agent_log.lines if "is locked by another program" in line]
    assert len(said) == 1
    log.append([Message(1, "after")])
    store.flush()
    assert [data for (data,) in rows(stores.folder, "data")] == ["before", "meanwhile", "after"]
    assert len(stores.folder.archives()) == 1


def test_a_file_locked_at_the_start_is_left_too(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_WAIT", 0.3)
    monkeypatch.setattr(database_file, "LOCK_WAIT", 0.3)
    fill(stores, 3)
    with closing(sqlite3.connect(stores.folder.current, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        store = stores.open()
        job(store).append([Message(1, "new")])
        store.flush()
        other.execute("ROLLBACK")
    assert rows(stores.folder, "seq, data")[-1][1] == "new"
    assert len([line for line in stores.agent_log.lines if "is locked by another program" in line]) == 1


def test_a_file_of_the_original_agent_becomes_an_archive_that_stays_readable(stores: Stores) -> None:
    stores.folder.create()
    shutil.copy(Path(__file__).parents[1] / "data/original-logs/current.db", stores.folder.current)
    store = stores.open()
    job(store).append([Message(1, "ours")])
    store.flush()
    assert len(stores.folder.archives()) == 1
    found = store.query(LogQuery())
    assert found[0].data == "ours"
    assert "original" in found[1].data


def test_rows_that_another_program_put_into_our_file_are_kept(stores: Stores) -> None:
    store = stores.open()
    log = job(store)
    log.append([Message(1, "a")])
    store.flush()
    with closing(sqlite3.connect(stores.folder.current, isolation_level=None)) as other:
        other.execute("INSERT INTO logs VALUES (99, 'j', '', '', 1.0, 1, 'theirs', 0, 2)")
    log.append([Message(1, "b")])
    store.flush()
    assert rows(stores.folder, "seq, data") == [(1, "a"), (2, "theirs"), (3, "b")]


def on_small_disk(tmp_path: Path, script: str) -> str:
    """Runs a shell script with a disk of 3 MB at ``$DISK``; returns what it printed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    return run_with_mount('mount -t tmpfs -o size=3m tmpfs "$DISK"', script, DISK=disk)


def test_on_a_full_disk_lines_are_counted_and_the_agent_goes_on(tmp_path: Path) -> None:
    script = f'"$PYTHON" {CHATTY} "$DISK/logs" "$DISK/mid" 104857600 60000; ls "$DISK/logs"'
    output = on_small_disk(tmp_path, script)
    stored, dropped = map(int, re.findall(r"figures (\d+) (\d+)", output)[0])
    assert stored + dropped == 60_000
    assert dropped > 10_000
    assert len(re.findall("logs cannot be written to", output)) == 1


def test_when_space_returns_the_jobs_log_says_what_it_misses(tmp_path: Path) -> None:
    program = Path(__file__).with_name("programs") / "full_disk.py"
    output = on_small_disk(tmp_path, f'"$PYTHON" {program} "$DISK"')
    lost = int(re.findall(r"lost (\d+)", output)[0])
    assert lost > 0
    assert f"note 7 {lost} lines of this job were lost: the log database could not be written" in output
    assert "after it" in output
    assert "verify fine" in output
    assert f"logs can be written again: {lost} lines of 1 jobs were lost" in output


def test_a_damaged_archive_stops_neither_uploads_nor_questions_nor_deletions(stores: Stores) -> None:
    store = stores.open()
    bits = store.register_pairs(["a"])
    log = job(store, routes=Routes(pairs=[(bits["a"], None)]))
    for text in ("first", "damaged", "last"):
        log.append([Message(1, text)])
        store.intake.call(store.writer.rotate)
    log.append([Message(1, "current")])
    store.flush()
    archive = stores.folder.archives()[1]
    archive.write_bytes(b"rubbish " * 2000)
    for _ in range(2):
        assert [record.data for record in store.query(LogQuery())] == ["current", "last", "first"]
    assert store.delete(LogQuery(text="nothing")) == (0, 0)
    for _ in range(2):
        assert [record.data for record in store.pending("a").read()] == ["first", "last", "current"]
    assert len(damaged(stores)) == 1
    assert not archive.exists()
    gevent.sleep(0)
    for words in ("answers are given without it", "is kept as damaged-", "no lines are deleted in it"):
        assert len([line for line in stores.agent_log.lines if words in line]) == 1, stores.agent_log.lines
