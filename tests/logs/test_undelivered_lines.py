"""Lines that go before a controller has them are counted and said (design, promise 3)."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from greenagent.logs.lines import Block
from greenagent.logs.store import LogStore
from greenagent.logs.write import cursors, undelivered
from greenagent.logs.write.job_log import Routes
from greenagent.logs.write.retention import StoreLimits
from greenagent.runtime.native import native_sleep
from greenagent.values.levels import WARNING, parse_levels
from greenagent.values.message import Message
from tests.support.stores import LoosePending, Stores, job, rows
from tests.support.waiting import wait_until


def wanting(store: LogStore, *pairs: str, keep: bool = True) -> Routes:
    bits = store.register_pairs(list(pairs))
    return Routes(keep=keep, pairs=[(bit, parse_levels("1")) for bit in bits.values()])


def rotate(store: LogStore) -> Path:
    path: Path = store.intake.call(store.writer.rotate)
    return path


def notes(stores: Stores) -> list[tuple[str, str]]:
    return rows(stores.folder, f"jobid, data FROM logs WHERE level = {WARNING} --")


def said(stores: Stores, words: str) -> list[str]:
    return wait_until(lambda: [line for line in stores.agent_log.lines if words in line], what=words)


def test_a_cap_tells_every_job_how_many_of_its_lines_went_unsent(stores: Stores) -> None:
    """Once, however many controllers wanted them; also the job that is over."""
    store = stores.open(limits=StoreLimits(max_dbs=1))
    routes = wanting(store, "a/main", "b/main")
    living, over = job(store, "living", routes), job(store, "over", routes)
    living.append([Block(1, "x\n" * 30, 30), Message(2, "for nobody")])
    over.append([Message(1, "x"), Message(1, "y")])
    over.close()
    rotate(store)
    rotate(store)
    store.flush()
    assert "max_dbs = 1 with 32 lines not yet sent to a/main, b/main" in said(stores, "not yet sent")[0]
    wait_until(lambda: len(notes(stores)) == 2, what="the notes")
    cause = "were not sent to a/main, b/main: their database was removed for max_dbs = 1"
    assert notes(stores) == [("living", f"30 lines of this job {cause}"), ("over", f"2 lines of this job {cause}")]
    assert store.metrics.dropped == 32
    assert living.dropped == 30


def test_lines_that_one_controller_has_are_counted_for_the_other(stores: Stores) -> None:
    store = stores.open(limits=StoreLimits(max_dbs=1))
    job(store, routes=wanting(store, "a", "b", keep=False)).append([Message(1, "x"), Message(1, "y")])
    store.flush()
    store.pending("a").advance(store.pending("a").read()[-1].seq)
    store.pending("b").advance(store.pending("b").read()[0].seq)
    rotate(store)
    rotate(store)
    store.flush()
    assert said(stores, "not yet sent")[0].endswith("with 1 lines not yet sent to b")
    assert store.metrics.dropped == 1


def test_many_jobs_are_counted_together_beyond_some(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that lose most are told each."""
    monkeypatch.setattr(undelivered, "_JOBS_NAMED", 2)
    store = stores.open(limits=StoreLimits(max_dbs=1))
    routes = wanting(store, "a")
    for number in range(5):
        job(store, f"j{number}", routes).append([Block(1, "x\n" * (number + 1), number + 1)])
    rotate(store)
    rotate(store)
    store.flush()
    assert said(stores, "jobs more")[0].startswith("lines of 3 jobs more were not sent to a:")
    wait_until(lambda: len(notes(stores)) == 2, what="the notes")
    assert [jobid for jobid, _ in notes(stores)] == ["j4", "j3"]
    assert store.metrics.dropped == 15


@pytest.mark.parametrize("trouble", ["locked", "damaged"])
def test_a_cap_says_what_it_could_not_count(stores: Stores, trouble: str) -> None:
    store = stores.open(limits=StoreLimits(max_dbs=1))
    job(store, routes=wanting(store, "a")).append([Message(1, "x" * 100_000)])
    archive = rotate(store)
    with closing(sqlite3.connect(archive, isolation_level=None)) as other:
        if trouble == "locked":
            other.execute("BEGIN EXCLUSIVE")
        else:
            content = archive.read_bytes()
            archive.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
            store.tick()
        rotate(store)
    line = said(stores, "cannot be read")[0]
    assert line.startswith(f"{archive.name} is removed for max_dbs = 1")
    assert "is not known" in line
    assert not archive.exists()


def test_lines_in_a_damaged_archive_are_counted_once_nothing_else_waits(stores: Stores) -> None:
    store = stores.open()
    log = job(store, routes=wanting(store, "a"))
    log.append([Message(1, "x" * 100_000), Message(1, "lost too")])
    archive = rotate(store)
    log.append([Message(1, "fine")])
    store.flush()
    content = archive.read_bytes()
    archive.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    found = store.pending("a").read()
    assert [record.data for record in found] == ["fine"]
    store.pending("a").advance(found[-1].seq)
    assert store.metrics.dropped == 0, "they might come yet"
    assert store.pending("a").read() == []
    assert said(stores, "are lost")[0].startswith("2 lines that waited for a are lost")
    assert store.metrics.dropped == 2
    assert store.pending("a").read() == []
    assert store.metrics.dropped == 2


