"""The ledger: every job written before it is acted on, every result until delivered (design, section 3)."""

import json
import os
import sqlite3
import time
from pathlib import Path

import gevent
import pytest

from greenagent.runtime.locks import LockedError
from greenagent.spool import statements
from greenagent.spool.ages import Ages
from greenagent.spool.schema import FROM_CONTROLLER, FROM_STARTUP, RUNNING, WAITING, NewJob
from greenagent.spool.spool import Spool
from tests.spool.support import accept, command, result, rows, run_job
from tests.support.agent_logs import RecordedLog
from tests.support.waiting import wait_until


def test_a_result_waits_until_it_is_delivered(spool: Spool) -> None:
    row = accept(spool, command())
    spool.report(row, "main", result(data="é\n"), ends=True)
    assert spool.pending("other", 10) == []
    [pending] = spool.pending("main", 10)
    assert json.loads(pending.body)["data"] == "é\n"
    spool.delivered("main", [pending.row])
    assert spool.pending("main", 10) == []
    assert spool.unfinished() == []


def test_everything_survives_kill_minus_nine(spool: Spool, tmp_path: Path) -> None:
    """What was committed is read by another connection while the first never closed."""
    waiting = accept(spool, command("w"), waiting=True)
    running = accept(spool, command("r"))
    spool.running(running, 1, 1234)
    ended = accept(spool, command("e"))
    spool.report(ended, "main", result("e"), ends=True)
    connection = sqlite3.connect(tmp_path / "ledger.db")
    assert connection.execute("SELECT row, state, run, starttime FROM job WHERE state != 'ended'").fetchall() == [
        (waiting, WAITING, 0, 0),
        (running, RUNNING, 1, 1234),
    ]
    assert [pending.id for pending in statements.pending(connection, "main", 10, 0, "result")] == ["e"]
    connection.close()


def test_the_first_run_is_written_with_the_acceptance_and_taken_back_when_it_does_not_begin(spool: Spool) -> None:
    [row] = spool.accept([NewJob(command(), "main", FROM_CONTROLLER, waiting=True, begins=True)])
    assert row is not None
    [begun] = spool.unfinished()
    assert (begun.row, begun.state, begun.run, begun.starttime > 0) == (row, RUNNING, 1, True)
    spool.not_begun(row)
    [waiting] = spool.unfinished()
    assert (waiting.state, waiting.run, waiting.starttime) == (WAITING, 0, 0)


def test_pending_results_are_read_in_bounded_portions(spool: Spool) -> None:
    for number in range(5):
        spool.report(accept(spool, command(str(number))), "main", result(str(number), "x" * 1_500_000), ends=True)
    first = spool.pending("main", 100)
    assert [pending.id for pending in first] == ["0", "1"]
    spool.delivered("main", [pending.row for pending in first])
    assert [pending.id for pending in spool.pending("main", 100)] == ["2", "3"]


def test_waiting_for_a_result(spool: Spool) -> None:
    arrived = gevent.spawn(spool.wait, "main", 10)
    gevent.sleep(0)
    spool.report(0, "main", result(), ends=False)
    assert arrived.get(timeout=60) is True
    assert spool.wait("main", 0.01) is False


def test_the_answer_of_an_ended_job_is_remembered_and_sent_again(spool: Spool) -> None:
    row = accept(spool, command())
    assert not spool.answer_again(command(), "main")
    spool.report(row, "main", result(), ends=True)
    spool.delivered("main", [pending.row for pending in spool.pending("main", 10)])
    assert spool.accept([NewJob(command(), "main", FROM_CONTROLLER, waiting=True)]) == [None]
    assert [pending.id for pending in spool.pending("main", 10)] == ["a"]
    spool.delivered("main", [pending.row for pending in spool.pending("main", 10)])
    assert spool.answer_again(command(), "main")
    assert [pending.id for pending in spool.pending("main", 10)] == ["a"]


def test_a_result_on_its_way_is_sent_again_all_the_same(spool: Spool) -> None:
    """Its controller has it and asks again before the agent has seen that it was accepted."""
    spool.report(accept(spool, command()), "main", result(), ends=True)
    [on_its_way] = spool.pending("main", 10)
    assert spool.answer_again(command(), "main")
    assert spool.answer_again(command(), "main")
    spool.delivered("main", [on_its_way.row])
    assert [pending.body for pending in spool.pending("main", 10)] == [on_its_way.body]


