"""No database passes its limit, the write-ahead log included, and no line is lost on the way (design, section 3)."""

import itertools
import os
import shutil
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from types import FrameType

import gevent
import pytest
from gevent.event import Event

from greenagent.logs.folder import LogFolder, file_size, number_of
from greenagent.logs.read.query import LogQuery, newest_first
from greenagent.logs.read.scan import Scan
from greenagent.logs.splitter import Splitter
from greenagent.logs.store import LogStore
from greenagent.logs.write import cursors, retention
from greenagent.logs.write.cursors import Cursors
from greenagent.logs.write.job_log import Routes
from greenagent.logs.write.retention import StoreLimits
from greenagent.runtime.clock import monotonic_epoch
from greenagent.values.message import Message
from tests.support.stores import Stores, crashed_files, job, rows
from tests.support.waiting import wait_until

MEGABYTE = 1 << 20


def largest(stores: Stores) -> int:
    """Bytes of the largest database, its write-ahead log included."""
    paths = stores.folder.databases()
    return max((file_size(path) + file_size(path.with_name(path.name + "-wal")) for path in paths), default=0)


def test_rotation_under_load_loses_nothing_and_keeps_the_limit(stores: Stores) -> None:
    """20 MB through files of 1 MB, with an uploader and a query at work meanwhile."""
    limit = MEGABYTE
    store = stores.open(limits=StoreLimits(max_db_size=limit))
    bits = store.register_pairs(["a"])
    uploaded: list[str] = []
    biggest = 0
    finished = False
    to_upload, to_ask = Event(), Event()

    def upload() -> None:
        nonlocal biggest
        while True:
            records = store.pending("a").read(1000)
            uploaded.extend(record.data for record in records)
            if records:
                store.pending("a").advance(records[-1].seq)
            elif finished:
                return
            else:
                to_upload.wait()
                to_upload.clear()
            biggest = max(biggest, largest(stores))

    def ask() -> None:
        while not finished:
            store.query(LogQuery(jobid="quiet", limit=10))
            to_ask.wait()
            to_ask.clear()

    readers = [gevent.spawn(upload), gevent.spawn(ask)]
    log = job(store, routes=Routes(pairs=[(bits["a"], None)]))
    splitter = Splitter(1)
    numbers = itertools.count()
    count = 0
    for _ in range(160):
        chunk = "".join(f"{next(numbers):08} {'x' * 70}\n" for _ in range(1600))
        count += 1600
        log.append(splitter.feed(chunk.encode()))
        to_upload.set()
        to_ask.set()
        biggest = max(biggest, largest(stores))
    store.flush()
    finished = True
    to_upload.set()
    to_ask.set()
    gevent.joinall(readers, timeout=240, raise_error=True)
    assert biggest <= limit
    assert len(stores.folder.archives()) > 15
    stored = rows(stores.folder, "seq, id, data")
    assert [int(data[:8]) for _, _, data in stored] == list(range(count))
    assert [number for _, number, _ in stored] == list(range(1, count + 1))
    assert [seq for seq, _, _ in stored] == list(range(1, count + 1))
    assert [int(data[:8]) for data in uploaded] == list(range(count))
    assert stores.agent_log.lines == []


def test_archives_are_closed_and_readable_with_read_access_only(stores: Stores) -> None:
    store = stores.open()
    job(store).append([Message(1, "x")])
    archive = store.intake.call(store.writer.rotate)
    assert archive.read_bytes()[18] == 1
    assert not archive.with_name(archive.name + "-wal").exists()


def test_names_rise_whatever_the_clock_does(stores: Stores) -> None:
    store = stores.open()
    future = 4_000_000_000
    job(store).append([Message(1, "x")])
    first = store.intake.call(store.writer.rotate)
    os.rename(first, stores.folder.path / f"{future}.db")
    for text in ("y", "z"):
        job(store).append([Message(1, text)])
        store.intake.call(store.writer.rotate)
    assert [number_of(path) for path in stores.folder.databases()][-3:] == [future, future + 1, future + 2]


def test_a_database_is_called_after_the_second_it_was_begun_in(stores: Stores) -> None:
    before = int(time.time())
    store = stores.open()
    assert before <= number_of(stores.folder.databases()[0]) <= time.time()
    for _ in range(3):
        job(store).append([Message(1, "x")])
        store.intake.call(store.writer.rotate)
        assert os.readlink(stores.folder.current) == stores.folder.databases()[-1].name
    assert len(stores.folder.databases()) == 4
    assert (
        stores.folder.databases(since=number_of(stores.folder.databases()[-1]) + 100) == stores.folder.databases()[-1:]
    )