def test_what_a_cap_has_counted_is_not_counted_again(stores: Stores) -> None:
    store = stores.open(limits=StoreLimits(max_dbs=1))
    job(store, routes=wanting(store, "a")).append([Message(1, "x")])
    rotate(store)
    rotate(store)
    store.flush()
    said(stores, "not yet sent")
    assert store.pending("a").read() == []
    assert store.metrics.dropped == 1
    assert store.pending("a").waiting == 0


def test_what_shares_a_transaction_with_the_last_delivered_line_holds_no_archive(stores: Stores) -> None:
    store = stores.open(limits=StoreLimits(min_free=1 << 60))
    log = job(store, routes=wanting(store, "a"))
    assert store.intake.thread is not None
    store.intake.soon(lambda: native_sleep(0.3))  # so that both are taken at once
    log.append([Message(1, "for a"), Message(2, "for nobody")])
    archive = rotate(store)
    store.pending("a").advance(store.pending("a").read()[-1].seq)
    assert store.metrics.batches == 1
    rotate(store)
    assert not archive.exists()


class TestLinesThatAreNowhere:
    def test_lines_that_come_while_nothing_is_read_still_wait(self) -> None:
        lines = LoosePending(meanwhile=lambda: lines.stored(3, 0))
        lines.deliver()
        assert lines.missed == []
        assert lines.waiting == 3

    def test_lines_that_are_read_before_they_are_told_of_are_not_missed(self) -> None:
        lines = LoosePending()
        lines.deliver(1, 2)
        lines.stored(2, 0)
        lines.deliver()
        assert lines.missed == []
        assert lines.waiting == 0

    def test_lines_that_are_nowhere_are_missed_once(self) -> None:
        lines = LoosePending(5)
        lines.deliver(4, 5)
        lines.deliver()
        lines.deliver()
        assert lines.missed == [3]


def test_a_start_keeps_the_archive_of_lines_that_only_a_controller_wants(stores: Stores) -> None:
    store = stores.open()
    job(store, routes=wanting(store, "a", keep=False)).append([Message(1, "waits")])
    rotate(store)
    store.stop()
    store = stores.open()
    store.tick()
    store.flush()
    wanting(store, "a")
    assert [record.data for record in store.pending("a").read(10)] == ["waits"]


def test_lines_of_a_pair_that_left_stay_while_another_goes_on_and_go_with_a_count(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also over a start, and in a database that has been closed."""
    store = stores.open()
    log = job(store, routes=wanting(store, "a", "left", keep=False))
    log.append([Message(1, "both"), Message(1, "too")])
    log.routes = wanting(store, "a", keep=False)
    log.append([Message(1, "a alone")])
    store.flush()
    store.pending("a").advance(store.pending("a").read(10)[-1].seq)
    store.flush()
    assert [data for _, _, data in rows(stores.folder, table="outgoing")] == ["both", "too"]
    rotate(store)
    store.stop()
    store = stores.open()
    log = job(store, routes=wanting(store, "a", keep=False))
    log.append([Message(1, "later")])
    rotate(store)
    store.pending("a").advance(store.pending("a").read(10)[-1].seq)
    store.flush()
    rotate(store)
    assert [data for _, _, data in rows(stores.folder, table="outgoing")] == ["both", "too"], "the later file is gone"
    wanting(store, "a", "left")
    assert [record.data for record in store.pending("left").read(10)] == ["both", "too"]
    store.pending("left").advance(store.pending("left").read(1)[0].seq)
    monkeypatch.setattr(cursors, "REMOVED_MEMORY", -1)
    wanting(store, "a")
    assert "1 lines that waited are dropped" in said(stores, "pair left left the configuration")[0]
    assert store.metrics.dropped == 1
    store.flush()
    rotate(store)
    assert rows(stores.folder, table="outgoing") == []


def test_lines_that_a_pair_which_left_loses_to_min_free_are_counted(stores: Stores) -> None:
    store = stores.open(limits=StoreLimits(min_free=1 << 62))
    log = job(store, routes=wanting(store, "left"))
    log.append([Message(1, "x"), Message(1, "y")])
    rotate(store)
    assert rows(stores.folder) != [], "while its pair is in force it stays"
    wanting(store)
    rotate(store)
    assert "is removed for min_free" in said(stores, "with 2 lines not yet sent to left")[0]
    assert store.metrics.dropped == 2


def test_a_start_that_fails_before_the_pairs_are_known_leaves_their_cursors(stores: Stores) -> None:
    """As for a port that is taken: the clean stop carries cursors for which nothing waits to the end."""
    store = stores.open()
    job(store, routes=wanting(store, "a")).append([Message(1, "waits")])
    store.stop()
    stores.open().stop()
    store = stores.open()
    wanting(store, "a")
    assert [record.data for record in store.pending("a").read(10)] == ["waits"]
