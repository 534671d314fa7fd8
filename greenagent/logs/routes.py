"""Where the messages of one job go, level by level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from greenagent.values.levels import LevelSet

_CACHED: Final = 256
"""A job may print any number as a level; only so many answers are remembered."""


class Route(NamedTuple):
    """What happens to one level of one job.

    ``process`` false: the message is dropped and gets no id. ``keep``: it belongs in table ``logs``.
    ``marks``: the bits of the upload pairs that want it. ``console``: it is shown on stdout.
    """

    process: bool
    keep: bool
    marks: int
    console: bool


DROPPED: Final = Route(False, False, 0, False)


class Routes:
    """The decisions for one job; immutable, replaced as a whole when settings change.

    Level sets are None where every level is meant. ``log_flush`` (seconds, 0 = as configured):
    batches that hold this job's lines go out within so long.
    """

    def __init__(
        self,
        *,
        loglevels: LevelSet | None = None,
        keep: bool = True,
        database: LevelSet | None = None,
        pairs: Sequence[tuple[int, LevelSet | None]] = (),
        consoles: Sequence[LevelSet | None] = (),
        log_flush: float = 0.0,
    ) -> None:
        """``pairs``: the bit of each AC logger and controller, with the levels it wants of this job."""
        self._loglevels = loglevels
        self._keep = keep
        self._database = database
        self._pairs = tuple(pairs)
        self._consoles = tuple(consoles)
        self.log_flush = log_flush
        self._cache: dict[int, Route] = {}

    def for_level(self, level: int) -> Route:
        """The route of messages of this level."""
        route = self._cache.get(level)
        if route is None:
            route = self._decide(level)
            if len(self._cache) < _CACHED:
                self._cache[level] = route
        return route

    def _decide(self, level: int) -> Route:
        if not _wants(self._loglevels, level):
            return DROPPED
        marks = 0
        for bit, wanted in self._pairs:
            if _wants(wanted, level):
                marks |= bit
        return Route(
            True,
            self._keep and _wants(self._database, level),
            marks,
            any(_wants(wanted, level) for wanted in self._consoles),
        )


def _wants(wanted: LevelSet | None, level: int) -> bool:
    return wanted is None or level in wanted
