"""What is appended is found again: in order, with ids, in the right table, by the right readers."""

import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import gevent
import pytest

from greenagent.logs.console import Console
from greenagent.logs.lines import Block
from greenagent.logs.read.query import LogQuery
from greenagent.logs.schema import LINE_COLUMNS
from greenagent.logs.splitter import Splitter
from greenagent.logs.store import LogStore
from greenagent.logs.write.job_log import Routes
from greenagent.values.errors import GreenagentError
from greenagent.values.levels import parse_levels
from greenagent.values.message import Message
from tests.support.agent_logs import RecordedLog
from tests.support.stores import Stores, job, rows
from tests.support.waiting import wait_until


def test_the_seeds_columns_come_first_and_seq_is_last(stores: Stores) -> None:
    store = stores.open()
    job(store).append([Message(7, "x")])
    store.flush()
    with closing(sqlite3.connect(stores.folder.current)) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(logs)")]
        types = {row[1]: row[2] for row in connection.execute("PRAGMA table_info(logs)")}
    assert tuple(columns) == LINE_COLUMNS
    assert columns[:7] == ["id", "jobid", "domain", "name", "epoch", "level", "data"]
    assert columns[-1] == "seq"
    assert types["epoch"] == "REAL"


def test_messages_keep_their_order_and_get_rising_ids(stores: Stores) -> None:
    store = stores.open()
    log = job(store)
    log.append([Block(1, "a\nb\n", 2), Message(9, "c"), Message(101, "4711"), Message(20, "d"), Block(2, "e\n", 1)])
    store.flush()
    assert rows(stores.folder) == [(1, 1, "a"), (2, 1, "b"), (3, 9, "c"), (4, 20, "d"), (5, 2, "e")]
    assert store.metrics.lines == 5


def test_what_loglevels_drop_gets_no_id(stores: Stores) -> None:
    store = stores.open()
    log = job(store, routes=Routes(loglevels=parse_levels("1")))
    log.append([Message(7, "no"), Block(1, "yes\n", 1), Block(2, "no\n", 1), Block(1, "also\n", 1)])
    store.flush()
    assert rows(stores.folder) == [(1, 1, "yes"), (2, 1, "also")]


def test_levels_of_each_logger_are_its_own(stores: Stores) -> None:
    store = stores.open()
    bits = store.register_pairs(["a/main", "b/main"])
    routes = Routes(
        database=parse_levels("1,2"),
        pairs=[(bits["a/main"], parse_levels("2")), (bits["b/main"], parse_levels("2,7"))],
    )
    job(store, routes=routes).append([Message(1, "one"), Message(2, "two"), Message(7, "seven"), Message(8, "eight")])
    store.flush()
    assert [row[2] for row in rows(stores.folder)] == ["one", "two"]
    assert [record.data for record in store.pending("a/main").read()] == ["two"]
    assert [record.data for record in store.pending("b/main").read()] == ["two", "seven"]
    assert [record.data for record in store.query(LogQuery())] == ["two", "one"]


def test_routes_may_change_while_the_job_runs(stores: Stores) -> None:
    store = stores.open()
    log = job(store, routes=Routes(database=parse_levels("1")))
    log.append([Message(7, "before")])
    log.routes = Routes(database=parse_levels("7"))
    log.append([Message(7, "after")])
    store.flush()
    assert [row[2] for row in rows(stores.folder)] == ["after"]


def test_without_a_database_logger_nothing_is_left_once_delivered(stores: Stores) -> None:
    store = stores.open(keep=False)
    bits = store.register_pairs(["a/main"])
    log = job(store, routes=Routes(keep=False, pairs=[(bits["a/main"], parse_levels("2"))]))
    log.append([Message(1, "nobody"), Message(2, "wanted")])
    store.flush()
    assert rows(stores.folder) == []
    assert [row[2] for row in rows(stores.folder, table="outgoing")] == ["wanted"]
    store.pending("a/main").advance(store.pending("a/main").read()[-1].seq)
    store.flush()
    assert rows(stores.folder, table="outgoing") == []


def test_a_second_store_on_the_same_folder_is_refused(stores: Stores, tmp_path: Path) -> None:
    stores.open()
    other = LogStore(stores.folder.path, tmp_path / "other", RecordedLog())
    with pytest.raises(GreenagentError, match=r"the log folder .* is in use by process"):
        other.start()


