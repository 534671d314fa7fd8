"""What a replacement in place takes of the system before there is no way back."""

from __future__ import annotations

import errno
import gc
import os
import resource
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from greenagent.agent.upgrade import STATE_ROOM, check_handover, open_state
from greenagent.runtime.locks import FileLock
from tests.support.inside import InsideAgent


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_the_state_has_its_room_and_the_locks_before_any_job_stops(tmp_path: Path) -> None:
    with InsideAgent(tmp_path, {}) as inside:
        spool = inside.agent.spool
        state = open_state(spool.path, spool.locks)
        try:
            assert os.fstat(state.descriptor).st_size == STATE_ROOM
            assert state.ledger_file == spool.path.absolute()
            assert list(state.locks) == [str(lock.path) for lock in spool.locks]
            assert not os.get_inheritable(state.descriptor), "a program that is started meanwhile must not get it"
        finally:
            for descriptor in (state.descriptor, *state.locks.values()):
                os.close(descriptor)


def test_without_room_nothing_is_held(tmp_path: Path) -> None:
    """Without an agent, whose threads open and close files of their own meanwhile."""
    locks = [FileLock(tmp_path / name, "a file") for name in ("one.lock", "two.lock")]
    for lock in locks:
        lock.acquire()
    gc.collect()  # or what an earlier test left is closed meanwhile, and makes room
    gc.disable()
    before = open_descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(0)]
    while taken[-1] < max(map(int, before)):  # no gap below
        taken.append(os.dup(0))
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 2, hard))  # for the state and the first lock, not for the other
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            open_state(tmp_path / "history.db", locks)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        gc.enable()
        for descriptor in taken:
            os.close(descriptor)
    assert open_descriptors() == before
    for lock in locks:
        lock.release()


def test_nothing_is_replaced_while_the_cursors_of_0_1_cannot_be_read(tmp_path: Path) -> None:
    """The new image would refuse to start, after the old one is gone."""
    settings = InsideAgent(tmp_path, {}).agent.settings
    (tmp_path / "logs").mkdir()
    uploads = tmp_path / "logs" / "uploads.sqlite"
    with closing(sqlite3.connect(uploads, isolation_level=None)) as other:
        other.execute("CREATE TABLE pair (name, bit, cursor, removed)")
        other.execute("CREATE TABLE meta (key, value)")
        assert check_handover("1", settings, {}) is None
        other.execute("BEGIN EXCLUSIVE")
        assert check_handover("1", settings, {}) == f"{uploads} cannot be read: database is locked"
        other.execute("ROLLBACK")
    uploads.write_text("damaged, so there is nothing to wait for")
    assert check_handover("1", settings, {}) is None