def test_a_reader_that_holds_the_file_open_neither_stops_rotation_nor_loses_rows(stores: Stores) -> None:
    store = stores.open(limits=StoreLimits(max_db_size=MEGABYTE))
    log = job(store)
    log.append([Message(1, "first")])
    store.flush()
    with closing(sqlite3.connect(stores.folder.current, isolation_level=None)) as reader:  # by the link, as people do
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM logs").fetchone() == (1,)
        for number in range(2000):
            log.append([Message(1, f"{number:04} " + "x" * 1000)])
        store.flush()
        assert stores.folder.archives()
        assert reader.execute("SELECT count(*) FROM logs").fetchone() == (1,), "the reader's snapshot stays"
        reader.execute("COMMIT")
        archived = stores.folder.archives()[0]
        assert archived.with_name(archived.name + "-wal").exists()
    log.append([Message(1, "after")])
    store.flush()
    stored = rows(stores.folder, "data")
    assert [data[:4] for (data,) in stored] == ["firs", *(f"{number:04}" for number in range(2000)), "afte"]

    def merged() -> bool:
        store.tick()
        # The log goes before the header says so.
        return not archived.with_name(archived.name + "-wal").exists() and archived.read_bytes()[18] == 1

    wait_until(merged, what="the log of the archive to be merged")


@pytest.mark.parametrize("log_name", ["current.db-wal", "1700000000.db-wal"])
def test_a_real_current_db_gets_a_number_with_its_log(stores: Stores, log_name: str) -> None:
    """As 0.1 left it, also where a crash has renamed the log alone."""
    database, log = crashed_files(stores)
    stores.folder.current.write_bytes(database)
    (stores.folder.path / log_name).write_bytes(log)
    store = stores.open()
    job(store).append([Message(1, "later")])
    store.flush()
    (path,) = stores.folder.databases()
    assert number_of(path) == 1700000000 or log_name == "current.db-wal"
    assert stores.folder.current.is_symlink()
    assert rows(stores.folder, "seq, data") == [(1, "in the file"), (2, "in its log"), (3, "later")]


@pytest.mark.parametrize("lost", ["the link", "the new file's tables"])
def test_a_start_completes_a_rotation_that_a_crash_interrupted(stores: Stores, lost: str) -> None:
    store = stores.open()
    job(store).append([Message(1, "first")])
    store.intake.call(store.writer.rotate)
    store.stop()
    old, new = stores.folder.databases()
    stores.folder.link_current(old)
    if lost != "the link":
        new.rename(stores.folder.path / "next.db.new")
        os.truncate(stores.folder.path / "next.db.new", 100)
    store = stores.open()
    assert stores.folder.databases() == ([old, new] if lost == "the link" else [old])
    assert stores.folder.current.resolve() == stores.folder.databases()[-1]
    job(store).append([Message(1, "second")])
    store.intake.call(store.writer.rotate)
    assert rows(stores.folder, "seq, data") == [(1, "first"), (2, "second")]
    assert stores.agent_log.lines == []


def test_a_copy_that_followed_the_link_has_no_line_twice(stores: Stores, tmp_path: Path) -> None:
    store = stores.open()
    job(store).append([Message(1, "x")])
    store.stop()
    copied = LogFolder(tmp_path / "copied")
    shutil.copytree(stores.folder.path, copied.path)
    assert not copied.current.is_symlink()
    assert copied.current.exists()
    assert len(copied.databases()) == 1
    assert [record.data for record in newest_first(copied, LogQuery())] == ["x"]


@pytest.mark.parametrize("kind", ["an absolute link", "a link with a dot", "a hard link", "a copy", "a copy of a log"])
def test_a_start_makes_no_second_database_of_another_name_of_the_newest(stores: Stores, kind: str) -> None:
    """Lines came twice, and a hard link with a log of its own gave I/O errors."""
    database, log = crashed_files(stores)
    path, current = stores.folder.path / "1700000000.db", stores.folder.current
    path.write_bytes(database)
    if kind == "a copy of a log":
        path.with_name(path.name + "-wal").write_bytes(log)  # copied while the agent ran: current.db has no log
    if kind == "an absolute link":
        current.symlink_to(path)
    elif kind == "a link with a dot":
        current.symlink_to(f"./{path.name}")
    elif kind == "a hard link":
        os.link(path, current)
    else:
        shutil.copy(path, current)
    stored = ["in the file", "in its log"] if kind == "a copy of a log" else ["in the file"]
    assert [record.data for record in newest_first(stores.folder, LogQuery())] == stored[::-1]
    store = stores.open()
    job(store).append([Message(1, "later")])
    store.flush()
    assert stores.folder.databases() == [path]
    assert os.readlink(current) == path.name
    assert rows(stores.folder, "data") == [(text,) for text in (*stored, "later")]


