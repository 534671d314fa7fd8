"""The sums that a database tells of its lines: whoever counts gets the same answer with them and without."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import strategies as st

from greenagent.cli.logs.jobs import JobQuestion, find_jobs
from greenagent.cli.logs.summary import count_levels
from greenagent.logs.folder import TOTALS_SEQ, LogFolder, refuse_unreadable
from greenagent.logs.lines import Block, Lines, Owner
from greenagent.logs.read.query import LogQuery
from greenagent.logs.splitter import Splitter
from greenagent.logs.store import LogStore
from greenagent.logs.write import job_log
from greenagent.logs.write import totals as totals_module
from greenagent.logs.write.database import LogDatabase
from greenagent.logs.write.job_log import Routes
from greenagent.logs.write.retention import StoreLimits
from greenagent.settings.models import SMALLEST_DATABASE
from greenagent.values.levels import parse_levels
from greenagent.values.message import Message
from tests.support.agent_logs import RecordedLog
from tests.support.properties import given, settings
from tests.support.stores import Stores, job

BEGIN = 1_700_000_000
QUERIES = [
    LogQuery(limit=0),
    *(LogQuery(limit=0, levels=parse_levels(levels)) for levels in ("1", "2-7", "9")),
    *(LogQuery(limit=0, jobid=jobid) for jobid in ("a", "b", "nobody")),
    LogQuery(limit=0, domain="web", levels=parse_levels("1,7")),
    LogQuery(limit=0, name="crawl"),
    *(LogQuery(limit=0, time_from=BEGIN + start) for start in (0, 59.5, 61, 200)),
    *(LogQuery(limit=0, time_to=BEGIN + end) for end in (0, 59, 130)),
    LogQuery(limit=0, time_from=BEGIN + 5, time_to=BEGIN + 90, levels=parse_levels("7")),
    LogQuery(limit=0, regex="line [0-4]"),
    LogQuery(limit=0, text="line 1"),
]


def answers(folder: LogFolder, query: LogQuery) -> tuple[Any, Any]:
    """Of the jobs and of the levels."""
    jobs = find_jobs(folder, JobQuestion(query), None, refuse_unreadable)
    return sorted(jobs), count_levels(folder, query, refuse_unreadable)


def without_totals(folder: LogFolder, path: Path) -> LogFolder:
    """A copy of the databases that tells no sums."""
    shutil.copytree(folder.path, path, symlinks=True)
    plain = LogFolder(path)
    for database in plain.databases():
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("DELETE FROM meta WHERE key = ?", [TOTALS_SEQ])
            connection.commit()
    return plain


def told(folder: LogFolder) -> list[int | None]:
    """Of each database: of how many lines the table tells the sums; None where it tells nothing."""
    found: list[int | None] = []
    for path in folder.databases():
        with closing(sqlite3.connect(path)) as connection:
            mark = connection.execute("SELECT value FROM meta WHERE key = ?", [TOTALS_SEQ]).fetchone()
            has = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'totals'").fetchone()
            sums = "SELECT sum(lines) FROM totals WHERE jobid IS NOT NULL"
            found.append((connection.execute(sums).fetchone()[0] if has else 0) if mark else None)
    return found


def print_lines(store: LogStore, jobid: str, count: int, level: int = 1) -> None:
    job(store, jobid).append([Block(level, "".join(f"line {n}\n" for n in range(count)), count)])


OWNERS = {"a": ("web", "crawl"), "b": ("web", ""), "c": ("", "crawl")}
PRINTED = st.tuples(
    st.just("print"),
    st.sampled_from("abc"),
    st.lists(st.sampled_from(["1", "2", "7", "007", "9", ""]), min_size=1, max_size=12),
)
OTHER = st.one_of(
    st.tuples(st.just("clock"), st.sampled_from([0.25, 7, 20, 60, 100, -3])),
    st.tuples(st.sampled_from(["rotate", "restart", "crash", "rollback"])),
    st.tuples(st.just("delete"), st.sampled_from("abc")),
    st.tuples(st.just("delete elsewhere"), st.sampled_from("abc")),
)
STEPS = st.lists(st.one_of(PRINTED, OTHER), min_size=10, max_size=30)


class Played:
    """A store in which something happens, and its clock."""

    def __init__(self, path: Path) -> None:
        self.folder = LogFolder(path / "logs")
        self.path = path
        self.now = BEGIN + 0.5
        self.agent_log = RecordedLog()
        self.store = self.open()

    def open(self) -> LogStore:
        limits = StoreLimits(max_db_size=SMALLEST_DATABASE)
        store = LogStore(self.folder.path, self.path / "mid", self.agent_log, limits=limits)
        store.start()
        return store

    def step(self, kind: str, *what: Any) -> None:
        store = self.store
        if kind == "print":
            jobid, prefixes = what
            log = store.open_job(jobid, *OWNERS[jobid], Routes(), "")
            text = "".join(f"{prefix}::line {n}\n" if prefix else f"line {n}\n" for n, prefix in enumerate(prefixes))
            log.append(Splitter(1).feed(text.encode()))
        elif kind == "clock":
            self.now += what[0]
        elif kind == "rotate":
            store.intake.call(store.writer.rotate)
        elif kind == "restart":
            store.stop()
            self.store = self.open()
        elif kind == "crash":
            store.flush()
            left = self.path / "left"
            shutil.copytree(self.folder.path, left, symlinks=True)
            store.stop()
            shutil.rmtree(self.folder.path)
            left.rename(self.folder.path)
            self.store = self.open()
        elif kind == "rollback":
            store.flush()
            store.intake.call(lambda: undone(store.writer.database))
        elif kind == "delete":
            store.delete(LogQuery(jobid=what[0], regex="[135]", limit=0))
        else:
            store.flush()
            for path in self.folder.databases():
                with closing(sqlite3.connect(path)) as connection:
                    connection.execute("DELETE FROM logs WHERE jobid = ? AND level = 7", what)
                    connection.commit()


def undone(database: LogDatabase) -> None:
    """A transaction that fails."""
    database.begin()
    database.insert(Lines(Owner("a", "web", "crawl"), BEGIN, True, 0, 0.0, 1, 1, "lost\n", (), 1, 4))
    database.rollback()


@settings(max_examples=60)
@given(steps=STEPS)
def test_answers_are_the_same_with_sums_and_without(tmp_path_factory: pytest.TempPathFactory, steps: Any) -> None:
    path = tmp_path_factory.mktemp("totals")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(totals_module, "MOST_LINES", 10)
        patch.setattr(totals_module, "FEWEST_LINES", 4)
        patch.setattr(totals_module, "FREE_ROWS", 30)
        played = Played(path)
        patch.setattr(job_log, "time", SimpleNamespace(time=lambda: played.now, monotonic=time.monotonic))
        for step in steps:
            played.step(*step)
        played.store.flush()
        with_store = [answers(played.folder, query) for query in QUERIES]
        played.store.stop()
    plain = without_totals(played.folder, path / "plain")
    expected = [answers(plain, query) for query in QUERIES]
    assert with_store == expected
    assert [answers(played.folder, query) for query in QUERIES] == expected
    shutil.rmtree(path)


def test_closed_databases_tell_sums_of_all_lines_and_are_not_read(stores: Stores) -> None:
    store = stores.open()
    for jobid in ("a", "b"):
        for level in (1, 7):
            print_lines(store, jobid, 1500, level)
        store.intake.call(store.writer.rotate)
    print_lines(store, "c", 2000)
    store.stop()
    assert told(stores.folder) == [3000, 3000, 2000]
    for path in stores.folder.databases():
        with closing(sqlite3.connect(path)) as connection:
            for name in ("totals_after_delete", "totals_after_update"):
                connection.execute(f"DROP TRIGGER {name}")
            connection.execute("DELETE FROM logs")
            connection.commit()
    jobs, minutes = answers(stores.folder, LogQuery(levels=parse_levels("7"), limit=0))
    assert [(row.jobid, row.domain, row.name, row.lines) for row in jobs] == [
        ("a", "dom", "nam", 1500),
        ("b", "dom", "nam", 1500),
    ]
    assert sum(minutes.values(), Counter()) == {7: 3000}


def test_a_transaction_that_fails_leaves_nothing_in_the_sums(stores: Stores) -> None:
    store = stores.open()
    print_lines(store, "a", 2000)
    store.flush()
    store.intake.call(lambda: undone(store.writer.database))
    print_lines(store, "a", 1)
    store.stop()
    assert told(stores.folder) == [2001]


def test_a_question_that_ends_within_a_sum_counts_the_lines(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [BEGIN + 0.0]
    monkeypatch.setattr(job_log, "time", SimpleNamespace(time=lambda: now[0], monotonic=time.monotonic))
    store = stores.open()
    for now[0] in (BEGIN + 9.5, BEGIN + 10.5, BEGIN + 8.5):
        print_lines(store, "a", 1000)
    store.stop()
    assert told(stores.folder) == [3000]
    for start, end, lines in ((9, 9, 1000), (9, 10, 2000), (8, 9, 2000), (8, 10, 3000), (11, 20, 0), (0, 7, 0)):
        query = LogQuery(time_from=BEGIN + start, time_to=BEGIN + end, limit=0)
        assert sum(count_levels(stores.folder, query, refuse_unreadable).values(), Counter()).total() == lines
    for start, lines in ((9, 2000), (8, 3000), (10, 1000)):
        (row,), _ = answers(stores.folder, LogQuery(time_from=BEGIN + start, limit=0))
        assert row.lines == lines


def test_sums_go_on_after_a_crash(stores: Stores, tmp_path: Path) -> None:
    store = stores.open()
    for _ in range(30):
        print_lines(store, "a", 1000)
        store.flush()
    left = tmp_path / "left"
    shutil.copytree(stores.folder.path, left, symlinks=True)
    store.stop()
    shutil.rmtree(stores.folder.path)
    left.rename(stores.folder.path)
    assert told(stores.folder) == [totals_module.MOST_LINES]
    store = stores.open()
    print_lines(store, "b", 1)
    store.stop()
    assert told(stores.folder) == [30_001]


def test_the_database_that_is_written_tells_most_of_its_lines(stores: Stores) -> None:
    store = stores.open()
    for _ in range(50):
        print_lines(store, "a", 1000)
        store.flush()
    (lines,) = told(stores.folder)
    assert lines is not None
    assert 50_000 - totals_module.MOST_LINES <= lines < 50_000
    assert [row.lines for row in answers(stores.folder, LogQuery(limit=0))[0]] == [50_000]


def test_a_small_database_has_no_table_for_it(stores: Stores) -> None:
    store = stores.open()
    print_lines(store, "a", totals_module.FEWEST_LINES - 1)
    store.intake.call(store.writer.rotate)
    print_lines(store, "a", totals_module.FEWEST_LINES)
    store.stop()
    assert told(stores.folder) == [0, totals_module.FEWEST_LINES]


def test_jobs_of_a_line_each_do_not_fill_databases_with_sums(stores: Stores) -> None:
    store = stores.open()
    for number in range(3 * totals_module.FREE_ROWS):
        log = job(store, f"job {number}")
        log.append([Message(1, "x")])
        log.close()
    store.flush()
    assert told(stores.folder) == [None]
    print_lines(store, "a", 100_000)
    store.stop()
    assert told(stores.folder) == [None], "once there were too many it stays so"
    assert sum(row.lines for row in answers(stores.folder, LogQuery(limit=0))[0]) == 100_000 + 6_000


@pytest.mark.parametrize("change", ["DELETE FROM logs WHERE seq = 5", "UPDATE logs SET level = 9 WHERE seq = 5"])
def test_whoever_changes_lines_leaves_no_sums(stores: Stores, change: str) -> None:
    store = stores.open()
    print_lines(store, "a", 2000)
    store.intake.call(store.writer.rotate)
    print_lines(store, "a", 2000)
    store.stop()
    with closing(sqlite3.connect(stores.folder.databases()[0])) as connection:
        connection.execute(change)
        connection.commit()
    assert told(stores.folder) == [None, 2000]
    (row,), counts = answers(stores.folder, LogQuery(limit=0))
    assert row.lines == sum(counts.values(), Counter()).total() == 4000 - change.startswith("DELETE")


def test_a_database_of_an_earlier_version_gets_none(stores: Stores) -> None:
    store = stores.open()
    print_lines(store, "a", 2000)
    store.stop()
    with closing(sqlite3.connect(stores.folder.databases()[0])) as connection:
        for statement in ("DROP TRIGGER totals_after_delete", "DROP TRIGGER totals_after_update", "DROP TABLE totals"):
            connection.execute(statement)
        connection.execute("DELETE FROM meta WHERE key = ?", [TOTALS_SEQ])
        connection.commit()
    store = stores.open()
    print_lines(store, "a", 2000)
    store.intake.call(store.writer.rotate)
    print_lines(store, "a", 2000)
    store.stop()
    assert told(stores.folder) == [None, 2000]
    assert [row.lines for row in answers(stores.folder, LogQuery(limit=0))[0]] == [6000]


def test_lines_of_another_program_are_counted(stores: Stores) -> None:
    """It must not, and may write whatever: the sums end there."""
    store = stores.open()
    print_lines(store, "a", 2000)
    store.flush()
    with closing(sqlite3.connect(stores.folder.databases()[0])) as connection:
        connection.execute("INSERT INTO logs VALUES (1, NULL, x'ff', 'n', 'never', 'none', 'x', 0, ?)", [2010])
        connection.commit()
    print_lines(store, "a", 100)
    store.stop()
    store = stores.open()
    print_lines(store, "a", 2000)
    store.stop()
    assert [(row.jobid, row.lines) for row in answers(stores.folder, LogQuery(limit=0))[0]] == [("", 1), ("a", 4100)]
