"""The ledger: every job written before it is acted on, every result until delivered (design, section 3)."""

import json
import os
import sqlite3
from pathlib import Path

import gevent
import pytest

from greenagent.ledger import statements
from greenagent.ledger.journal import FIRST_ROW
from greenagent.ledger.ledger import Ledger
from greenagent.ledger.records import FROM_CONTROLLER, FROM_STARTUP, RUNNING, WAITING
from greenagent.runtime.files import LockedError
from greenagent.values import states
from greenagent.values.command import Command, parse_command
from greenagent.values.result import Result
from tests.support.agent_logs import RecordedLog


def command(job_id: str = "a", **more: object) -> Command:
    return parse_command({"id": job_id, "cmd": "execute", "args": {"name": "true"}, **more})


def result(job_id: str = "a", data: str = "") -> Result:
    return Result(id=job_id, gid=1, nid=2, cmd="execute", state=states.SUCCESS, data=data)


def accept(ledger: Ledger, job: Command, waiting: bool = False) -> int:
    row = ledger.accept(job, "main", FROM_CONTROLLER, waiting=waiting)
    assert row is not None
    return row


def test_a_result_waits_until_it_is_delivered(ledger: Ledger) -> None:
    row = accept(ledger, command())
    ledger.report(row, "main", result(data="é\n"), ends=True)
    assert ledger.pending("other", 10) == []
    [pending] = ledger.pending("main", 10)
    assert json.loads(pending.body)["data"] == "é\n"
    ledger.delivered("main", [pending.row])
    assert ledger.pending("main", 10) == []
    assert ledger.unfinished() == []


def test_everything_survives_kill_minus_nine(ledger: Ledger, tmp_path: Path) -> None:
    """What was committed is read by another connection while the first never closed."""
    waiting = accept(ledger, command("w"), waiting=True)
    running = accept(ledger, command("r"))
    ledger.running(running, 1, 1234)
    ended = accept(ledger, command("e"))
    ledger.report(ended, "main", result("e"), ends=True)
    connection = sqlite3.connect(tmp_path / "ledger.db")
    records = {record.row: record for record in statements.unfinished(connection)}
    assert records[waiting].state == WAITING
    assert (records[running].state, records[running].run, records[running].starttime) == (RUNNING, 1, 1234)
    assert set(records) == {waiting, running}
    assert [pending.id for pending in statements.pending(connection, "main", 10, 0)] == ["e"]
    connection.close()


def test_pending_results_are_read_in_bounded_portions(ledger: Ledger) -> None:
    for number in range(5):
        ledger.report(accept(ledger, command(str(number))), "main", result(str(number), "x" * 1_500_000), ends=True)
    first = ledger.pending("main", 100)
    assert [pending.id for pending in first] == ["0", "1"]
    ledger.delivered("main", [pending.row for pending in first])
    assert [pending.id for pending in ledger.pending("main", 100)] == ["2", "3"]


def test_waiting_for_a_result(ledger: Ledger) -> None:
    arrived = gevent.spawn(ledger.wait, "main", 10)
    gevent.sleep(0)
    ledger.report(0, "main", result(), ends=False)
    assert arrived.get(timeout=5) is True
    assert ledger.wait("main", 0.01) is False


def test_the_answer_of_an_ended_job_is_remembered_and_sent_again(ledger: Ledger) -> None:
    row = accept(ledger, command())
    assert not ledger.answer_again(command(), "main")
    ledger.report(row, "main", result(), ends=True)
    ledger.delivered("main", [pending.row for pending in ledger.pending("main", 10)])
    assert ledger.accept(command(), "main", FROM_CONTROLLER, waiting=True) is None
    assert [pending.id for pending in ledger.pending("main", 10)] == ["a"]
    ledger.delivered("main", [pending.row for pending in ledger.pending("main", 10)])
    assert ledger.answer_again(command(), "main")
    assert [pending.id for pending in ledger.pending("main", 10)] == ["a"]


def test_a_result_on_its_way_is_sent_again_all_the_same(ledger: Ledger) -> None:
    """Its controller has it and asks again before the agent has seen that it was accepted."""
    ledger.report(accept(ledger, command()), "main", result(), ends=True)
    [on_its_way] = ledger.pending("main", 10)
    assert ledger.answer_again(command(), "main")
    assert ledger.answer_again(command(), "main")
    ledger.delivered("main", [on_its_way.row])
    assert [pending.body for pending in ledger.pending("main", 10)] == [on_its_way.body]


def test_another_command_or_controller_is_no_redelivery(ledger: Ledger) -> None:
    ledger.report(accept(ledger, command()), "main", result(), ends=True)
    assert not ledger.answer_again(command(), "other")
    assert not ledger.answer_again(command(data="x"), "main")
    assert accept(ledger, command(data="x"))
    assert ledger.accept(command(data="x"), "main", FROM_STARTUP, waiting=True)


def test_earlier_results_of_a_recurring_job_go_once_they_are_delivered(ledger: Ledger) -> None:
    row = accept(ledger, command())
    for number in range(3):
        ledger.report(row, "main", result(data=str(number)), ends=False)
    ledger.delivered("main", [pending.row for pending in ledger.pending("main", 10)[:2]])
    ledger.report(row, "main", result(data="3"), ends=False)
    kept = ledger.database.run(lambda c: c.execute("SELECT body FROM outcome ORDER BY row").fetchall())
    assert [json.loads(body)["data"] for (body,) in kept] == ["2", "3"]