def test_a_second_store_on_the_same_message_ids_is_refused_and_gives_the_folder_back(
    stores: Stores, tmp_path: Path
) -> None:
    first = stores.open()
    with pytest.raises(GreenagentError, match=r"the message id file .* is in use by process"):
        LogStore(tmp_path / "other", stores.ids, RecordedLog()).start()
    first.stop()
    second = LogStore(tmp_path / "other", stores.ids, RecordedLog())
    second.start()
    second.stop()


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GreenagentError, match=r"log folder .*file/logs cannot be used"):
        LogStore(tmp_path / "file" / "logs", tmp_path / "mid", RecordedLog()).start()


def test_a_message_id_file_that_cannot_be_used_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(GreenagentError, match=r"the message id file .*gone/mid cannot be used: No such file"):
        LogStore(tmp_path / "logs", tmp_path / "gone" / "mid", RecordedLog()).start()
    (tmp_path / "mid").mkdir()
    with pytest.raises(GreenagentError, match=r"main.message_id_file: cannot read .*/mid: it is a folder, not a file"):
        LogStore(tmp_path / "logs", tmp_path / "mid", RecordedLog()).start()


def test_files_are_not_readable_for_everybody(stores: Stores) -> None:
    store = stores.open()
    job(store).append([Message(1, "x")])
    store.flush()
    assert stores.folder.path.stat().st_mode & 0o777 == 0o750
    for path in [*stores.folder.path.iterdir(), stores.ids]:
        assert path.stat().st_mode & 0o137 == 0, path


def test_after_a_clean_stop_no_write_ahead_log_is_left(stores: Stores) -> None:
    store = stores.open()
    job(store).append([Message(1, "x")])
    store.stop()
    (newest,) = stores.folder.databases()
    assert sorted(os.listdir(stores.folder.path)) == [".lock", newest.name, "current.db"]
    assert os.readlink(stores.folder.current) == newest.name, "relative: the folder may be moved and copied"
    assert stores.folder.current.read_bytes()[18] == 1, "journal mode DELETE: readable with read access only"


def test_seq_goes_on_after_a_restart_although_lines_were_deleted(stores: Stores) -> None:
    store = stores.open()
    log = job(store)
    log.append([Block(1, "a\nb\nc\n", 3)])
    assert store.delete(LogQuery(jobid="j")) == (3, 0)
    store.stop()
    store = stores.open()
    job(store).append([Message(1, "d")])
    store.flush()
    assert rows(stores.folder, "seq, id, data") == [(4, 4, "d")]


def test_a_writer_that_is_behind_holds_the_job_back_and_loses_nothing(stores: Stores) -> None:
    store = stores.open()
    log = job(store)
    block = Block(1, "x" * 79 + "\n" * 1, 1)
    big = Block(1, block.text * 3000, 3000)
    for _ in range(40):
        log.append([big])
        assert store.metrics.waiting < 3 * (1 << 20)
    store.flush()
    assert store.metrics.lines == 120_000
    assert len(rows(stores.folder, "id")) == 120_000


def test_jobs_side_by_side_each_keep_their_order(stores: Stores) -> None:
    store = stores.open()

    def chat(number: int) -> None:
        log = job(store, f"j{number}")
        splitter = Splitter(1)
        for start in range(0, 20_000, 1000):
            text = "".join(f"{number} {line}\n" for line in range(start, start + 1000))
            log.append(splitter.feed(text.encode()))
            gevent.sleep(0)

    gevent.joinall([gevent.spawn(chat, number) for number in range(5)], raise_error=True)
    store.flush()
    everything = rows(stores.folder, "jobid, data, id")
    assert len(everything) == 100_000
    assert [row[2] for row in everything] == list(range(1, 100_001))
    for number in range(5):
        mine = [data for jobid, data, _ in everything if jobid == f"j{number}"]
        assert mine == [f"{number} {line}" for line in range(20_000)]


def test_half_characters_are_kept_visible(stores: Stores) -> None:
    store = stores.open()
    job(store).append([Message(1, "a\ud800b")])
    job(store).append_now(7, "file \udcff")
    store.flush()
    assert [row[2] for row in rows(stores.folder)] == ["a\\ud800b", "file \\udcff"]


def test_the_cap_of_a_job_counts_what_it_leaves_out_and_says_so(stores: Stores) -> None:
    store = stores.open()
    log = job(store, max_bytes=10)
    log.append([Block(1, "aaaa\nbbbb\ncccc\ndddd\n", 4)])
    log.append([Block(1, "e\n", 1), Message(7, "f")])
    log.say(9, "of the agent")
    log.close()
    store.flush()
    kept = rows(stores.folder, "level, data")
    assert kept.pop() == (9, "of the agent")  # no cap is for what the agent itself says
    assert kept[:2] == [(1, "aaaa"), (1, "bbbb")]
    assert [level for level, _ in kept[2:]] == [7, 7]
    assert kept[2][1].startswith("2 lines of this job were not stored: it passed max_log_per_job = 10 bytes")
    assert kept[3][1].startswith("2 lines of this job were not stored")
    assert log.dropped == 4
    assert store.metrics.dropped == 4


