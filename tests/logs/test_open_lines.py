"""Unfinished output: it is seen while it is open, costs finished lines nothing, and outlives the agent."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing

import gevent
import pytest

from greenagent.jobs.streams import JobOutput
from greenagent.logs import store as store_module
from greenagent.logs.folder import LogFolder
from greenagent.logs.read.query import LogQuery
from greenagent.logs.splitter import Splitter
from greenagent.logs.write import open_lines
from greenagent.logs.write.job_log import Route, Routes
from greenagent.values.levels import parse_levels
from tests.support.open_text import Typing
from tests.support.stores import Stores, rows
from tests.support.waiting import wait_until


def test_a_prompt_is_there_two_seconds_after_its_first_byte_and_no_line(typing: Typing) -> None:
    typing.prints("done\nProceed? [y/N] ")
    assert typing.later(1.9) == []
    assert typing.later(0.2) == [("j", 1, 1, "Proceed? [y/N] ", 15)]
    assert rows(typing.stores.folder) == [(1, 1, "done")]
    assert typing.store.metrics.lines == 1


def test_it_is_gone_with_the_transaction_that_stores_the_whole(typing: Typing) -> None:
    typing.prints("Proceed? ")
    assert typing.later(0) == typing.later(1.5) == []
    assert typing.later(1)
    typing.prints("yes\nnext\n")
    assert typing.table() == []
    assert [data for _, _, data in rows(typing.stores.folder)] == ["Proceed? yes", "next"]


def test_a_bar_costs_one_writing_a_second(typing: Typing) -> None:
    typing.prints("\r  0%")
    typing.later(2)
    before = typing.store.writer.database.connection.total_changes
    for percent in range(101):
        typing.now += 0.01
        typing.prints(f"\r{percent:3}%")
    typing.store.flush()
    changes = typing.store.writer.database.connection.total_changes - before
    assert changes == 1 + 2  # the row, and the two numbers that go with every transaction
    assert typing.table()[0][3].endswith("100%")


@pytest.mark.parametrize(
    ("text", "level", "shown"),
    [
        ("7:::first\nsecond\nthi", 7, "first\nsecond\nthi"),
        ("7:::first\n::", 7, "first"),
        ("20::{", 20, "{"),
        ("8::half a warn", 8, "half a warn"),
        ("0::text", 1, "0::text"),
        ("12", 1, "12"),
        ("caf\u00e9", 1, "caf\u00e9"),
    ],
)
def test_what_is_open_has_the_level_and_text_that_it_will_be_stored_with(
    typing: Typing, text: str, level: int, shown: str
) -> None:
    typing.prints(text)
    assert typing.later(0) == []
    assert [row[2:4] for row in typing.later(2)] == [(level, shown)]


def test_no_character_is_shown_in_halves_and_no_more_than_the_end(typing: Typing) -> None:
    typing.log.append(typing.splitter.feed(b"\xc3"))
    typing.prints("")
    assert [row[3] for row in typing.later(2)] == [""]
    typing.log.append(typing.splitter.feed(b"\xa9" + "\u20ac".encode() * 30_000))
    ((_, _, _, data, size),) = typing.later(1)
    assert data == "\u20ac" * (open_lines.SHOWN // 3)
    assert size == 90_002


def test_an_announcement_or_a_level_that_is_not_kept_is_not_shown(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    typing = Typing(stores, monkeypatch, Routes(database=parse_levels("1")))
    assert typing.log.routes.for_level(8) == Route(True, False, 0, False)
    for text in ("101::77", "\n8::half"):
        typing.prints(text)
        assert typing.later(2) == typing.later(2) == []


def test_it_goes_on_in_the_next_file_and_the_last_one_has_it_no_more(typing: Typing) -> None:
    typing.prints("one\nopen")
    assert typing.later(2)
    closed = typing.store.intake.call(typing.store.writer.rotate)
    assert [row[3] for row in typing.later(1)] == ["open"]
    with closing(sqlite3.connect(closed)) as connection:
        assert connection.execute("SELECT * FROM open_lines").fetchall() == []


def test_it_is_written_again_where_the_database_was_removed(typing: Typing) -> None:
    typing.prints("open")
    assert typing.later(2)
    typing.store.writer.database.path.unlink()
    typing.store.intake.call(typing.store.writer.database.look_after)
    assert [row[3] for row in typing.later(1)] == ["open"]


def test_the_end_of_the_stream_and_of_the_job_leave_no_row(typing: Typing) -> None:
    typing.prints("open")
    assert typing.later(2)
    typing.log.append(typing.splitter.finish())
    typing.log.close()
    assert typing.table() == []
    assert [data for _, _, data in rows(typing.stores.folder)] == ["open"]


def test_what_a_killed_agent_left_open_becomes_a_line_that_says_so(typing: Typing, tmp_path) -> None:
    typing.prints("whole\nhalf of it")
    assert typing.later(2)
    copied = Stores(tmp_path / "copy")
    shutil.copytree(typing.stores.folder.path, copied.folder.path, symlinks=True)  # as kill -9 leaves it
    try:
        store = copied.open()
        store.flush()
        expected = [(1, "whole"), (1, "half of it" + open_lines.CUT_OFF)]
        assert rows(LogFolder(copied.folder.path), "level, data") == expected
        asked = [record.data for record in store.query(LogQuery(jobid="j"))]
        assert asked == [data for _, data in reversed(expected)]
        with closing(sqlite3.connect(copied.folder.current)) as connection:
            assert connection.execute("SELECT * FROM open_lines").fetchall() == []
    finally:
        copied.close()


def test_a_clean_stop_leaves_nothing_that_the_next_start_takes_for_cut_off(typing: Typing) -> None:
    typing.prints("handed over")
    assert typing.later(2)
    typing.store.stop()
    store = typing.stores.open()
    store.flush()
    assert rows(typing.stores.folder) == []


def test_a_job_that_ends_before_its_stream_does_leaves_no_row(typing: Typing) -> None:
    typing.prints("open")
    assert typing.later(2)
    typing.log.close()
    assert typing.table() == []


def test_a_run_that_goes_on_elsewhere_leaves_no_row_behind(typing: Typing) -> None:
    """As after a replacement in place that was refused: the text is whole before it is shown again."""
    typing.prints("open")
    assert typing.later(2)
    state, typing.splitter = typing.splitter.state(), Splitter(1)
    typing.splitter.restore(state)
    typing.log.watch({1: typing.splitter})
    typing.prints(" and whole\n")
    assert typing.later(1) == []
    assert [data for _, _, data in rows(typing.stores.folder)] == ["open and whole"]


def test_what_finds_no_room_is_tried_again_and_is_no_lost_line(typing: Typing) -> None:
    database = typing.store.writer.database
    typing.store.intake.call(lambda: database.connection.execute("PRAGMA max_page_count = 1"))
    typing.prints("x" * 60_000)
    assert typing.later(2) == []
    assert typing.store.metrics.dropped == 0
    assert typing.store.is_writable
    typing.store.intake.call(lambda: database.connection.execute("PRAGMA max_page_count = 100000"))
    assert [row[4] for row in typing.later(1)] == [60_000]


def test_nobody_looks_while_nothing_is_open(typing: Typing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice a second for every agent on a machine that does nothing."""
    monkeypatch.setattr(store_module, "_LOOK_EVERY", 0.005)
    looks: list[float] = []
    look = typing.store.look_at_open_text

    def counted() -> bool:
        looks.append(time.monotonic())
        return look()

    monkeypatch.setattr(typing.store, "look_at_open_text", counted)
    output = JobOutput(typing.log, lambda text: None, lambda text: None)

    def prints(text: str) -> None:
        output.take(typing.splitter.feed(text.encode()))

    def rests() -> bool:
        before = len(looks)
        gevent.sleep(0.1)
        return len(looks) == before

    watching = gevent.spawn(typing.store.watch_open_text)
    wait_until(rests, what="rest after the start")
    prints("whole\nlines\n")
    assert rests()
    prints("Proceed? ")
    wait_until(lambda: len(looks) > 3, what="looks as long as it is open")
    typing.now += 3
    wait_until(typing.table, what="the row")
    prints("yes\n")
    wait_until(rests, what="rest")
    assert typing.table() == []
    prints("more\n7:::begun\n")
    wait_until(lambda: not rests(), what="looks again")
    typing.now += 3
    wait_until(typing.table, what="another row")
    typing.log.watch({})
    typing.log.close()
    wait_until(rests, what="rest after the job")
    assert typing.table() == []
    watching.kill()
