"""max_db_size is a promise for every size that the settings accept, whatever the lines are like."""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from greenagent.logs.folder import LogFolder, file_size
from greenagent.logs.lines import MIXED, Block, Lines, Owner, as_rows
from greenagent.logs.splitter import Splitter
from greenagent.logs.store import LogStore
from greenagent.logs.write.job_log import Routes
from greenagent.logs.write.retention import StoreLimits
from greenagent.settings.models import SMALLEST_DATABASE
from greenagent.values.message import Message
from tests.support.stores import Stores, job, rows


@contextmanager
def watched(folder: LogFolder) -> Iterator[list[int]]:
    """Gives, in the end, the most bytes that current.db and its log had together."""
    program = [sys.executable, str(Path(__file__).with_name("programs") / "size_watch.py"), str(folder.path)]
    watch = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    seen: list[int] = []
    try:
        yield seen
    finally:
        seen.append(int(watch.communicate()[0]))


def write_blocks(store: LogStore) -> int:
    """What jobs print, in pieces as large as a pipe gives them."""
    log, splitter = job(store), Splitter(1)
    for first in range(0, 16_000, 2000):
        log.append(splitter.feed("".join(f"{n:06} {'x' * 57}\n" for n in range(first, first + 2000)).encode()))
    return 16_000


def write_halves_of_pages(store: LogStore) -> int:
    """Rows of which only one fits on a page, and takes half of it."""
    log = job(store)
    for first in range(0, 400, 25):
        log.append([Block(1, "".join(f"{n:06} {'x' * 4100}\n" for n in range(first, first + 25)), 25)])
    return 400


def write_of_many_jobs(store: LogStore) -> int:
    """Every line a transaction or nearly so, and an entry for its job."""
    for number in range(1000):
        log = store.open_job(f"job {number * 7919 % 1000:04} {'j' * 100}", "domain", "name", Routes(), "")
        log.append([Message(1, f"{number:06} {'x' * 100}")])
        log.close()
        if number % 10 == 0:
            store.flush()
    return 1000


@pytest.mark.parametrize("size", [SMALLEST_DATABASE, 300_001, 400_000, 1 << 20, 5_000_000])
@pytest.mark.parametrize("write", [write_blocks, write_halves_of_pages, write_of_many_jobs])
def test_no_database_ever_passes_its_limit(stores: Stores, size: int, write) -> None:
    store = stores.open(limits=StoreLimits(max_db_size=size))
    with watched(stores.folder) as worst:
        count = write(store)
        store.flush()
    store.stop()
    assert worst[0] <= size
    assert max(map(file_size, stores.folder.databases())) <= size
    assert [int(data[:6]) for _, _, data in rows(stores.folder)] == list(range(count))
    archives = stores.folder.archives()
    if len(archives) > 1:
        assert min(map(file_size, archives)) > size // 4, "and they are well filled"


def test_a_message_larger_than_a_database_has_one_of_its_own(stores: Stores) -> None:
    store = stores.open(limits=StoreLimits(max_db_size=SMALLEST_DATABASE))
    log = job(store)
    for number in range(3):
        log.append([Message(1, f"{number}"), Message(1, "x" * SMALLEST_DATABASE), Message(1, "y")])
        store.flush()
    assert len(rows(stores.folder)) == 9
    assert len(stores.folder.archives()) <= 6
    for path in stores.folder.archives():
        assert rows_of(path), "none is empty"


def rows_of(path: Path) -> int:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(path)) as connection:
        count: int = connection.execute("SELECT count(*) FROM logs").fetchone()[0]
        return count


def test_no_limit_is_none(stores: Stores) -> None:
    store = stores.open(limits=StoreLimits(max_db_size=0))
    log = job(store)
    for _ in range(20):
        log.append([Block(1, f"{'x' * 99}\n" * 2000, 2000)])
    store.flush()
    assert stores.folder.archives() == []
    assert len(rows(stores.folder)) == 40_000


@pytest.mark.parametrize("level", [1, MIXED])
def test_blocks_are_cut_without_changing_a_row(level: int) -> None:
    texts = [f"{n % 9 + 1}::" * (level == MIXED) + os.urandom(n % 50).hex() + "\u00fc" * (n % 3) for n in range(1000)]
    text = "".join(f"{line}\n" for line in texts)
    size = len(text.encode())
    whole = Lines(Owner("j", "d", "n"), 1.5, True, 3, 2.0, 0xFFFFFFFF - 10, level, text, (), 1000, size)
    listed = Lines(Owner("j", "d", "n"), 1.5, True, 3, 2.0, 7, 1, "", [(1, line) for line in texts], 1000, size - 1000)
    for lines in (whole, listed):
        parts = list(lines.parts(5000))
        assert len(parts) > 10
        assert all(part.stored_size <= 5000 for part in parts)
        assert sum(part.size for part in parts) == lines.size
        firsts = itertools.accumulate([1, *(part.count for part in parts)])
        found = [row for part, first in zip(parts, firsts, strict=False) for row in as_rows(part, first)]
        assert found == as_rows(lines, 1)
        assert [part.count for part in lines.parts(1)] == [1] * 1000
        assert list(lines.parts(1 << 30)) == [lines]
