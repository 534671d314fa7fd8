"""Files of the agent's state that somebody removes, replaces, empties or prepares."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from greenagent.cli.agent.pid_file import PidFile
from greenagent.runtime import checkpoints
from greenagent.runtime.files import new_beside, replace_file
from greenagent.runtime.locks import FileLock, LockedError, lock_holder
from greenagent.runtime.state_files import StateFiles
from greenagent.spool.schema import STATISTICS
from greenagent.spool.spool import Spool
from greenagent.values.errors import GreenagentError
from greenagent.values.result import Result
from tests.support.agent_logs import RecordedLog
from tests.support.commands import shell
from tests.support.inside import InsideAgent


def spoil(path: Path, how: str) -> None:
    if how == "was removed":
        path.unlink()
    elif how == "was emptied":
        path.write_bytes(b"")
    else:
        other = path.with_name("other")
        other.write_text("other")
        other.rename(path)


@pytest.mark.parametrize("how", ["was removed", "was replaced", "was emptied"])
def test_a_state_file_that_goes_under_a_running_agent_is_said_once_and_made_again(tmp_path: Path, how: str) -> None:
    with InsideAgent(tmp_path, {}) as inside:
        agent = inside.agent
        inside.start_job({**shell("kept", "sleep 1000"), "args": {"name": "sleep", "args": ["1000"], "max_time": -1}})
        locks = [lock.path for lock in (*agent.spool.locks, *agent.store.locks)]
        files = [*locks, agent.history.path, agent.store.intake.ids.path]
        before = agent.history.path.read_bytes()
        for path in files:
            spoil(path, how)
        agent.state_files.look()
        agent.state_files.look()
        for path in files:
            assert len([line for line in inside.agent_log.lines if f"{path} {how}: it is made again" in line]) == 1, (
                path
            )
        for lock in locks:
            assert lock_holder(lock) == str(os.getpid())
        assert agent.history.path.read_bytes() == before
        assert int(agent.store.intake.ids.path.read_text()) >= agent.store.intake.ids.last_used()
        assert agent.monitoring.status.health() is None
        assert "kept" in agent.admission.live


@pytest.mark.parametrize("is_locked", [False, True])
@pytest.mark.parametrize("how", ["was removed", "was replaced", "was emptied"])
def test_a_ledger_that_goes_under_a_running_agent_is_put_back_with_what_it_held(
    tmp_path: Path, how: str, is_locked: bool
) -> None:
    """Also what lay in memory because another program held it locked."""
    with InsideAgent(tmp_path, {"main": "http://127.0.0.1:9"}) as inside:
        agent = inside.agent
        spool, path = agent.spool, agent.spool.path
        job = inside.start_job(shell("kept", "sleep 1000"))
        spool.report(0, "main", Result("one", 1, 10, "ping"), ends=False)
        if is_locked:
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                spool.report(0, "main", Result("two", 1, 10, "ping"), ends=False)
                assert not spool.is_writable
                spoil(path, how)
                agent.state_files.look()
                other.execute("ROLLBACK")
        else:
            spool.report(0, "main", Result("two", 1, 10, "ping"), ends=False)
            if how == "was emptied":  # nothing is in its log or in memory any more
                spool.database.run(lambda _: None)  # what was to be written later is
                with closing(sqlite3.connect(path)) as other:
                    other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                spool.database.run(lambda connection: connection.execute("PRAGMA shrink_memory"))
            spoil(path, how)
            agent.state_files.look()
        agent.state_files.look()
        said = [line for line in inside.agent_log.lines if f"the ledger {path} {how}: " in line]
        assert len(said) == 1
        assert spool.is_writable
        assert agent.monitoring.status.health() is None
        is_lost = how == "was emptied" and not is_locked
        assert ("lost with it" in said[0]) == is_lost
        wanted = [] if is_lost else ["one", "two"]
        assert [pending.id for pending in spool.pending("main", 10)] == wanted
        with closing(sqlite3.connect(path)) as reader:
            assert reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert reader.execute("SELECT value FROM meta WHERE key = 'instance'").fetchall() == [(spool.instance,)]
            if not is_lost:
                assert reader.execute("SELECT id, state FROM job WHERE row = ?", (job.row,)).fetchall() == [
                    ("kept", "running")
                ]
        assert path.stat().st_mode & 0o777 == 0o640
        found = list(tmp_path.glob(f"{path.name}.found-*"))
        assert [file.read_text() for file in found] == (["other"] if how == "was replaced" else [])
        agent.admission.kill("kept")
        assert [pending.id for pending in spool.pending("main", 10)] == [*wanted, "kept"]


@pytest.mark.parametrize(("how", "suffix"), [("was removed", "-wal"), ("was replaced", "-shm")])
def test_what_sqlite_keeps_beside_the_ledger_is_watched_too(tmp_path: Path, how: str, suffix: str) -> None:
    """Without them the next start does not find what was written lately, and other programs' locks do not count."""
    with InsideAgent(tmp_path, {"main": "http://127.0.0.1:9"}) as inside:
        agent = inside.agent
        spool = agent.spool
        beside = spool.database.file(suffix)
        spool.report(0, "main", Result("one", 1, 10, "ping"), ends=False)
        spoil(beside, how)
        spool.report(0, "main", Result("two", 1, 10, "ping"), ends=False)
        agent.state_files.look()
        agent.state_files.look()
        assert len([line for line in inside.agent_log.lines if f"{beside} {how}: it is made again" in line]) == 1, (
            inside.agent_log.lines
        )
        spool.report(0, "main", Result("three", 1, 10, "ping"), ends=False)
        with closing(sqlite3.connect(spool.path, isolation_level=None, timeout=0)) as other:
            found = other.execute("SELECT id FROM outcome ORDER BY row").fetchall()
            assert found == [("one",), ("two",), ("three",)]
            other.execute("BEGIN IMMEDIATE")
            spool.report(0, "main", Result("four", 1, 10, "ping"), ends=False)
            assert not spool.is_writable
            other.execute("ROLLBACK")


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_a_folder_in_the_place_of_what_sqlite_keeps_beside_the_ledger_is_set_aside(tmp_path: Path, suffix: str) -> None:
    with InsideAgent(tmp_path, {"main": "http://127.0.0.1:9"}) as inside:
        spool = inside.agent.spool
        beside = spool.database.file(suffix)
        spool.report(0, "main", Result("one", 1, 10, "ping"), ends=False)
        beside.unlink()
        beside.mkdir()
        (beside / "file").touch()
        inside.agent.state_files.look()
        inside.agent.state_files.look()
        assert f"{beside} was replaced: it is made again" in inside.stderr
        assert inside.agent.monitoring.status.health() is None
        spool.report(0, "main", Result("two", 1, 10, "ping"), ends=False)
        assert [pending.id for pending in spool.pending("main", 10)] == ["one", "two"]
        assert [found.name for found in tmp_path.glob(f"{beside.name}.found-*/file")] == ["file"]


