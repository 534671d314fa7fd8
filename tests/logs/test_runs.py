"""Table ``runs``: what is written with the lines, over rotations, crashes of the disk, and files of other versions."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing

import pytest

from greenagent.logs.folder import file_size
from greenagent.logs.read.runs import run_records, unended_runs
from greenagent.logs.runs import RunRecord
from greenagent.logs.store import LogStore
from greenagent.logs.write import run_rows
from greenagent.logs.write.retention import StoreLimits
from greenagent.settings.models import SMALLEST_DATABASE
from greenagent.values.message import Message
from tests.support.programs import ROOT
from tests.support.stores import Stores, job
from tests.support.waiting import wait_until


def record(store: LogStore, jobid: str = "j", **more: object) -> RunRecord:
    number = store.next_run()
    begun = RunRecord(number, jobid, 1, "main", "dom", "nam", "sh -c 'exit 9'", 99.5, 100.25)
    return begun._replace(**more)  # type: ignore[arg-type]


def over(begun: RunRecord) -> RunRecord:
    return begun._replace(ended=101.5, exit_code=9, state="ERROR", reason="exit code 9", cpu=0.5, memory=1 << 20)


def test_a_record_goes_into_the_transaction_of_the_next_lines(stores: Stores) -> None:
    store = stores.open()
    begun = record(store)
    store.put_run(begun)
    job(store).append([Message(1, "one")])
    store.flush()
    assert store.metrics.batches == 1
    assert run_records(stores.folder) == unended_runs(stores.folder) == [begun]
    store.put_run(over(begun))
    wait_until(lambda: run_records(stores.folder) == [over(begun)], what="the end, though nothing more is logged")
    assert unended_runs(stores.folder) == []
    assert store.metrics.batches == 1, "no lines"


def test_a_run_that_ends_in_a_later_file_repeats_its_beginning(stores: Stores) -> None:
    store = stores.open()
    begun, other = record(store), record(store, "other")
    for one in (begun, other):
        store.put_run(one)
    job(store).append([Message(1, "one")])
    first = store.intake.call(store.writer.rotate)
    store.put_run(over(begun))
    store.flush()
    assert run_records(stores.folder) == [over(begun), other]
    assert unended_runs(stores.folder) == [other]
    first.unlink()
    assert run_records(stores.folder) == [over(begun)], "its own file tells all of it"


def test_numbers_rise_over_restarts_whatever_the_clock_does(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stores.open()
    numbers = [store.next_run() for _ in range(1000)]
    assert numbers == sorted(set(numbers))
    newest = record(store)
    store.put_run(newest)
    stores.close()
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    assert stores.open().next_run() == newest.number + 1


def test_nothing_but_records_also_fills_files_up_to_their_size(stores: Stores) -> None:
    """Jobs that print nothing: no database would ever have been closed."""
    store = stores.open(limits=StoreLimits(max_db_size=SMALLEST_DATABASE))
    largest = 0
    for number in range(1500):
        begun = record(store, f"job {number}")
        store.put_run(begun)
        if number % 3 == 0:
            store.flush()
        store.put_run(over(begun))
        if number % 10 == 0:
            store.flush()
            path = store.writer.database.path
            largest = max(largest, file_size(path) + file_size(path.with_name(path.name + "-wal")))
    store.flush()
    assert largest <= SMALLEST_DATABASE
    assert 2 < len(stores.folder.databases()) < 30
    found = run_records(stores.folder)
    assert [one.jobid for one in found] == [f"job {number}" for number in range(1500)]
    assert {one.ended for one in found} == {101.5}


def test_archives_that_hold_only_records_are_kept(stores: Stores) -> None:
    store = stores.open()
    store.put_run(over(record(store)))
    store.flush()
    store.intake.call(store.writer.rotate)
    store.intake.call(store.writer.rotate)  # one with nothing in it
    wait_until(lambda: store.tick() or len(stores.folder.databases()) == 2, what="the empty one to go")
    assert len(run_records(stores.folder)) == 1


def test_without_a_db_logger_records_are_kept_for_a_time(stores: Stores) -> None:
    store = stores.open(keep=False, limits=StoreLimits(run_memory=3600))
    now = time.time()
    old = record(store, "old", number=int((now - 4000) * 1e6), started=now - 4000, ended=now - 3900)
    new = record(store, "new", started=now - 10, ended=now - 5)
    for one in (old, new):
        store.put_run(one)
    store.flush()
    wait_until(lambda: store.tick() or run_records(stores.folder) == [new], what="the old one to go")
    store.intake.call(store.writer.rotate)
    assert run_records(stores.folder) == [new]
    store.put_run(old)
    store.flush()
    store.intake.call(store.writer.rotate)
    wait_until(lambda: store.tick() or len(stores.folder.databases()) == 2, what="its file to go")
    assert run_records(stores.folder) == [new]


def test_records_wait_for_a_disk_with_room_and_are_counted_beyond(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_rows, "MAX_WAITING", 20)
    store = stores.open()
    database = store.writer.database
    before = over(record(store, "before"))
    store.put_run(before)
    store.flush()
    store.intake.call(lambda: database.connection.execute("PRAGMA max_page_count = 1"))
    waiting = [over(record(store, f"job {number}", command="x" * 4000)) for number in range(25)]
    for one in waiting:
        store.put_run(one)
    store.flush()
    wait_until(lambda: not store.is_writable, what="the trouble to be known")
    assert [line for line in stores.agent_log.lines if "logs cannot be written" in line]
    store.intake.call(lambda: database.connection.execute("PRAGMA max_page_count = 100000"))
    store.intake.call(store.writer.try_now)
    store.flush()
    assert run_records(stores.folder) == [before, *waiting[5:]]
    wait_until(
        lambda: [line for line in stores.agent_log.lines if "logs can be written again: the records of 5 runs" in line],
        what="the count",
    )


def test_records_that_find_no_room_until_the_end_are_counted_there(stores: Stores) -> None:
    store = stores.open()
    store.intake.call(lambda: store.writer.database.connection.execute("PRAGMA max_page_count = 1"))
    for number in range(3):
        store.put_run(record(store, f"job {number}", command="x" * 4000))
    store.flush()
    stores.close()
    assert [line for line in stores.agent_log.lines if "the records of 3 runs are lost" in line]


def test_a_file_of_an_earlier_version_has_none_and_gets_the_table_when_it_is_written(stores: Stores) -> None:
    stores.folder.create()
    shutil.copy(ROOT / "tests/data/schema-0.1/current.db", stores.folder.current)
    assert run_records(stores.folder) == unended_runs(stores.folder) == []
    store = stores.open()
    begun = over(record(store))
    store.put_run(begun)
    store.flush()
    assert run_records(stores.folder) == [begun]
    assert len(stores.folder.databases()) == 1


def test_people_find_the_columns_by_their_names(stores: Stores) -> None:
    store = stores.open()
    store.put_run(over(record(store)))
    store.flush()
    with closing(sqlite3.connect(stores.folder.current)) as connection:
        (found,) = connection.execute("SELECT jobid, command, exit_code, state, ended - started FROM runs")
    assert found == ("j", "sh -c 'exit 9'", 9, "ERROR", 1.25)
