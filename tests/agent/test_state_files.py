"""Files of the agent's state that somebody removes, replaces, empties or prepares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from greenagent.cli.agent.pid_file import PidFile
from greenagent.runtime.files import FileLock, LockedError, lock_holder, replace_file
from greenagent.runtime.state_files import StateFiles
from greenagent.values.errors import GreenagentError
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
        inside.start_job({**shell("kept", "sleep 60"), "args": {"name": "sleep", "args": ["60"], "max_time": -1}})
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


@pytest.mark.parametrize("name", ["message_id_file", "history_file"])
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
