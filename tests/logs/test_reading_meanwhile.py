"""Reading a folder from outside while its files are rotated under the reader's hands."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from greenagent.cli.logs.jobs import JobQuestion, find_jobs
from greenagent.cli.logs.summary import count_levels
from greenagent.logs import folder as folder_module
from greenagent.logs.folder import refuse_unreadable
from greenagent.logs.read.query import LogQuery, newest_first
from greenagent.logs.read.scan import Scan
from greenagent.logs.read.verify import verify_folder
from greenagent.values.message import Record
from tests.support.stores import Stores, crashed_files, rows, start_chatty
from tests.support.waiting import wait_until

LINES = 20_000
"""That is some eighty files, of which the reader meets the last sixty while they are made."""


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine may let the writer stand still while it closes a database, which is locked then."""
    monkeypatch.setattr(folder_module, "READER_PATIENCE", 60.0)


@contextmanager
def writing(stores: Stores) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes as fast as it can into files of 256 KiB."""
    process = start_chatty(stores, 1 << 18, LINES)
    try:
        wait_until(lambda: len(stores.folder.archives()) > 15 if stores.folder.path.exists() else False)
        yield process
        assert process.wait(200) == 0
    finally:
        process.kill()
        process.communicate()


def numbers(records: list[Record]) -> list[int]:
    return [int(record.data[:9]) for record in records]


def test_questions_are_answered_whole(stores: Stores) -> None:
    asked = 0
    with writing(stores) as process:
        while process.poll() is None or asked <= 3:  # the writer may have ended while we stood still
            found = numbers(list(newest_first(stores.folder, LogQuery(limit=3000))))
            assert found == list(range(found[0], found[0] - 3000, -1))
            asked += 1
    assert next(newest_first(stores.folder, LogQuery(limit=1))).data.startswith(f"{LINES - 1:09}")


def test_a_listing_that_goes_on_misses_and_repeats_nothing(stores: Stores) -> None:
    with writing(stores) as process:
        scan = Scan(stores.folder, LogQuery())
        found: list[Record] = []
        while process.poll() is None:
            found += scan.advance()
    found += scan.advance()
    assert numbers(found) == list(range(LINES))


def test_summaries_count_each_line_once(stores: Stores) -> None:
    last = 0
    with writing(stores) as process:
        while process.poll() is None:
            (summary,) = find_jobs(stores.folder, JobQuestion(LogQuery(limit=10)), None, refuse_unreadable)
            newest = next(newest_first(stores.folder, LogQuery(limit=1)))
            assert last <= summary.lines <= int(newest.data[:9]) + 1
            last = summary.lines
            minutes = count_levels(stores.folder, LogQuery(), refuse_unreadable)
            assert sum(levels[1] for levels in minutes.values()) >= last
    (summary,) = find_jobs(stores.folder, JobQuestion(LogQuery(limit=10)), None, refuse_unreadable)
    assert summary.lines == LINES


def test_verification_finds_nothing_wrong(stores: Stores) -> None:
    with writing(stores) as process:
        while process.poll() is None:
            assert [report.line() for report in verify_folder(stores.folder) if report.problems] == []


@pytest.mark.parametrize("read", ["question", "listing"])
def test_a_log_that_a_crash_has_taken_from_its_database_is_read_with_it(stores: Stores, read: str) -> None:
    """As our 0.1 left it: the log has the archive's name, the database not yet."""
    database, log = crashed_files(stores)
    stores.folder.current.write_bytes(database)
    log_file = stores.folder.path / "1700000000.db-wal"
    log_file.write_bytes(log)
    before = sorted(path.name for path in stores.folder.path.iterdir())
    if read == "question":
        found = [record.data for record in newest_first(stores.folder, LogQuery())][::-1]
    else:
        found = [record.data for record in itertools.islice(Scan(stores.folder, LogQuery()).advance(), 10)]
    assert found == ["in the file", "in its log"]
    assert sorted(path.name for path in stores.folder.path.iterdir()) == before
    assert log_file.exists()
    # A tool of another kind leaves these, and a start must not take them for the log.
    for suffix in ("-wal", "-shm"):
        stores.folder.current.with_name(stores.folder.current.name + suffix).touch()
    stores.open()
    assert rows(stores.folder, "data") == [("in the file",), ("in its log",)]
