"""The agent's own metrics: what it did, what it holds, how far behind the hub ever was."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import gevent

Labels = tuple[tuple[str, str], ...]
_Key = tuple[str, Labels]


class AgentMetric(NamedTuple):
    """One value for a scrape; ``kind`` is ``counter`` (a total that never falls) or ``gauge``."""

    name: str
    labels: Labels
    kind: str
    value: float


class AgentMetrics:
    """A registry of counters and gauges that the rooms fill and nobody has to read.

    Labels with few values only (a state, a controller): each combination is kept for ever.
    """

    def __init__(self) -> None:
        self._registered: dict[_Key, tuple[str, Callable[[], float | None]]] = {}
        """The kind of each metric and what tells its value."""
        self._totals: dict[_Key, float] = {}
        self._sent: dict[_Key, float] = {}

    def count(self, name: str, n: float = 1, **labels: str) -> None:
        """Adds ``n`` to a counter."""
        key = (name, _labels(labels))
        self._totals[key] = self._totals.get(key, 0) + n
        if key not in self._registered:
            self._registered[key] = ("counter", lambda: self._totals[key])

    def gauge(self, name: str, read: Callable[[], float | None], **labels: str) -> None:
        """Registers a value that ``read`` tells when asked; None means there is none just now."""
        self._registered[(name, _labels(labels))] = ("gauge", read)

    def counter(self, name: str, read: Callable[[], float], **labels: str) -> None:
        """Registers a total that somebody else counts and ``read`` tells."""
        self._registered[(name, _labels(labels))] = ("counter", read)

    def forget(self, **labels: str) -> None:
        """Removes what was registered with these labels, for instance of a controller that is no longer configured."""
        wanted = set(_labels(labels))
        for key in [key for key in self._registered if wanted.issubset(key[1])]:
            del self._registered[key]

    def total(self, name: str, **labels: str) -> float:
        """What a counter has come to."""
        return self._totals.get((name, _labels(labels)), 0)

    def shown(self) -> list[AgentMetric]:
        """Every metric as it is now."""
        found = []
        for (name, labels), (kind, read) in list(self._registered.items()):  # reading may give way to others
            value = read()
            if value is not None:
                found.append(AgentMetric(name, labels, kind, value))
        return found

    def flush(self) -> dict[str, float]:
        """The values of an interval by key: what counters rose by since the last flush, gauges as they are.

        Label values are parts of the key, dots in them replaced: ``jobs_done.SUCCESS``.
        """
        points: dict[str, float] = {}
        for name, labels, kind, value in self.shown():
            rise = value
            if kind == "counter":
                rise -= self._sent.get((name, labels), 0)
                self._sent[(name, labels)] = value
            parts = [name, *(text.replace(".", "_") for _, text in labels)]
            points[".".join(parts)] = float(rise)
        return points


class EventLoopLag:
    """How late a ticker of 100 ms was at worst: the longest time the hub was deaf."""

    def __init__(self, period: float = 0.1, window: float = 60, clock: Callable[[], float] = time.monotonic) -> None:
        self._period = period
        self._window = window
        self._clock = clock
        self._turned = clock()
        self._current = 0.0
        self._previous = 0.0
        self.worst_ever = 0.0
        """Seconds, since the agent's start."""
        self.beats = 0
        """Rises with every turn of the ticker: a watchdog sees by it that the hub lives."""

    @property
    def recent(self) -> float:
        """The worst delay in seconds of the last one to two minutes; reading it changes nothing."""
        self._turn()
        return max(self._current, self._previous)

    def run(self) -> None:
        """Service greenlet. Never returns."""
        while True:
            began = self._clock()
            gevent.sleep(self._period)
            self.beats += 1
            self.note(self._clock() - began - self._period)

    def note(self, delay: float) -> None:
        """One observed delay in seconds."""
        self._turn()
        self._current = max(self._current, delay)
        self.worst_ever = max(self.worst_ever, delay)

    def _turn(self) -> None:
        passed = self._clock() - self._turned
        if passed >= self._window:
            self._previous = self._current if passed < 2 * self._window else 0.0
            self._current = 0.0
            self._turned = self._clock()


def _labels(labels: Mapping[str, str]) -> Labels:
    return tuple(sorted((key, str(value)) for key, value in labels.items()))
