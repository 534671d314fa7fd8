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
    """What became of an id: the command's JSON text, its controller, and the rows of its results."""

    command: str
    controller: str | None
    state: str
    results: tuple[int, ...]


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
