"""The ledger's transactions of more than one statement, run in its native thread."""

from __future__ import annotations

import json
import sqlite3

from greenagent.runtime.clock import monotonic_epoch
from greenagent.spool import statements
from greenagent.spool.records import Unwritten
from greenagent.values.command import Command, same_json


def command_text(command: Command) -> str:
    """A command as the ledger keeps it."""
    return json.dumps(command.received, ensure_ascii=False, separators=(",", ":"))


def store(connection: sqlite3.Connection, unwritten: Unwritten) -> int:
    """Puts a result into the outbox; returns its row."""
    now = monotonic_epoch()
    row = statements.report(
        connection,
        unwritten.job,
        unwritten.id,
        unwritten.controller,
        unwritten.state,
        unwritten.body,
        now,
    )
    if unwritten.settled:
        statements.delivered(connection, [row], unwritten.settled)
    if unwritten.job > 0:
        statements.forget_earlier(connection, unwritten.job, row)
    if unwritten.ends:
        statements.end(connection, unwritten.job, now)
    return row


def send_again(connection: sqlite3.Connection, command: Command, controller: str | None, since: float) -> bool:
    """Whether this is the command of an ended job, delivered once more: its results are sent again."""
    rows = _results_of(connection, command, controller, since)
    if rows is None:
        return False
    statements.send_again(connection, rows, monotonic_epoch())
    return True


def results_again(
    connection: sqlite3.Connection, command: Command, controller: str, since: float
) -> list[tuple[int, bool, Unwritten]] | None:
    """As ``send_again`` where nothing can be written; None for another command.

    Each result with its row, and whether the file has it pending.
    """
    rows = _results_of(connection, command, controller, since)
    if rows is None:
        return None
    found = []
    for row in rows:
        for job, state, body, is_pending in connection.execute(
            "SELECT job, state, body, coalesce(delivered, refused) IS NULL FROM outcome WHERE row = ?", (row,)
        ):
            found.append((row, bool(is_pending), Unwritten(job, controller, command.id, state, body, ends=False)))
    return found


def _results_of(
    connection: sqlite3.Connection, command: Command, controller: str | None, since: float
) -> list[int] | None:
    """The rows of the results of this very command of this controller; None for any other, also of its id."""
    newest = statements.answer(connection, command.id, controller, since)
    if newest is None:
        return None
    if same_json(json.loads(newest.command), command.received):
        return statements.results(connection, newest.job)
    # Of older ones the text must be the same: to parse all that an id has had would hold up every other job.
    job = statements.answer_to(connection, command_text(command), command.id, controller, since)
    return None if job is None else statements.results(connection, job)
