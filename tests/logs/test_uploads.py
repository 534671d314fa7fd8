"""What controllers want waits in the database behind a cursor each (design, section 3)."""

import time

import gevent
import pytest

from greenagent.logs.lines import Block
from greenagent.logs.store import LogStore
from greenagent.logs.write import cursors
from greenagent.logs.write.job_log import Routes
from greenagent.values.errors import GreenagentError
from greenagent.values.levels import WARNING, parse_levels
from greenagent.values.message import Message
from tests.support.stores import LoosePending, Stores, job, rows
from tests.support.waiting import wait_until


def wanting(store: LogStore, **levels: str) -> Routes:
    """Routes to the pairs named, each with its levels."""
    bits = store.register_pairs(list(levels))
    return Routes(pairs=[(bits[name], parse_levels(wanted)) for name, wanted in levels.items()])


def texts(store: LogStore, pair: str, limit: int = 1000) -> list[str]:
    return [record.data for record in store.pending(pair).read(limit)]


def rotate(store: LogStore) -> None:
    store.intake.call(store.writer.rotate)


def test_each_pair_reads_behind_its_own_cursor(stores: Stores) -> None:
    store = stores.open()
    log = job(store, routes=wanting(store, a="*", b="*"))
    log.append([Block(1, "1\n2\n3\n", 3)])
    store.flush()
    records = store.pending("a").read(2)
    assert [record.data for record in records] == ["1", "2"]
    store.pending("a").advance(records[0].seq)
    assert texts(store, "a") == ["2", "3"]
    assert texts(store, "b") == ["1", "2", "3"]
    assert (store.pending("a").waiting, store.pending("b").waiting) == (2, 3)


def test_cursors_survive_restarts_and_new_pairs_begin_at_the_end(stores: Stores) -> None:
    store = stores.open()
    log = job(store, routes=wanting(store, a="*"))
    log.append([Block(1, "1\n2\n3\n", 3)])
    store.flush()
    store.pending("a").advance(store.pending("a").read(1)[0].seq)
    store.stop()
    store = stores.open()
    log = job(store, routes=wanting(store, a="*", new="*"))
    assert (store.pending("a").waiting, store.pending("new").waiting) == (2, 0)
    log.append([Message(1, "4")])
    store.flush()
    assert texts(store, "a") == ["2", "3", "4"]
    assert texts(store, "new") == ["4"]


def test_lines_are_read_in_order_across_archives_and_both_tables(stores: Stores) -> None:
    store = stores.open()
    bits = store.register_pairs(["a"])
    log = job(store, routes=Routes(database=parse_levels("1"), pairs=[(bits["a"], None)]))
    for number in range(12):
        log.append([Message(1 + number % 2, str(number))])
        if number % 5 == 4:
            rotate(store)
    store.flush()
    assert len(stores.folder.archives()) == 2
    assert texts(store, "a") == [str(number) for number in range(12)]
    assert texts(store, "a", 7) == [str(number) for number in range(7)]


def test_a_slice_is_bounded_in_bytes_but_never_empty(stores: Stores) -> None:
    store = stores.open()
    log = job(store, routes=wanting(store, a="*"))
    log.append([Message(7, "x" * 1000), Message(7, "y" * 1000), Message(7, "z")])
    store.flush()
    assert len(store.pending("a").read(max_bytes=10)) == 1
    assert len(store.pending("a").read(max_bytes=2000)) == 2


def test_a_removed_pair_that_returns_goes_on_where_it_was(stores: Stores) -> None:
    store = stores.open()
    log = job(store, routes=wanting(store, a="*"))
    log.append([Message(1, "waits")])
    store.flush()
    store.register_pairs([])
    log.routes = wanting(store, a="*")
    log.append([Message(1, "new")])
    store.flush()
    assert texts(store, "a") == ["waits", "new"]