class Shown:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, text: str) -> None:
        self.lines.append(text)


def test_console_lines_name_id_command_and_level_and_stay_one_line(stores: Stores) -> None:
    shown = Shown()
    store = stores.open(console=Console(shown))
    routes = Routes(consoles=[parse_levels("2"), parse_levels("2,7")])
    log = job(store, routes=routes)
    log.append([Block(1, "hidden\n", 1), Block(2, "first\nsecond\n", 2), Message(7, "two\nlines \x1b[31m")])
    stamps, endings = zip(*((line[:24], line[25:]) for line in shown.lines), strict=True)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4}", stamp) for stamp in stamps)
    assert list(endings) == [
        "2# execute nam|2:first",
        "3# execute nam|2:second",
        "4# execute nam|7:two\\nlines \\x1b[31m",
    ]


def test_deleting_keeps_what_a_controller_waits_for(stores: Stores) -> None:
    store = stores.open()
    bits = store.register_pairs(["a/main"])
    log = job(store, routes=Routes(pairs=[(bits["a/main"], parse_levels("2"))]))
    log.append([Block(1, "x\n" * 2500, 2500), Block(2, "w\n" * 10, 10)])
    store.flush()
    store.pending("a/main").advance(2504)
    job(store, "other").append([Message(1, "stays")])
    assert store.delete(LogQuery(jobid="j")) == (2504, 6)
    assert len(store.pending("a/main").read()) == 6
    store.pending("a/main").advance(2510)
    assert store.delete(LogQuery(jobid="j", levels=parse_levels("2"))) == (6, 0)
    assert [record.data for record in store.query(LogQuery())] == ["stays"]


def test_deleting_crosses_archives(stores: Stores) -> None:
    store = stores.open()
    for number in range(3):
        job(store).append([Message(1, f"{number}"), Message(7, f"{number}")])
        store.intake.call(store.writer.rotate)
    job(store).append([Message(1, "3")])
    assert store.delete(LogQuery(levels=parse_levels("1"))) == (4, 0)
    assert [record.data for record in store.query(LogQuery())] == ["2", "1", "0"]


def test_removing_the_file_under_the_agent_starts_a_new_one(stores: Stores) -> None:
    store = stores.open()
    log = job(store)
    log.append([Message(1, "a")])
    store.flush()
    (removed,) = stores.folder.databases()
    removed.unlink()

    def is_back() -> bool:
        log.append([Message(1, "b")])
        store.flush()
        return stores.folder.current.exists()

    wait_until(is_back, what="a new current.db")
    assert not removed.exists()
    assert any(f"{removed} was removed" in line for line in stores.agent_log.lines)
    log.append([Message(1, "last")])
    store.flush()
    assert rows(stores.folder)[-1][2] == "last"


def test_removing_the_link_costs_nothing(stores: Stores) -> None:
    store = stores.open()
    log = job(store)
    log.append([Message(1, "a")])
    store.flush()
    stores.folder.current.unlink()

    def is_back() -> bool:
        store.tick()
        return stores.folder.current.exists()

    wait_until(is_back, what="the link")
    wait_until(lambda: any("current.db was removed" in line for line in stores.agent_log.lines), what="the word of it")
    log.append([Message(1, "b")])
    store.flush()
    assert [data for _, _, data in rows(stores.folder)] == ["a", "b"]
    assert len(stores.folder.databases()) == 1


def test_a_database_put_in_the_place_of_the_link_is_kept(stores: Stores) -> None:
    """Somebody copied a file over ``current.db``: it gets a number, and ours stays the newest."""
    store = stores.open()
    log = job(store)
    log.append([Message(1, "ours")])
    store.flush()
    stores.folder.current.unlink()
    shutil.copy(Path(__file__).parents[1] / "data/original-logs/current.db", stores.folder.current)

    def is_numbered() -> bool:
        store.tick()
        return len(stores.folder.databases()) == 3 and stores.folder.current.is_symlink()

    wait_until(is_numbered, what="its number")
    log.append([Message(1, "later")])
    store.flush()
    assert store.query(LogQuery(limit=1))[0].data == "later"
    assert len(store.query(LogQuery(limit=0))) == 27