def test_a_log_that_stayed_of_a_removed_database_is_not_taken_for_that_of_current_db(stores: Stores) -> None:
    """The start threw the real log away for it, and the lines that were only there."""
    database, log = crashed_files(stores)
    stores.folder.current.write_bytes(database)
    stores.folder.current.with_name("current.db-wal").write_bytes(log)
    (stores.folder.path / "1650000000.db-wal").write_bytes(b"of a database that is gone")
    stores.open()
    assert rows(stores.folder, "data") == [("in the file",), ("in its log",)]


def test_a_log_below_the_newest_database_is_of_no_interrupted_rename(stores: Stores) -> None:
    database, log = crashed_files(stores)
    other = stores.folder.path / "1700000000.db"
    other.write_bytes(database)
    shutil.copy(Path(__file__).parents[1] / "data/original-logs/current.db", stores.folder.current)
    (stores.folder.path / "1650000000.db-wal").write_bytes(log)
    assert stores.folder.moved_log() is None
    stores.open()
    assert not (stores.folder.path / "1650000000.db").exists()


def test_a_link_to_a_database_elsewhere_is_read_but_not_written(stores: Stores, tmp_path: Path) -> None:
    """Our tables were made in whatever database the link led to."""
    elsewhere = tmp_path / "elsewhere.db"
    with closing(sqlite3.connect(elsewhere)) as connection:
        connection.execute("CREATE TABLE precious (x)")
    content = elsewhere.read_bytes()
    stores.folder.create()
    stores.folder.current.symlink_to(elsewhere)
    store = stores.open()
    job(store).append([Message(1, "x")])
    store.stop()
    assert elsewhere.read_bytes() == content
    assert any("is left as it is" in line for line in stores.agent_log.lines)


@pytest.mark.parametrize("kind", ["a folder", "a link that leads nowhere"])
def test_what_is_no_file_under_the_newest_number_does_not_stop_the_start(stores: Stores, kind: str) -> None:
    stores.folder.create()
    path = stores.folder.path / "1900000000.db"
    if kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    store = stores.open()
    job(store).append([Message(1, "x")])
    store.flush()
    assert rows(stores.folder, "data") == [("x",)]
    assert "is damaged (it is not a file): it is kept as damaged-" in stores.agent_log.lines[0]


def test_no_number_is_too_long(stores: Stores) -> None:
    """The database behind the last number of 18 digits was not seen by anybody."""
    stores.folder.create()
    with closing(sqlite3.connect(stores.folder.path / f"{'9' * 18}.db")) as connection:
        connection.execute("CREATE TABLE logs (id INTEGER)")
    store = stores.open()
    job(store).append([Message(1, "x")])
    store.flush()
    assert stores.folder.databases()[-1].name == f"1{'0' * 18}.db"


def test_one_message_larger_than_the_file_is_stored_all_the_same(stores: Stores) -> None:
    store = stores.open(limits=StoreLimits(max_db_size=MEGABYTE))
    log = job(store)
    log.append([Message(1, "small"), Message(20, "x" * (3 * MEGABYTE)), Message(1, "after")])
    store.flush()
    assert [len(data) for (data,) in rows(stores.folder, "data")] == [5, 3 * MEGABYTE, 5]


def test_a_scan_goes_on_across_rotations_without_holding_the_file(stores: Stores) -> None:
    store = stores.open()
    log = job(store)
    scan = Scan(stores.folder, LogQuery(jobid="j"))
    seen: list[str] = []
    for number in range(50):
        log.append([Message(1, str(number))])
        store.flush()
        if number % 7 == 0:
            store.intake.call(store.writer.rotate)
        if number % 3 == 0:
            seen += [record.data for record in scan.advance()]
    seen += [record.data for record in scan.advance()]
    assert seen == [str(number) for number in range(50)]
    assert not stores.folder.archives()[-1].with_name("x-wal").exists()