@pytest.mark.parametrize(("content", "is_read_since"), [(b"", False), (b"x" * 100_000, True)])
def test_a_ledger_whose_log_is_overwritten_is_put_back_or_what_is_lost_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, is_read_since: bool
) -> None:
    """What sqlite has in memory is all there is then; its next start would find the whole ledger damaged."""
    monkeypatch.setattr(checkpoints, "PAUSE", 60)  # of a log that is merged already nothing is lost
    with InsideAgent(tmp_path, {"main": "http://127.0.0.1:9"}) as inside:
        agent = inside.agent
        spool = agent.spool
        log = spool.database.file("-wal")
        spool.report(0, "main", Result("one", 1, 10, "ping"), ends=False)
        if not is_read_since:
            spool.database.run(lambda connection: connection.execute("PRAGMA shrink_memory"))
        log.write_bytes(content)
        spool.report(0, "main", Result("two", 1, 10, "ping"), ends=False)
        agent.state_files.look()
        agent.state_files.look()
        [said] = [line for line in inside.agent_log.lines if str(log) in line]
        assert ("lost with it" in said) != is_read_since
        assert agent.monitoring.status.health() is None
        wanted = ["one", "two"] if is_read_since else ["two"]
        assert [pending.id for pending in spool.pending("main", 10)] == wanted
    again = Spool(spool.path, inside.agent_log, result_memory=10)
    again.start()
    assert [pending.id for pending in again.pending("main", 10)] == wanted
    again.stop()


