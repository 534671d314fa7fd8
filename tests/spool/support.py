"""Commands and results for the tests of the spool, and a file that takes nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent

from greenagent.spool.schema import FROM_CONTROLLER, NewJob
from greenagent.spool.spool import Spool
from greenagent.values import states
from greenagent.values.command import Command, parse_command
from greenagent.values.result import Result
from tests.support.waiting import wait_until


def command(job_id: str = "a", **more: object) -> Command:
    return parse_command({"id": job_id, "cmd": "execute", "args": {"name": "true"}, **more})


def result(job_id: str = "a", data: str = "", **more: Any) -> Result:
    return Result(id=job_id, gid=1, nid=2, cmd="execute", state=states.SUCCESS, data=data, **more)


def accept(spool: Spool, job: Command, waiting: bool = False) -> int:
    [row] = spool.accept([NewJob(job, "main", FROM_CONTROLLER, waiting=waiting)])
    assert row is not None
    return row


def run_job(spool: Spool, job_id: str, data: str = "") -> None:
    """A job that begins and ends."""
    spool.report(accept(spool, command(job_id)), "main", result(job_id, data), ends=True)


def rows(spool: Spool, statement: str) -> list[tuple[Any, ...]]:
    """What the file holds."""
    connection = sqlite3.connect(spool.path)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


@contextmanager
def locked(spool: Spool) -> Iterator[None]:
    """Another program holds the file; afterwards all that lay in memory is written."""
    connection = sqlite3.connect(spool.path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("ROLLBACK")
        write_back(spool)
    finally:
        connection.close()


def write_back(spool: Spool) -> None:
    """Returns once the file has all that lay in memory."""
    spool.database.retry = 0.01
    spool.database._next_try = 0.0
    upkeep = gevent.spawn(spool.keep_up, lambda: ["main", "other"], 0.01)
    wait_until(lambda: spool.is_writable, what="the ledger's health")
    spool.write_back()  # the thread tells the hub after that: with the next answer it has been said
    upkeep.kill()


def fill_disk(spool: Spool, full: bool) -> None:
    """sqlite's own limit: a database that may not grow says "full", as a full disk does."""
    spool.database.run(lambda connection: None)  # nothing is under way
    database, pages = spool.database, 1 if full else 1_000_000  # sqlite raises 1 to the present size
    assert database._overlay is not None
    for connection, name in ((database._connection, "main"), (database._overlay.connection, "file")):
        assert connection is not None
        connection.execute(f"PRAGMA {name}.max_page_count = {pages}").fetchall()
