"""What waits in memory while the ledger's file takes nothing: in order, bounded, and nothing twice."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from greenagent.spool.journal import FIRST_ROW, Journal
from greenagent.spool.records import FROM_CONTROLLER, Unwritten
from greenagent.spool.spool import Spool
from tests.spool.test_spool import accept, command, result
from tests.support.agent_logs import RecordedLog
from tests.support.waiting import wait_until


@pytest.fixture
def lock(tmp_path: Path, spool: Spool) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


def unlock(spool: Spool, lock: sqlite3.Connection) -> None:
    """Gives the file back, and waits until all is written."""
    lock.execute("ROLLBACK")
    upkeep = gevent.spawn(spool.keep_up, lambda: ["main", "other"], 0.01)
    wait_until(lambda: spool.is_writable, what="the ledger's health")
    upkeep.kill()


def rows(spool: Spool, statement: str) -> list[tuple]:
    found: list[tuple] = spool.database.run(lambda connection: connection.execute(statement).fetchall())
    return found


def test_a_job_of_that_time_is_written_in_the_state_it_has(spool: Spool, lock: sqlite3.Connection) -> None:
    waiting = accept(spool, command("waits"), waiting=True)
    running = accept(spool, command("runs"))
    ended = accept(spool, command("ended"))
    for number in (1, 2):
        spool.running(running, number, 1000 * number)
        spool.process(running, number, 10 * number)
    spool.end(ended)
    assert len({waiting, running, ended}) == 3
    assert max(waiting, running, ended) < 0
    unlock(spool, lock)
    found = rows(spool, "SELECT id, state, run, pid, start_ticks, starttime, ended IS NULL FROM job ORDER BY row")
    assert found == [
        ("waits", "waiting", 0, None, None, 0, 1),
        ("runs", "running", 2, 2, 20, 2000, 1),
        ("ended", "ended", 0, None, None, 0, 0),
    ]
    assert spool.row_of(running) > 0
    spool.report(running, "main", result("runs"), ends=True)
    assert rows(spool, "SELECT state FROM job WHERE id = 'runs'") == [("ended",)]


def test_a_result_delivered_meanwhile_is_written_as_delivered_and_answers_again(
    spool: Spool, lock: sqlite3.Connection
) -> None:
    spool.report(accept(spool, command()), "main", result(data="1"), ends=True)
    [pending] = spool.pending("main", 10)
    assert pending.row >= FIRST_ROW
    assert spool.waiting_results() == {"main": 1}
    spool.delivered("main", [pending.row])
    assert (spool.pending("main", 10), spool.waiting_results()) == ([], {})
    for _ in range(2):
        assert spool.answer_again(command(), "main")
    assert spool.accept(command(), "main", FROM_CONTROLLER, waiting=True) is None
    assert not spool.answer_again(command(), "other")
    assert not spool.answer_again(command(data="x"), "main")
    [again] = spool.pending("main", 10)
    assert again.body == pending.body
    unlock(spool, lock)
    [stored] = spool.pending("main", 10)
    assert (stored.body, stored.row < FIRST_ROW) == (pending.body, True)
    # What was on its way under its number in memory is the same result.
    spool.delivered("main", [again.row])
    assert spool.pending("main", 10) == []
    assert rows(spool, "SELECT id, state FROM job") == [("a", "ended")]
    assert spool.answer_again(command(), "main")


def test_what_the_file_has_is_read_under_the_lock(spool: Spool, tmp_path: Path) -> None:
    for name in ("old", "sent", "waits"):
        spool.report(accept(spool, command(name)), "main", result(name), ends=True)
    old, sent, waits = spool.pending("main", 10)
    spool.delivered("main", [old.row])
    spool.database.run(lambda connection: None)
    lock = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    spool.delivered("main", [sent.row])
    wait_until(lambda: [one.id for one in spool.pending("main", 10)] == ["waits"], what="the delivery noted")
    for name in ("old", "sent", "waits"):
        assert spool.answer_again(command(name), "main")
    assert [one.id for one in spool.pending("main", 10)] == ["waits"]
    assert [one.id for one in spool.pending("main", 10, waits.row)] == ["old", "sent"]
    unlock(spool, lock)
    lock.close()
    assert sorted(one.id for one in spool.pending("main", 10)) == ["old", "sent", "waits"]


def test_what_a_controller_refuses_meanwhile_is_set_aside(spool: Spool, tmp_path: Path) -> None:
    spool.report(accept(spool, command("stored")), "main", result("stored"), ends=True)
    lock = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    spool.report(accept(spool, command("memory")), "main", result("memory"), ends=True)
    spool.keep_aside("main", "log", b"[1]", 400, "no")
    while found := spool.pending("main", 10):
        spool.set_aside("main", found[0].row, 422, "never")
    unlock(spool, lock)
    lock.close()
    assert spool.pending("main", 10) == []
    found = rows(spool, "SELECT path, status, body FROM aside ORDER BY row")
    assert [(path, status) for path, status, _ in found] == [("log", 400), ("result", 422), ("result", 422)]
    assert [json.loads(body)["id"] for _, _, body in found[1:]] == ["stored", "memory"]


def test_the_end_of_the_agent_says_what_is_lost(spool: Spool, lock: sqlite3.Connection, agent_log: RecordedLog) -> None:
    spool.report(accept(spool, command()), "main", result(), ends=True)
    spool.stop()
    assert any("1 results with it" in line for line in agent_log.lines)
    lock.execute("ROLLBACK")
    spool.start()
    assert rows(spool, "SELECT count(*) FROM job") == [(0,)]


def unwritten(job: int, data: str, ends: bool = True) -> Unwritten:
    return Unwritten(job, "main", str(job), "SUCCESS", data, ends)


def test_results_beyond_the_limit_go_the_delivered_first_and_their_jobs_end_all_the_same() -> None:
    journal = Journal(10_000, 1000)
    first, second = (journal.report(unwritten(job, "x" * 4000)) for job in (1, 2))
    journal.settle(second, 1.0)
    journal.report(unwritten(3, "x" * 4000))
    assert journal.dropped == 0
    assert [journal.result(number) is not None for number in (first, second)] == [True, False]
    assert journal.has((2, "end"))
    journal.report(unwritten(4, "x" * 4000))
    assert (journal.dropped, journal.result(first), journal.has((1, "end"))) == (1, None, True)
    journal.report(unwritten(5, "x" * 40_000))
    assert journal.waiting() == {"main": 1}


def test_neither_changes_nor_results_of_a_repeating_job_pile_up() -> None:
    journal = Journal(10**9, 1000)
    for number in range(1000):
        journal.change((7, "running"), 7, lambda connection, row: None)
        journal.settle(journal.report(unwritten(7, str(number), ends=False)), 1.0)
    assert len(journal) == 2
    dropped = sum(journal.aside(lambda connection, row: None, 100) for _ in range(25))
    assert (dropped, len(journal)) == (15, 12)
