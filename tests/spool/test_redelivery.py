"""A command delivered once more when others of its id have run since: it is answered, not run.

See design, section 5 "Commands and admission".
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from greenagent.spool.schema import FROM_CONTROLLER, NewJob
from greenagent.spool.spool import Spool
from greenagent.values.command import Command, parse_command
from tests.spool.support import accept, command, result

A, B = command(data="A"), command(data="B")


def run(spool: Spool, job: Command, data: str) -> None:
    spool.report(accept(spool, job), "main", result(data=data), ends=True)


def answers(spool: Spool) -> list[str]:
    """What is pending, taken as delivered."""
    pending = spool.pending("main", 10)
    spool.delivered("main", [one.row for one in pending])
    return [json.loads(one.body)["data"] for one in pending]


def assert_answered(spool: Spool, job: Command, data: str) -> None:
    assert spool.accept([NewJob(job, "main", FROM_CONTROLLER, waiting=True)]) == [None]
    assert answers(spool) == [data]
    assert spool.answer_again(job, "main")
    assert answers(spool) == [data]


def test_any_command_of_an_id_that_ended_within_the_result_memory_is_answered(spool: Spool) -> None:
    run(spool, A, "a")
    run(spool, B, "b")
    assert answers(spool) == ["a", "b"]
    assert_answered(spool, A, "a")
    assert_answered(spool, B, "b")
    assert not spool.answer_again(A, "other")
    assert not spool.answer_again(command(data="C"), "main")
    newest_in_other_order = parse_command(dict(reversed(B.received.items())))
    assert_answered(spool, newest_in_other_order, "b")


def test_so_it_is_while_nothing_can_be_written(spool: Spool, tmp_path: Path) -> None:
    first, last = command(data="first"), command(data="last")
    run(spool, first, "1")
    assert answers(spool) == ["1"]
    spool.database.run(lambda connection: None)  # the delivery is written
    lock = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    for job, data in ((A, "a"), (B, "b"), (last, "9")):
        run(spool, job, data)
    assert answers(spool) == ["a", "b", "9"]
    for job, data in ((first, "1"), (A, "a"), (B, "b"), (last, "9")):
        assert_answered(spool, job, data)
    assert not spool.answer_again(command(data="C"), "main")
    lock.execute("ROLLBACK")
    lock.close()