def test_a_long_scan_is_not_disturbed_by_a_rotation_in_its_middle(stores: Stores) -> None:
    store = stores.open()
    log = job(store)
    log.append(Splitter(1).feed(b"".join(b"%d\n" % number for number in range(5000))))
    store.flush()
    scan = Scan(stores.folder, LogQuery()).advance()
    seen = [next(scan).data for _ in range(1500)]
    store.intake.call(store.writer.rotate)
    log.append([Message(1, "5000")])
    store.flush()
    seen += [record.data for record in scan]
    assert seen == [str(number) for number in range(5001)]


def test_archives_beyond_max_dbs_go_oldest_first(stores: Stores) -> None:
    store = stores.open(limits=StoreLimits(max_dbs=3))
    log = job(store)
    for number in range(6):
        log.append([Message(1, str(number))])
        store.intake.call(store.writer.rotate)
    log.append([Message(1, "6")])
    store.flush()
    assert [data for (data,) in rows(stores.folder, "data")] == ["3", "4", "5", "6"], (
        "three old ones beside the current"
    )


def test_a_cap_that_removes_undelivered_lines_says_how_many(stores: Stores) -> None:
    store = stores.open(limits=StoreLimits(max_dbs=1))
    bits = store.register_pairs(["a/main"])
    log = job(store, routes=Routes(pairs=[(bits["a/main"], None)]))
    for number in range(3):
        log.append([Message(1, str(number))])
        store.intake.call(store.writer.rotate)
    store.flush()
    heard = wait_until(lambda: [line for line in stores.agent_log.lines if "not yet sent" in line], what="the warning")
    assert "max_dbs = 1 with 1 lines not yet sent to a/main" in heard[0]
    assert [record.data for record in store.pending("a/main").read() if record.level == 1] == ["2"]


def test_an_archive_that_cannot_be_removed_costs_no_line_and_holds_no_other(stores: Stores) -> None:
    """With every rotation the lines for which the new file was made were counted as lost."""
    store = stores.open(limits=StoreLimits(max_db_size=MEGABYTE, max_dbs=2))
    (stores.folder.path / "1600000000.db").mkdir()
    job(store).append([Message(1, "x" * MEGABYTE) for _ in range(5)])
    store.flush()
    assert store.metrics.dropped == 0
    assert store.is_writable
    kept = [path for path in stores.folder.databases() if path.is_file()]
    assert len(kept) == 3, "the one that is written, and two archives"
    wait_until(lambda: any("cannot be kept in order" in line for line in stores.agent_log.lines), what="the word of it")


def test_archives_older_than_max_age_go(stores: Stores) -> None:
    store = stores.open()
    log = job(store)
    for number in range(2):
        log.append([Message(1, str(number))])
        store.intake.call(store.writer.rotate)
    store.stop()
    old = stores.folder.archives()[0]
    with closing(sqlite3.connect(old)) as archive, archive:
        archive.execute("UPDATE meta SET value = value - 7200 WHERE key = 'closed'")
    store = stores.open(limits=StoreLimits(max_age=3600))

    def gone() -> bool:
        store.tick()
        return not old.exists()

    wait_until(gone, what="the old archive to go")
    assert len(stores.folder.archives()) == 1


