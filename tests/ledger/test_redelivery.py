"""A command delivered once more when others of its id have run since: it is answered, not run (design, section 5)."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from greenagent.ledger.ledger import Ledger
from greenagent.ledger.records import FROM_CONTROLLER
from greenagent.values.command import Command, parse_command
from tests.ledger.test_ledger import accept, command, result

A, B = command(data="A"), command(data="B")


def run(ledger: Ledger, job: Command, data: str) -> None:
    ledger.report(accept(ledger, job), "main", result(data=data), ends=True)


def answers(ledger: Ledger) -> list[str]:
    """What is pending, taken as delivered."""
    pending = ledger.pending("main", 10)
    ledger.delivered("main", [one.row for one in pending])
    return [json.loads(one.body)["data"] for one in pending]


def assert_answered(ledger: Ledger, job: Command, data: str) -> None:
    assert ledger.accept(job, "main", FROM_CONTROLLER, waiting=True) is None
    assert answers(ledger) == [data]
    assert ledger.answer_again(job, "main")
    assert answers(ledger) == [data]


def test_any_command_of_an_id_that_ended_within_the_result_memory_is_answered(ledger: Ledger) -> None:
    run(ledger, A, "a")
    run(ledger, B, "b")
    assert answers(ledger) == ["a", "b"]
    assert_answered(ledger, A, "a")
    assert_answered(ledger, B, "b")
    assert not ledger.answer_again(A, "other")
    assert not ledger.answer_again(command(data="C"), "main")
    newest_in_other_order = parse_command(dict(reversed(B.received.items())))
    assert_answered(ledger, newest_in_other_order, "b")


def test_so_it_is_while_nothing_can_be_written(ledger: Ledger, tmp_path: Path) -> None:
    first, last = command(data="first"), command(data="last")
    run(ledger, first, "1")
    assert answers(ledger) == ["1"]
    ledger.database.run(lambda connection: None)  # the delivery is written
    lock = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    for job, data in ((A, "a"), (B, "b"), (last, "9")):
        run(ledger, job, data)
    assert answers(ledger) == ["a", "b", "9"]
    for job, data in ((first, "1"), (A, "a"), (B, "b"), (last, "9")):
        assert_answered(ledger, job, data)
    assert not ledger.answer_again(command(data="C"), "main")
    lock.execute("ROLLBACK")
    lock.close()