def test_another_command_or_controller_is_no_redelivery(spool: Spool) -> None:
    spool.report(accept(spool, command()), "main", result(), ends=True)
    assert not spool.answer_again(command(), "other")
    assert not spool.answer_again(command(data="x"), "main")
    assert accept(spool, command(data="x"))
    assert spool.accept([NewJob(command(data="x"), "main", FROM_STARTUP, waiting=True)])[0]


def test_earlier_results_of_a_recurring_job_go_once_they_are_delivered(spool: Spool) -> None:
    row = accept(spool, command())
    for number in range(3):
        spool.report(row, "main", result(data=str(number)), ends=False)
    spool.delivered("main", [pending.row for pending in spool.pending("main", 10)[:2]])
    spool.report(row, "main", result(data="3"), ends=False)
    kept = spool.database.run(lambda c: c.execute("SELECT body FROM outcome ORDER BY row").fetchall())
    assert [json.loads(body)["data"] for (body,) in kept] == ["2", "3"]


def test_a_refused_result_is_kept_whole_and_waits_on_without_its_output(spool: Spool) -> None:
    whole = result(data="x" * 1000, streams=("out\n", ""), critical="c", args={"name": "sh"}, exit_code=3)
    spool.report(accept(spool, command()), "main", whole, ends=True)
    [pending] = spool.pending("main", 10)
    spool.wait("main", 0)
    assert spool.make_dead_letter("main", pending.row, 413, "no")
    assert spool.wait("main", 0)
    [shorter] = spool.pending("main", 10)
    note = "left out: the controller refused the whole result (status 413), greenagent-logs outbox has it on 1:2"
    expected = {**whole.to_wire(), "data": note, "level": 0, "truncated": True, "critical": note}
    assert json.loads(shorter.body) == {**expected, "streams": [f"{note}\n", ""]}
    assert not spool.make_dead_letter("main", shorter.row, 413, "no")
    assert spool.pending("main", 10) == []
    [aside] = spool.database.run(statements.dead_letters)
    assert (aside.controller, aside.path, aside.status, aside.answer) == ("main", "result", 413, "no")
    assert json.loads(aside.body) == whole.to_wire()
    assert spool.send_refused_again("a")
    [again] = spool.pending("main", 10)
    assert again.body == shorter.body
    assert not spool.send_refused_again("a")  # it waits
    spool.delivered("main", [again.row])
    assert not spool.send_refused_again("a")
    assert not spool.send_refused_again("another")


def test_set_aside_records_are_capped_oldest_first(spool: Spool) -> None:
    for number in range(5):
        dropped = spool.database.run(
            lambda c, n=number: statements.keep_dead_letter(c, n + 1, "main", "log", f"{n}" * 100, 400, "", 250)
        )
    assert dropped == 1
    assert [aside.body[0] for aside in spool.database.run(statements.dead_letters)] == ["3", "4"]


def test_a_record_marked_due_is_pending_again(spool: Spool) -> None:
    spool.keep_dead_letter("main", "log", b"[1]", 422, "no")
    spool.database.run(lambda c: c.execute("UPDATE aside SET due = 1"))
    gevent.spawn(spool.keep_up, lambda: ["main"], 0.01)
    assert spool.wait("main", 10)
    [pending] = spool.pending("main", 10)
    assert (pending.path, pending.body) == ("log", b"[1]")
    assert spool.database.run(statements.dead_letters) == []


def test_purge_forgets_the_old_and_never_the_undelivered(spool: Spool) -> None:
    for name in ("old", "kept"):
        spool.report(accept(spool, command(name)), "main", result(name), ends=True)
    [old, _] = spool.pending("main", 10)
    spool.delivered("main", [old.row])
    future = 10**12
    assert spool.database.run(lambda c: statements.purge(c, future, 100, 10**9)) == 1
    assert [pending.id for pending in spool.pending("main", 10)] == ["kept"]


def test_stamps_of_a_clock_that_was_ahead_count_from_the_next_start(spool: Spool) -> None:
    for name, controller in (("settled", "main"), ("owed", "gone")):
        spool.report(accept(spool, command(name)), controller, result(name), ends=True)
    spool.report(0, "main", result("duplicate"), ends=False)
    spool.delivered("main", [pending.row for pending in spool.pending("main", 10)])
    for column in ("created", "delivered"):
        spool.database.run(lambda c, column=column: c.execute(f"UPDATE outcome SET {column} = {column} + 1e9"))
    spool.database.run(lambda c: c.execute("UPDATE job SET ended = ended + 1e9"))
    spool.stop()
    spool.start()
    later = time.time() + 1
    assert spool.database.run(lambda c: statements.purge(c, later, 100, 10**9)) == 1
    assert spool.database.run(lambda c: statements.expire_removed(c, ["main"], later)) == 1
    assert rows(spool, "SELECT id FROM outcome") == [("owed",)]


