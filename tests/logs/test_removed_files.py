"""Reading on while files are removed: what was lost is counted."""

from __future__ import annotations

import pytest

from greenagent.logs.read.query import LogQuery
from greenagent.logs.read.scan import Scan
from greenagent.logs.write.job_log import Routes
from greenagent.logs.write.retention import StoreLimits
from greenagent.values.levels import parse_levels
from greenagent.values.message import Message
from tests.support.stores import Stores


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
