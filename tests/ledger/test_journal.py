"""What waits in memory while the ledger's file takes nothing: in order, bounded, and nothing twice."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from greenagent.ledger.journal import FIRST_ROW, Journal
from greenagent.ledger.ledger import Ledger
from greenagent.ledger.records import FROM_CONTROLLER, Unwritten
from tests.ledger.test_ledger import accept, command, result
from tests.support.agent_logs import RecordedLog
from tests.support.waiting import wait_until


@pytest.fixture
def lock(tmp_path: Path, ledger: Ledger) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


def unlock(ledger: Ledger, lock: sqlite3.Connection) -> None:
    """Gives the file back, and waits until all is written."""
    lock.execute("ROLLBACK")
    upkeep = gevent.spawn(ledger.keep_up, lambda: ["main", "other"], 0.01)
    wait_until(lambda: ledger.is_writable, what="the ledger's health")
    upkeep.kill()


def rows(ledger: Ledger, statement: str) -> list[tuple]:
    found: list[tuple] = ledger.database.run(lambda connection: connection.execute(statement).fetchall())
    return found


def test_a_job_of_that_time_is_written_in_the_state_it_has(ledger: Ledger, lock: sqlite3.Connection) -> None:
    waiting = accept(ledger, command("waits"), waiting=True)
    running = accept(ledger, command("runs"))
    ended = accept(ledger, command("ended"))
    for number in (1, 2):
        ledger.running(running, number, 1000 * number)
        ledger.process(running, number, 10 * number)
    ledger.end(ended)
    assert len({waiting, running, ended}) == 3
    assert max(waiting, running, ended) < 0
    unlock(ledger, lock)
    found = rows(ledger, "SELECT id, state, run, pid, start_ticks, starttime, ended IS NULL FROM job ORDER BY row")
    assert found == [
        ("waits", "waiting", 0, None, None, 0, 1),
        ("runs", "running", 2, 2, 20, 2000, 1),
        ("ended", "ended", 0, None, None, 0, 0),
    ]
    assert ledger.row_of(running) > 0
    ledger.report(running, "main", result("runs"), ends=True)
    assert rows(ledger, "SELECT state FROM job WHERE id = 'runs'") == [("ended",)]


def test_a_result_delivered_meanwhile_is_written_as_delivered_and_answers_again(
    ledger: Ledger, lock: sqlite3.Connection
) -> None:
    ledger.report(accept(ledger, command()), "main", result(data="1"), ends=True)
    [pending] = ledger.pending("main", 10)
    assert pending.row >= FIRST_ROW
    assert ledger.waiting_results() == {"main": 1}
    ledger.delivered("main", [pending.row])
    assert (ledger.pending("main", 10), ledger.waiting_results()) == ([], {})
    for _ in range(2):
        assert ledger.answer_again(command(), "main")
    assert ledger.accept(command(), "main", FROM_CONTROLLER, waiting=True) is None
    assert not ledger.answer_again(command(), "other")
    assert not ledger.answer_again(command(data="x"), "main")
    [again] = ledger.pending("main", 10)
    assert again.body == pending.body
    unlock(ledger, lock)
    [stored] = ledger.pending("main", 10)
    assert (stored.body, stored.row < FIRST_ROW) == (pending.body, True)
    # What was on its way under its number in memory is the same result.
    ledger.delivered("main", [again.row])
    assert ledger.pending("main", 10) == []
    assert rows(ledger, "SELECT id, state FROM job") == [("a", "ended")]
    assert ledger.answer_again(command(), "main")


def test_what_the_file_has_is_read_under_the_lock(ledger: Ledger, tmp_path: Path) -> None:
    for name in ("old", "sent", "waits"):
        ledger.report(accept(ledger, command(name)), "main", result(name), ends=True)
    old, sent, waits = ledger.pending("main", 10)
    ledger.delivered("main", [old.row])
    ledger.database.run(lambda connection: None)
    lock = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    ledger.delivered("main", [sent.row])
    wait_until(lambda: [one.id for one in ledger.pending("main", 10)] == ["waits"], what="the delivery noted")
    for name in ("old", "sent", "waits"):
        assert ledger.answer_again(command(name), "main")
    assert [one.id for one in ledger.pending("main", 10)] == ["waits"]
    assert [one.id for one in ledger.pending("main", 10, waits.row)] == ["old", "sent"]
    unlock(ledger, lock)
    lock.close()
    assert sorted(one.id for one in ledger.pending("main", 10)) == ["old", "sent", "waits"]


def test_what_a_controller_refuses_meanwhile_is_set_aside(ledger: Ledger, tmp_path: Path) -> None:
    ledger.report(accept(ledger, command("stored")), "main", result("stored"), ends=True)
    lock = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    ledger.report(accept(ledger, command("memory")), "main", result("memory"), ends=True)
    ledger.keep_aside("main", "log", b"[1]", 400, "no")
    while found := ledger.pending("main", 10):
        ledger.set_aside("main", found[0].row, 422, "never")
    unlock(ledger, lock)
    lock.close()
    assert ledger.pending("main", 10) == []
    found = rows(ledger, "SELECT path, status, body FROM aside ORDER BY row")
    assert [(path, status) for path, status, _ in found] == [("log", 400), ("result", 422), ("result", 422)]
    assert [json.loads(body)["id"] for _, _, body in found[1:]] == ["stored", "memory"]


def test_the_end_of_the_agent_says_what_is_lost(
    ledger: Ledger, lock: sqlite3.Connection, agent_log: RecordedLog
) -> None:
    ledger.report(accept(ledger, command()), "main", result(), ends=True)
    ledger.stop()
    assert any("1 results with it" in line for line in agent_log.lines)
    lock.execute("ROLLBACK")
    ledger.start()
    assert rows(ledger, "SELECT count(*) FROM job") == [(0,)]


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
