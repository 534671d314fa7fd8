"""The ledger's transactions of more than one statement, run in its native thread."""

from __future__ import annotations

import json
import sqlite3

from greenagent.ledger import statements
from greenagent.ledger.records import StoredAnswer, Unwritten
from greenagent.runtime.clock import steady_time
from greenagent.values.command import Command, same_json


def store(connection: sqlite3.Connection, unwritten: Unwritten) -> int:
    """Puts a result into the outbox; returns its row."""
    now = steady_time()
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
    stored = _answer_to(connection, command, controller, since)
    if stored is None:
        return False
    statements.send_again(connection, stored.results, steady_time())
    return True


def results_again(
    connection: sqlite3.Connection, command: Command, controller: str, since: float
) -> list[tuple[int, bool, Unwritten]] | None:
    """As ``send_again`` where nothing can be written; None for another command.

    Each result with its row, and whether the file has it pending.
    """
    stored = _answer_to(connection, command, controller, since)
    if stored is None:
        return None
    found = []
    for row in stored.results:
        for job, state, body, is_pending in connection.execute(
            "SELECT job, state, body, coalesce(delivered, refused) IS NULL FROM outcome WHERE row = ?", (row,)
        ):
            found.append((row, bool(is_pending), Unwritten(job, controller, command.id, state, body, ends=False)))
    return found


def _answer_to(
    connection: sqlite3.Connection, command: Command, controller: str | None, since: float
) -> StoredAnswer | None:
    """What became of this very command of this controller; None for any other of its id."""
    stored = statements.answer(connection, command.id, since)
    if stored is None or stored.controller != controller:
        return None
    return stored if same_json(json.loads(stored.command), command.received) else None
