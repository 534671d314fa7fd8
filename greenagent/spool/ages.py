"""How old what the ledger remembers is, whatever the machine's clock said while no agent lived."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from greenagent.runtime.clock import monotonic_epoch
from greenagent.spool.schema import RESULT_WAITS


class Ages:
    """Counts only the time an agent lived through.

    How long none lived nobody can tell at the start: the clock may be years ahead, as that of a machine whose battery
    is empty, and what was to be remembered for a day would be gone at once, and a command delivered again run again.
    """

    def __init__(self, clock: Callable[[], float] = monotonic_epoch) -> None:
        """``clock``: seconds since 1970 by a clock that nobody can set."""
        self._clock = clock
        self._started = self._newest = clock()

    def load(self, connection: sqlite3.Connection) -> None:
        """The agent starts with what earlier ones have written down."""
        self._started = self._clock()
        _leave_future(connection, self._started)
        self._newest = min(self._started, _newest_stamp(connection, self._started))

    def before(self, memory: float) -> float:
        """What carries a smaller stamp was written more than ``memory`` seconds of an agent's life ago."""
        lived = self._clock() - self._started
        # By the time the agent has lived that long itself, everything from before it is older than that.
        return (self._started if lived >= memory else self._newest) + lived - memory


def _leave_future(connection: sqlite3.Connection, now: float) -> None:
    """Stamps of a clock that was ahead become ``now``: what they belong to would be remembered for years."""
    for statement in (
        "UPDATE job SET ended = ?1 WHERE ended > ?1",
        f"UPDATE outcome SET created = ?1 WHERE {RESULT_WAITS} AND created > ?1",
        "UPDATE outcome SET delivered = ?1 WHERE job = 0 AND delivered > ?1",
        "UPDATE outcome SET refused = ?1 WHERE job = 0 AND refused > ?1",
    ):
        connection.execute(statement, (now,))


def _newest_stamp(connection: sqlite3.Connection, default: float) -> float:
    """When the ledger was last written, as far as its stamps tell."""
    (newest,) = connection.execute(
        "SELECT max(stamp) FROM (SELECT max(ended) AS stamp FROM job UNION ALL "
        "SELECT max(max(created, coalesce(delivered, 0), coalesce(refused, 0))) FROM outcome)"
    ).fetchone()
    return default if newest is None else float(newest)