def test_a_removed_pair_is_dropped_after_its_time_with_a_word(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stores.open()
    job(store, routes=wanting(store, a="*")).append([Message(1, "waits"), Message(1, "too")])
    store.flush()
    store.register_pairs([])
    monkeypatch.setattr(cursors, "REMOVED_MEMORY", -1)

    def said() -> list[str]:
        store.tick()  # no reload and no start is needed
        return [line for line in stores.agent_log.lines if "pair a left the configuration" in line]

    assert "2 lines" in wait_until(said, what="the word about the pair")[0]
    store.flush()
    assert store.metrics.dropped == 2
    noted = [data for _, level, data in rows(stores.folder) if level == WARNING]
    assert noted == ["2 lines of this job were not sent to a: upload pair a left the configuration 7 days ago"]
    assert store.register_pairs(["a"])
    assert texts(store, "a") == []


def test_more_pairs_than_bits_are_refused(stores: Stores) -> None:
    store = stores.open()
    with pytest.raises(GreenagentError, match="more than 62 pairs"):
        store.register_pairs([f"a/{number}" for number in range(63)])
    bits = store.register_pairs([f"a/{number}" for number in range(62)])
    last = Routes(pairs=[(bits["a/61"], None)])
    job(store, routes=last).append([Message(1, "x")])
    store.flush()
    assert texts(store, "a/61") == ["x"]


def test_pairs_that_cannot_all_be_had_change_nothing(stores: Stores) -> None:
    store = stores.open()
    job(store, routes=wanting(store, a="*")).append([Message(1, "x")])
    store.flush()
    with pytest.raises(GreenagentError, match="more than 62 pairs"):
        store.register_pairs([f"b/{number}" for number in range(63)])
    assert texts(store, "a") == ["x"]
    bits = store.register_pairs(["a", *(f"c/{number}" for number in range(61))])
    assert len(set(bits.values())) == 62, "none of the refused ones took a bit"


def test_a_batch_under_way_while_its_pair_is_removed_still_counts(stores: Stores) -> None:
    """A reload takes the pair out before its uploader has its answer."""
    store = stores.open()
    job(store, routes=wanting(store, a="*")).append([Message(1, "under way"), Message(1, "waits")])
    store.flush()
    records = store.pending("a").read(1)
    store.register_pairs([])
    store.pending("a").advance(records[-1].seq)
    store.register_pairs(["a"])
    assert texts(store, "a") == ["waits"]
    assert store.pending("a").waiting == 1


def test_where_the_cursors_are_lost_lines_go_out_again(stores: Stores) -> None:
    """From behind the cursor as the newest database was begun: it tells which bit stands for which pair."""
    store = stores.open()
    log = job(store, routes=wanting(store, other="*", a="*"))
    log.append([Message(1, "long delivered")])
    store.flush()
    for pair in ("a", "other"):
        store.pending(pair).advance(store.pending(pair).read()[-1].seq)
    rotate(store)
    log.append([Message(1, "delivered"), Message(1, "waits")])
    store.flush()
    store.pending("a").advance(store.pending("a").read(1)[-1].seq)
    left = {path: path.read_bytes() for path in stores.folder.path.iterdir() if not path.is_symlink()}
    store.stop()
    for path, content in left.items():  # as after kill -9
        path.write_bytes(content)
    stores.spool.cursors.replace([], 0)
    store = stores.open()
    log = job(store, routes=wanting(store, new="*", a="*"))
    log.append([Message(1, "new")])
    store.flush()
    assert texts(store, "a") == ["delivered", "waits", "new"]
    assert texts(store, "new") == ["new"], "its bit is another than that of any pair that marked lines"


def test_a_bit_that_the_newest_database_gives_to_another_pair_is_not_used(stores: Stores) -> None:
    store = stores.open()
    job(store, routes=wanting(store, a="*")).append([Message(1, "for a")])
    store.stop()
    stores.spool.cursors.replace([("b", 1, 0, None)], 0)
    store = stores.open()
    job(store, routes=wanting(store, b="*")).append([Message(1, "for b")])
    store.flush()
    assert texts(store, "b") == ["for b"]


def test_a_restart_does_not_read_again_what_nobody_waits_for(stores: Stores) -> None:
    """The cursor of a pair for which nothing waits is carried along."""
    store = stores.open()
    log = job(store, routes=wanting(store, a="9"))
    log.append([Block(1, "x\n" * 1000, 1000)])
    store.stop()
    store = stores.open()
    store.register_pairs(["a"])
    assert store.pending("a").cursor == 1000


class TestWhenABatchIsDue:
    def backlog(self, waiting: int = 0) -> LoosePending:
        backlog = LoosePending()
        if waiting:
            backlog.stored(waiting, 0)
        return backlog

    def waits(self, backlog: LoosePending, batch_size: int = 10, flush_int: float = 1000) -> gevent.Greenlet:
        waiter = gevent.spawn(backlog.wait_due, batch_size, flush_int)
        gevent.sleep(0)
        return waiter

    def test_a_full_batch_is(self) -> None:
        backlog = self.backlog(9)
        waiter = self.waits(backlog)
        assert not waiter.ready()
        backlog.stored(1, 0)
        waiter.get(timeout=60)

    def test_anything_is_when_the_period_ends(self) -> None:
        backlog = self.backlog(1)
        began = time.monotonic()
        self.waits(backlog, flush_int=0.05).get(timeout=60)
        assert time.monotonic() - began >= 0.04

    def test_nothing_never_is(self) -> None:
        waiter = self.waits(self.backlog(), flush_int=0.01)
        waiter.join(0.1)
        assert not waiter.ready()
        waiter.kill()

    def test_a_jobs_own_wish_is(self) -> None:
        backlog = self.backlog()
        waiter = self.waits(backlog)
        backlog.stored(1, 0.02)
        waiter.get(timeout=60)

    def test_all_that_waited_then_goes_in_as_many_batches_as_it_takes(self) -> None:
        backlog = self.backlog()
        backlog.stored(9, 0.001)
        backlog.wait_due(10, 1000)
        backlog.deliver(1, 2, 3)
        self.waits(backlog).get(timeout=60)
        backlog.deliver(4, 5, 6, 7, 8, 9)
        assert backlog.waiting == 0
        backlog.stored(1, 0)
        waiter = self.waits(backlog)
        assert not waiter.ready()
        waiter.kill()

    def test_what_waited_from_an_earlier_life_goes_at_once(self) -> None:
        self.waits(LoosePending(3)).get(timeout=60)

    def test_a_full_batch_does_not_restart_the_period(self) -> None:
        backlog = self.backlog(10)
        backlog._last_tick = time.monotonic() - 999.9
        backlog.wait_due(10, 1000)
        backlog.deliver(*range(10))
        backlog.stored(1, 0)
        self.waits(backlog).get(timeout=60)


def test_lines_that_come_wake_the_uploader(stores: Stores) -> None:
    store = stores.open()
    log = job(store, routes=wanting(store, a="*"))
    assert store.pending("a").waiting == 0
    waiter = gevent.spawn(store.pending("a").wait_due, 3, 1000.0)
    log.append([Block(1, "1\n2\n3\n", 3)])
    waiter.get(timeout=60)
    assert store.pending("a").waiting == 3


def test_log_flush_of_a_job_makes_its_batch_due(stores: Stores) -> None:
    store = stores.open()
    bits = store.register_pairs(["a"])
    routes = Routes(pairs=[(bits["a"], None)], log_flush=0.02)
    waiter = gevent.spawn(store.pending("a").wait_due, 1000, 1000.0)
    job(store, routes=routes).append([Message(1, "x")])
    waiter.get(timeout=60)


def test_pairs_of_loggers_with_odd_names_go_on_where_version_0_1_left_them(stores: Stores) -> None:
    """0.1 escaped neither ``/`` nor ``%`` in the name of a logger."""
    store = stores.open()
    log = job(store, routes=wanting(store, **{"a/b/main": "*", "50%/main": "*"}))
    log.append([Message(1, "waits")])
    store.stop()
    store = stores.open()
    store.register_pairs([cursors.pair_name("a/b", "main"), cursors.pair_name("50%", "main")])
    assert texts(store, "a%2Fb/main") == texts(store, "50%25/main") == ["waits"]
