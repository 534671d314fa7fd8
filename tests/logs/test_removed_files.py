"""The log folder or its files are swept away while a store is open: it goes on, and what was lost is counted."""

from __future__ import annotations

import shutil

import pytest

from greenagent.logs.read.query import LogQuery
from greenagent.logs.read.scan import Scan
from greenagent.logs.write.job_log import Routes
from greenagent.logs.write.retention import StoreLimits
from greenagent.values.errors import GreenagentError
from greenagent.values.levels import parse_levels
from greenagent.values.message import Message
from tests.support.stores import Stores, job, rows
from tests.support.waiting import wait_until


@pytest.mark.parametrize("levels", [None, "1"])
def test_a_reader_says_what_was_removed_before_it_came_to_it(stores: Stores, levels: str | None) -> None:
    """Neither more nor less, whatever of the lines was for controllers alone, or deleted."""
    store = stores.open(limits=StoreLimits(max_dbs=2))
    bits = store.register_pairs(["a"])
    log = store.open_job("j", "", "", Routes(database=parse_levels("1"), pairs=[(bits["a"], parse_levels("2"))]), "")
    told: list[int] = []
    query = LogQuery(levels=parse_levels(levels) if levels else None)
    scan = Scan(stores.folder, query, removed=told.append)

    def write(first: int) -> None:
        log.append([Message(2, "for a"), Message(1, str(first)), Message(2, "for a"), Message(1, str(first + 1))])
        store.flush()
        store.pending("a").advance(store.pending("a").read()[-1].seq)
        store.intake.call(store.writer.rotate)

    write(0)
    write(2)
    assert [record.data for record in scan.advance()] == ["0", "1", "2", "3"]
    write(4)
    assert [record.data for record in scan.advance()] == ["4", "5"]
    assert store.delete(LogQuery(text="4")) == (1, 0)
    assert told == []
    for first in (6, 8, 10, 12):
        write(first)
    assert [record.data for record in scan.advance()] == ["10", "11", "12", "13"]
    assert told == [8], "two files of four lines, two of them for the controller"
    write(14)
    assert [record.data for record in scan.advance()] == ["14", "15"]
    assert told == [8]


@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_a_log_folder_swept_away_is_made_again(stores: Stores, how: str) -> None:
    store = stores.open()
    bits = store.register_pairs(["a"])
    log = job(store, routes=Routes(pairs=[(bits["a"], None)]))
    log.append([Message(1, "before")])
    store.flush()
    if how == "removed":
        shutil.rmtree(stores.folder.path)
    else:
        stores.folder.path.rename(stores.folder.path.with_name("elsewhere"))
    with pytest.raises(GreenagentError, match="cannot be read"):
        store.pending("a").read()
    with pytest.raises(GreenagentError, match="cannot be read"):
        store.query(LogQuery())

    def made_again() -> bool:
        store.tick()
        return bool(stores.folder.path.exists() and stores.folder.databases())

    wait_until(made_again, what="the folder to be made again")
    log.append([Message(1, "after")])
    store.flush()
    assert rows(stores.folder, "data") == [("after",)]
    assert [record.data for record in store.pending("a").read()] == ["after"]
    assert [line for line in stores.agent_log.lines if "was removed: logging goes on in a new file" in line]
    assert not store.problem


def test_a_log_folder_out_of_reach_goes_on_taking_lines_and_is_said(stores: Stores) -> None:
    """The folder's name leads round in a circle, which stops root as well; the database that is open takes lines."""
    store = stores.open()
    log = job(store)
    elsewhere = stores.folder.path.with_name("elsewhere")
    stores.folder.path.rename(elsewhere)
    stores.folder.path.symlink_to(stores.folder.path)

    def said() -> bool:
        store.tick()
        return "cannot be kept in order" in store.problem

    wait_until(said, what="health to say so")
    log.append([Message(1, "meanwhile")])
    store.flush()
    assert store.is_writable
    stores.folder.path.unlink()
    elsewhere.rename(stores.folder.path)

    def fine() -> bool:
        store.tick()
        return not store.problem

    wait_until(fine, what="health to be fine again")
    assert rows(stores.folder, "data") == [("meanwhile",)]
    assert not [line for line in stores.agent_log.lines if "truncated" in line or "was removed" in line]