def test_a_state_folder_that_is_moved_away_is_made_again_with_the_ledgers_content(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    with InsideAgent(folder, {"main": "http://127.0.0.1:9"}) as inside:
        agent = inside.agent
        agent.spool.report(0, "main", Result("one", 1, 10, "ping"), ends=False)
        folder.rename(tmp_path / "away")
        agent.state_files.look()
        said = f"the ledger {agent.spool.path} was removed: it is made again"
        assert len([line for line in inside.agent_log.lines if said in line]) == 1
        with closing(sqlite3.connect(agent.spool.path)) as other:
            assert other.execute("SELECT id FROM outcome").fetchall() == [("one",)]


@pytest.mark.parametrize("how", ["was removed", "was emptied", "was another program's"])
def test_a_ledger_that_went_while_the_agent_was_stopped_is_said_at_the_start(tmp_path: Path, how: str) -> None:
    with InsideAgent(tmp_path, {}) as first:
        assert "holds nothing of" not in first.stderr
        path = first.agent.spool.path
    with InsideAgent(tmp_path, {}) as second:
        assert "holds nothing of" not in second.stderr
    if how == "was another program's":
        path.unlink()
        with closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE other (x)")
    else:
        spoil(path, how)
    with InsideAgent(tmp_path, {}) as third:
        said = [line for line in third.agent_log.lines if f"the ledger {path} holds nothing of an earlier run" in line]
        assert len(said) == 1
        assert "the results it still owed its controllers are lost" in said[0]


@pytest.mark.parametrize("how", ["over it", "in its place"])
def test_a_ledger_that_went_back_while_the_agent_was_stopped_is_said_counted_and_shown_by_health(
    tmp_path: Path, how: str
) -> None:
    """As from a backup. The lock beside it tells how far it had got."""
    with InsideAgent(tmp_path, {"main": "http://127.0.0.1:9"}) as first:
        path = first.agent.spool.path
        first.agent.spool.report(0, "main", Result("one", 1, 10, "ping"), ends=False)
    backup, kept = path.read_bytes(), first.agent.spool.database.last_row
    with InsideAgent(tmp_path, {"main": "http://127.0.0.1:9"}) as second:
        assert "is an earlier one" not in second.stderr
        for number in range(3):
            second.agent.spool.report(0, "main", Result(f"late{number}", 1, 10, "ping"), ends=False)
    lost = second.agent.spool.database.last_row - kept  # the agent's own statistics may be among them
    assert lost >= 3
    if how == "in its place":
        path.unlink()
    path.write_bytes(backup)
    with InsideAgent(tmp_path, {"main": "http://127.0.0.1:9"}) as third:
        [said] = [line for line in third.agent_log.lines if "is an earlier one" in line]
        assert f"the ledger {path} is an earlier one" in said
        assert f": {lost} entries written since " in said
        status = third.agent.monitoring.status
        assert f"the ledger {path} lacked {lost} entries" in (status.health() or "")
        assert status.status()["ledger"]["lost"] == lost
        spool = third.agent.spool
        assert [pending.id for pending in spool.pending("main", 10)] == ["one"]
        spool.loss.shown_until = 0.0
        assert status.health() is None
        assert third.start_job(shell("on", "sleep 1000")).row > kept + lost, "no number is used twice"
    with InsideAgent(tmp_path, {"main": "http://127.0.0.1:9"}) as fourth:
        assert "is an earlier one" not in fourth.stderr
        assert fourth.agent.monitoring.status.health() is None


def test_entries_that_are_deleted_are_not_lost(tmp_path: Path) -> None:
    """Statistics go as they are delivered, the newest of all entries among them; also from memory, and at a kill."""
    log = RecordedLog()
    for end in ("stop", "kill"):
        spool = Spool(tmp_path / "ledger", log, result_memory=10)
        spool.start()
        assert not spool.loss.entries, end
        spool.put_statistics(["main"], ["[]"] * 5, 0)
        rows = [pending.row for pending in spool.pending("main", 10, path=STATISTICS)]
        spool.delivered("main", rows, path=STATISTICS)
        assert not spool.pending("main", 10, path=STATISTICS)
        with closing(sqlite3.connect(spool.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            spool.put_statistics(["main"], ["[]"], 0)
            assert not spool.is_writable
            other.execute("ROLLBACK")
        if end == "stop":
            spool.stop()
            continue
        for name in ("ledger", "ledger-wal", "ledger.lock"):
            (tmp_path / f"{name}.killed").write_bytes((tmp_path / name).read_bytes())
        spool.stop()
        for name in ("ledger", "ledger-wal", "ledger.lock"):
            (tmp_path / name).write_bytes((tmp_path / f"{name}.killed").read_bytes())
    spool = Spool(tmp_path / "ledger", log, result_memory=10)
    spool.start()
    assert not spool.loss.entries
    spool.stop()


def test_looking_at_the_ledger_takes_none_of_its_locks_away(tmp_path: Path) -> None:
    """Else the next program that closes the ledger takes itself for the last one, and removes its log under us."""
    read = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT count(*) FROM job'); c.close()"
    with InsideAgent(tmp_path, {}) as inside:
        path = inside.agent.spool.path
        inside.agent.state_files.look()
        subprocess.run([sys.executable, "-c", read, str(path)], check=True)
        assert path.with_name(path.name + "-wal").exists()
        inside.agent.state_files.look()
        assert "made again" not in inside.stderr


def test_a_state_file_that_cannot_be_made_again_makes_health_say_so_until_it_can(tmp_path: Path) -> None:
    with InsideAgent(tmp_path, {}) as inside:
        agent = inside.agent
        lock = agent.spool.locks[0].path
        lock.unlink()
        lock.mkdir()
        agent.state_files.look()
        agent.state_files.look()
        said = [line for line in inside.agent_log.lines if str(lock) in line]
        assert len(said) == 1
        assert "cannot be made again: " in said[0]
        assert f"the lock {lock} was replaced" in (agent.monitoring.status.health() or "")
        lock.rmdir()
        agent.state_files.look()
        assert agent.monitoring.status.health() is None


def test_a_pid_file_that_goes_is_written_again_but_not_over_that_of_a_living_process(tmp_path: Path) -> None:
    log, path = RecordedLog(), tmp_path / "pid"
    files, pid = StateFiles(log), PidFile(path)
    pid.write()
    pid.watch(files)
    for how in ("was removed", "was replaced", "was emptied"):
        spoil(path, how)
        files.look()
        assert path.read_text() == f"{os.getpid()}\n"
    replace_file(path, b"1\n")
    files.look()
    assert path.read_text() == "1\n"
    assert files.problems == [f"the pid file {path} was replaced"]
    files.close()


@pytest.mark.parametrize("links", [os.symlink, os.link])
def test_a_lock_behind_a_link_is_refused_and_what_it_points_at_is_left_alone(tmp_path: Path, links) -> None:
    secret, lock = tmp_path / "secret", tmp_path / "x.lock"
    secret.write_text("secret")
    links(secret, lock)
    with pytest.raises(GreenagentError, match="the lock"):
        FileLock(lock, "the thing").acquire()
    assert secret.read_text() == "secret"


def test_a_file_is_replaced_past_links_that_somebody_prepared(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (tmp_path / "history.new").symlink_to(secret)
    replace_file(tmp_path / "history", b"[]")
    (tmp_path / "pid.new").symlink_to(secret)
    PidFile(tmp_path / "pid").probe()
    assert secret.read_text() == "secret"
    assert (tmp_path / "history").read_bytes() == b"[]"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history", "history.new", "pid.new", "secret"]


def test_what_a_killed_process_left_of_a_new_file_goes_before_the_next_one(tmp_path: Path) -> None:
    path, secret = tmp_path / "history", tmp_path / "secret"
    secret.write_text("secret")
    killed = f"""
import os, signal
from pathlib import Path
from greenagent.runtime.files import replace_file
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
replace_file(Path({str(path)!r}), b"half way")
"""
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -signal.SIGKILL
    (left,) = tmp_path.glob("history.*.new")
    (left.parent / f"{left.name}-journal").touch()
    others = ["history.0123456789ab.new.bak", "history.new", "history2.0123456789ab.new", "x.history.0123456789ab.new"]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / "history.00112233aabb.new").symlink_to(secret)
    (tmp_path / "history.00112233aacc.new").mkdir()
    replace_file(path, b"[]")
    kept = ["history", "history.00112233aabb.new", "history.00112233aacc.new", "secret", *others]
    assert sorted(found.name for found in tmp_path.iterdir()) == sorted(kept)
    assert secret.read_text() == "secret"
    assert path.read_bytes() == b"[]"


def test_new_files_that_are_just_being_written_are_no_leftovers(tmp_path: Path) -> None:
    with new_beside(tmp_path / "a") as first:
        first.write_bytes(b"1")
        with new_beside(tmp_path / ".." / tmp_path.name / "a") as second:  # spelled in another way
            second.write_bytes(b"2")
            assert first.read_bytes() == b"1"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["message_id_file", "history_file", "ledger_file"])
def test_an_agent_whose_state_file_is_a_link_does_not_start_and_names_it(tmp_path: Path, name: str) -> None:
    inside = InsideAgent(tmp_path, {})
    path: Path = getattr(inside.agent.settings.main, name)
    target = tmp_path / "elsewhere"
    target.write_text("untouched")
    path.symlink_to(target)
    with pytest.raises(GreenagentError, match=f"{name}.*is a symbolic link"), inside:
        pass
    assert target.read_text() == "untouched"


def test_an_empty_history_is_said_and_one_that_cannot_be_read_stays_as_it_is(tmp_path: Path) -> None:
    inside = InsideAgent(tmp_path, {})
    path = inside.agent.settings.main.history_file
    path.write_bytes(b"")
    with inside:
        assert f"{path} was empty" in inside.stderr
    path.unlink()
    path.mkdir()
    with pytest.raises(GreenagentError, match="cannot read"), InsideAgent(tmp_path, {}):
        pass
    assert path.is_dir()


def test_a_second_lock_on_a_file_in_use_names_its_holder(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "x.lock", "the thing")
    lock.acquire()
    with pytest.raises(LockedError, match=f"process {os.getpid()}"):
        FileLock(tmp_path / "x.lock", "the thing").acquire()
    lock.release()