def test_a_clock_that_is_ahead_at_the_start_ends_no_memory(spool: Spool, agent_log: RecordedLog) -> None:
    spool.report(accept(spool, command("settled")), "main", result("settled"), ends=True)
    spool.report(accept(spool, command("owed")), "gone", result("owed"), ends=True)
    spool.delivered("main", [pending.row for pending in spool.pending("main", 10)])
    for column in ("created", "delivered"):
        spool.database.run(lambda c, column=column: c.execute(f"UPDATE outcome SET {column} = {column} - 1e9"))
    spool.database.run(lambda c: c.execute("UPDATE job SET ended = ended - 1e9"))
    spool.stop()
    spool.start()
    upkeep = gevent.spawn(spool.keep_up, lambda: ["main"], 0.01)
    wait_until(lambda: any("which is not configured" in line for line in agent_log.lines), what="a look at all")
    spool.write_back()
    upkeep.kill()
    assert spool.answer_again(command("settled"), "main")
    assert rows(spool, "SELECT id FROM outcome WHERE delivered IS NULL AND refused IS NULL ORDER BY row") == [
        ("owed",),
        ("settled",),
    ]
    assert not any("dropped:" in line for line in agent_log.lines)


def test_ages_count_only_what_an_agent_lived_through(spool: Spool) -> None:
    now = [1000.0]
    ages = Ages(lambda: now[0])
    spool.database.run(ages.load)
    assert ages.before(60) == 940, "an empty ledger"
    run_job(spool, "a")
    for statement in ("UPDATE job SET ended = 400", "UPDATE outcome SET created = 500"):
        spool.database.run(lambda c, statement=statement: c.execute(statement))
    spool.database.run(ages.load)
    assert ages.before(60) == 440
    now[0] = 1059
    assert ages.before(60) == 499, "it was written 59 seconds of an agent's life ago"
    now[0] = 1061
    assert ages.before(60) == 1001


def test_purge_keeps_within_the_caps(spool: Spool) -> None:
    for number in range(10):
        spool.report(accept(spool, command(str(number))), "main", result(str(number)), ends=True)
    spool.delivered("main", [pending.row for pending in spool.pending("main", 100)])
    assert spool.database.run(lambda c: statements.purge(c, 0.0, 4, 10**9)) == 6
    assert not spool.answer_again(command("5"), "main")
    assert spool.answer_again(command("6"), "main")


def test_a_damaged_ledger_is_set_aside(tmp_path: Path, agent_log: RecordedLog) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"this is no database " * 1000)
    spool = Spool(path, agent_log, result_memory=10)
    spool.start()
    spool.report(accept(spool, command()), "main", result(), ends=True)
    assert len(spool.pending("main", 10)) == 1
    spool.stop()
    assert len(list(tmp_path.glob("ledger.db.damaged-*"))) == 1
    assert any("damaged" in line for line in agent_log.lines)


def test_a_ledger_with_a_damaged_page_is_set_aside(tmp_path: Path, agent_log: RecordedLog) -> None:
    """It was used as it was, and the agent ended over the first read of that page."""
    path = tmp_path / "ledger.db"
    first = Spool(path, agent_log, result_memory=10)
    first.start()
    for number in range(50):
        first.report(accept(first, command(str(number))), "main", result(str(number), "x" * 3000), ends=True)
    first.stop()
    content = bytearray(path.read_bytes())
    content[-20 * 4096 : -19 * 4096] = bytes(4096)
    path.write_bytes(content)
    spool = Spool(path, agent_log, result_memory=10)
    spool.start()
    assert spool.pending("main", 10) == []
    spool.stop()
    assert len(list(tmp_path.glob("ledger.db.damaged-*"))) == 1
    assert any("damaged" in line for line in agent_log.lines)


def test_a_second_agent_is_refused(spool: Spool, tmp_path: Path, agent_log: RecordedLog) -> None:
    with pytest.raises(LockedError, match=f"process {os.getpid()}"):
        Spool(tmp_path / "ledger.db", agent_log, result_memory=10).start()


def test_results_for_a_removed_controller_are_dropped_after_their_memory(spool: Spool) -> None:
    spool.report(accept(spool, command()), "gone", result(), ends=True)
    future = 10**12
    assert spool.database.run(lambda c: statements.expire_removed(c, ["gone", "main"], future)) == 0
    assert spool.database.run(lambda c: statements.expire_removed(c, ["main"], future)) == 1
    assert spool.pending("gone", 10) == []