def test_a_clock_that_jumps_removes_no_young_archive(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stores.open(limits=StoreLimits(max_age=3600))
    log = job(store)
    log.append([Message(1, "x")])
    store.intake.call(store.writer.rotate)
    (young,) = stores.folder.archives()
    os.utime(young, (1_000_000, 1_000_000))  # as if the clock had been behind when it was closed
    jumped = time.time() + 10 * 365 * 86400
    monkeypatch.setattr(time, "time", lambda: jumped)
    store.intake.call(lambda: store.writer._retention.apply(store.writer.cursors, store.writer.database.path))
    assert young.exists()


def retained(store: LogStore) -> None:
    store.intake.call(lambda: store.writer._retention.apply(store.writer.cursors, store.writer.database.path))


def test_a_start_with_the_clock_ahead_removes_no_young_archive(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stores.open()
    job(store).append([Message(1, "x")])
    store.intake.call(store.writer.rotate)
    store.stop()
    (young,) = stores.folder.archives()
    os.utime(young, (1_000_000, 1_000_000))  # for a clock that is ahead it is as old as that
    store = stores.open(limits=StoreLimits(max_age=3600))
    retained(store)
    assert young.exists()
    monkeypatch.setattr(retention, "CLOCK_SETTLED", 0)
    retained(store)
    assert young.exists(), "it tells when it was closed since the machine was booted"


def test_archives_from_before_the_boot_wait_until_the_clock_is_set(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stores.open()
    for number in range(2):
        job(store).append([Message(1, str(number))])
        store.intake.call(store.writer.rotate)
    store.stop()
    young, old = stores.folder.archives()
    for path, age in ((young, 60), (old, 7200)):
        with closing(sqlite3.connect(path)) as archive, archive:
            archive.execute("UPDATE meta SET value = 1 WHERE key = 'boot'")
        os.utime(path, (time.time() - age,) * 2)
    now = time.time()
    monkeypatch.setattr(retention, "monotonic_epoch", lambda: now + 10 * 365 * 86400)  # what the clock was at the start
    store = stores.open(limits=StoreLimits(max_age=3600))
    retained(store)
    assert young.exists()
    assert old.exists()
    monkeypatch.setattr(retention, "CLOCK_SETTLED", 0)
    retained(store)
    assert young.exists(), "the clock was set meanwhile"
    assert not old.exists()


def test_a_start_with_the_clock_ahead_drops_no_pair_that_left(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stores.open()
    store.register_pairs(["a"])
    store.register_pairs([])
    kept = store.writer.cursors.rows()
    ahead = monotonic_epoch() + 30 * 86400
    monkeypatch.setattr(cursors, "monotonic_epoch", lambda: ahead)
    found = Cursors()
    found.load(kept, {})
    assert not found.drop_old()
    monkeypatch.setattr(cursors, "monotonic_epoch", lambda: ahead + cursors.REMOVED_MEMORY + 1)
    assert [cursor.name for cursor in found.drop_old()] == ["a"]


def test_a_clock_that_jumps_drops_no_pair_that_left(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stores.open()
    store.register_pairs(["a"])
    store.register_pairs([])
    jumped = time.time() + 10 * 365 * 86400
    monkeypatch.setattr(time, "time", lambda: jumped)
    assert not store.writer.cursors.drop_old()


def test_min_free_removes_delivered_archives_only_and_never_current(stores: Stores) -> None:
    store = stores.open(limits=StoreLimits(min_free=1 << 60))
    bits = store.register_pairs(["a"])
    log = job(store, routes=Routes(pairs=[(bits["a"], None)]))
    log.append([Message(1, "delivered")])
    store.flush()
    store.pending("a").advance(store.pending("a").read()[-1].seq)
    store.intake.call(store.writer.rotate)
    log.append([Message(1, "waits")])
    store.intake.call(store.writer.rotate)
    log.append([Message(1, "current")])
    store.flush()
    assert [data for (data,) in rows(stores.folder, "data")] == ["waits", "current"]
    wait_until(lambda: any("min_free" in line for line in stores.agent_log.lines), what="the word about min_free")


def test_archives_that_only_controllers_wanted_go_once_delivered(stores: Stores) -> None:
    store = stores.open(keep=False, limits=StoreLimits(max_db_size=MEGABYTE))
    bits = store.register_pairs(["a"])
    log = job(store, routes=Routes(keep=False, pairs=[(bits["a"], None)]))
    for number in range(3):
        log.append([Message(1, str(number))])
        store.intake.call(store.writer.rotate)
    store.flush()
    assert len(stores.folder.archives()) == 3
    records = store.pending("a").read()
    assert [record.data for record in records] == ["0", "1", "2"]
    store.pending("a").advance(records[1].seq)

    def left() -> bool:
        store.tick()
        return len(stores.folder.archives()) == 1

    wait_until(left, what="delivered archives to go")
    assert [record.data for record in store.pending("a").read()] == ["2"]


def test_looking_for_archives_to_remove_compares_each_with_few_others(tmp_path: Path) -> None:
    """It was each with each, every second: at a thousand archives a twentieth of a core."""
    folder = LogFolder(tmp_path)
    for number in range(300):
        (tmp_path / f"{1_700_000_000 + number}.db").touch()
    looked = retention.Retention(folder, StoreLimits(), str, lambda *_: None, lambda: None)
    comparisons = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal comparisons
        comparisons += event == "call" and frame.f_code.co_name == "__eq__"

    for _ in range(2):  # only the second look knows archives from before
        comparisons = 0
        sys.setprofile(count)
        try:
            looked.apply(Cursors(), folder.databases()[-1])
        finally:
            sys.setprofile(None)
    assert len(folder.databases()) == 300
    assert comparisons < 10 * 300