def test_a_set_aside_result_is_kept_with_its_answer(ledger: Ledger) -> None:
    ledger.report(accept(ledger, command()), "main", result(), ends=True)
    [pending] = ledger.pending("main", 10)
    ledger.set_aside("main", pending.row, 400, "no")
    assert ledger.pending("main", 10) == []
    [aside] = ledger.database.run(statements.asides)
    assert (aside.controller, aside.path, aside.status, aside.answer) == ("main", "result", 400, "no")
    assert json.loads(aside.body)["id"] == "a"


def test_set_aside_records_are_capped_oldest_first(ledger: Ledger) -> None:
    for number in range(5):
        dropped = ledger.database.run(
            lambda c, n=number: statements.set_aside(c, "main", "log", f"{n}" * 100, 400, "", 0.0, 250)
        )
    assert dropped == 1
    assert [aside.body[0] for aside in ledger.database.run(statements.asides)] == ["3", "4"]


def test_a_record_marked_due_is_pending_again(ledger: Ledger) -> None:
    ledger.keep_aside("main", "log", b"[1]", 422, "no")
    ledger.database.run(lambda c: c.execute("UPDATE aside SET due = 1"))
    gevent.spawn(ledger.keep_up, lambda: ["main"], 0.01)
    assert ledger.wait("main", 10)
    [pending] = ledger.pending("main", 10)
    assert (pending.path, pending.body) == ("log", b"[1]")
    assert ledger.database.run(statements.asides) == []


def test_purge_forgets_the_old_and_never_the_undelivered(ledger: Ledger) -> None:
    for name in ("old", "kept"):
        ledger.report(accept(ledger, command(name)), "main", result(name), ends=True)
    [old, _] = ledger.pending("main", 10)
    ledger.delivered("main", [old.row])
    future = 10**12
    assert ledger.database.run(lambda c: statements.purge(c, future, 100, 10**9)) == 1
    assert [pending.id for pending in ledger.pending("main", 10)] == ["kept"]


def test_purge_keeps_within_the_caps(ledger: Ledger) -> None:
    for number in range(10):
        ledger.report(accept(ledger, command(str(number))), "main", result(str(number)), ends=True)
    ledger.delivered("main", [pending.row for pending in ledger.pending("main", 100)])
    assert ledger.database.run(lambda c: statements.purge(c, 0.0, 4, 10**9)) == 6
    assert not ledger.answer_again(command("5"), "main")
    assert ledger.answer_again(command("6"), "main")


def test_a_damaged_ledger_is_set_aside(tmp_path: Path, agent_log: RecordedLog) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"this is no database " * 1000)
    ledger = Ledger(path, agent_log, result_memory=10)
    ledger.start()
    ledger.report(accept(ledger, command()), "main", result(), ends=True)
    assert len(ledger.pending("main", 10)) == 1
    ledger.stop()
    assert len(list(tmp_path.glob("ledger.db.damaged-*"))) == 1
    assert any("damaged" in line for line in agent_log.lines)


def test_a_ledger_with_a_damaged_page_is_set_aside(tmp_path: Path, agent_log: RecordedLog) -> None:
    """It was used as it was, and the agent ended over the first read of that page."""
    path = tmp_path / "ledger.db"
    first = Ledger(path, agent_log, result_memory=10)
    first.start()
    for number in range(50):
        first.report(accept(first, command(str(number))), "main", result(str(number), "x" * 3000), ends=True)
    first.stop()
    content = bytearray(path.read_bytes())
    content[-20 * 4096 : -19 * 4096] = bytes(4096)
    path.write_bytes(content)
    ledger = Ledger(path, agent_log, result_memory=10)
    ledger.start()
    assert ledger.pending("main", 10) == []
    ledger.stop()
    assert len(list(tmp_path.glob("ledger.db.damaged-*"))) == 1
    assert any("damaged" in line for line in agent_log.lines)


def test_a_second_agent_is_refused(ledger: Ledger, tmp_path: Path, agent_log: RecordedLog) -> None:
    with pytest.raises(LockedError, match=f"process {os.getpid()}"):
        Ledger(tmp_path / "ledger.db", agent_log, result_memory=10).start()


def test_a_full_disk_keeps_results_in_memory_until_there_is_room(
    ledger: Ledger, agent_log: RecordedLog, tmp_path: Path
) -> None:
    """The limit is sqlite's own: a database that may not grow says "full" as a full disk does."""
    row = accept(ledger, command())

    def limit(connection: sqlite3.Connection, pages: int) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    ledger.database.run(lambda c: limit(c, 1))
    ledger.report(row, "main", result(data="x" * 100_000), ends=True)
    assert sum("cannot be written" in line for line in agent_log.lines) == 1
    [pending] = ledger.pending("main", 10)
    assert pending.row >= FIRST_ROW
    ledger.database.run(lambda c: limit(c, 1_000_000))
    gevent.spawn(ledger.keep_up, lambda: ["main"], 0.01)
    with gevent.Timeout(10):
        while ledger.pending("main", 10)[0].row >= FIRST_ROW:
            gevent.sleep(0.01)
    [pending] = ledger.pending("main", 10)
    assert pending.row < FIRST_ROW
    assert ledger.unfinished() == []
    assert any("can be written again" in line for line in agent_log.lines)


def test_results_for_a_removed_controller_are_dropped_after_their_memory(ledger: Ledger) -> None:
    ledger.report(accept(ledger, command()), "gone", result(), ends=True)
    future = 10**12
    assert ledger.database.run(lambda c: statements.expire_removed(c, ["gone", "main"], future)) == 0
    assert ledger.database.run(lambda c: statements.expire_removed(c, ["main"], future)) == 1
    assert ledger.pending("gone", 10) == []
