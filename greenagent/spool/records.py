"""What the ledger hands out: jobs as it knows them, results that wait, records set aside."""

from __future__ import annotations

from typing import Final, NamedTuple

WAITING: Final = "waiting"
"""Accepted, never started: it is run at the agent's next start."""
RUNNING: Final = "running"
"""Started at least once; sleeping between runs counts as running."""
ENDED: Final = "ended"

FROM_CONTROLLER: Final = "controller"
FROM_HISTORY: Final = "history"
FROM_STARTUP: Final = "startup"


class JobRecord(NamedTuple):
    """One job as the ledger knows it (see ledger.models.Job)."""

    row: int
    id: str
    controller: str | None
    kind: str
    command: str
    accepted: float
    state: str
    run: int
    pid: int | None
    start_ticks: int | None
    starttime: int


class StoredAnswer(NamedTuple):
    """An ended job that has its results: its row, and its command's JSON text."""

    job: int
    command: str


class AsideRecord(NamedTuple):
    """A record a controller refused for good (see ledger.models.Aside)."""

    row: int
    controller: str
    path: str
    body: str
    status: int
    answer: str
    stamp: float
    due: int


class Accepted(NamedTuple):
    """A job that was accepted while the file could not be written; ``row`` is negative."""

    row: int
    id: str
    controller: str | None
    kind: str
    command: str
    accepted: float
    state: str
    starttime: int


class Unwritten(NamedTuple):
    """A result to be stored.

    ``job`` is its job's row, ``ends`` whether it is the last, ``settled`` when it was delivered, if it was.
    """

    job: int
    controller: str
    id: str
    state: str
    body: str
    ends: bool
    settled: float = 0.0
