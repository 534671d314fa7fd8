"""What the spool hands out: jobs as it knows them, what waits for controllers, dead letters."""

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

STATISTICS: Final = "stats"
"""The path of statistics in the outbox."""


class JobRecord(NamedTuple):
    """One job as the spool knows it (columns of table ``job``, see schema)."""

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


class DeadLetter(NamedTuple):
    """What a controller refused for good (a row of table ``aside``, see schema)."""

    row: int
    controller: str
    path: str
    body: str
    status: int
    answer: str
    stamp: float
    due: int


class Waiting(NamedTuple):
    """What one controller does not have yet."""

    results: int = 0
    statistics: int = 0
    """Objects."""
    statistics_bytes: int = 0
