"""The statistics of all jobs of one domain and name, as one series (protocol 8.3, design, section 5 "Statistics")."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from greenagent.statistics.meter import ProcessUsage, add_up
from greenagent.statistics.metrics import KINDS, Aggregate, Gauge, Refused
from greenagent.statistics.statsd import Metric, parse, shorten

MAX_KEYS: Final = 10_000
"""Keys of one series; lines with further ones are refused."""

LINES: Final = "lines"
"""Messages the jobs printed in the interval."""
LINE_RATE: Final = "lines_per_second"
_SHORTEST: Final = 0.1
"""Seconds a rate is of at least: a single line of a shorter time would read as thousands."""


class ShownMetric(NamedTuple):
    """One key of a series as a scrape sees it; ``kind`` as in ``metrics``, or ``usage`` or ``lines``."""

    key: str
    kind: str
    value: float


class Series:
    """Takes what its jobs send and measure; gives one list of points at the end of an interval."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` gives seconds that nobody can set."""
        self._clock = clock
        self._aggregates: dict[str, Aggregate] = {}
        self._usages: dict[object, ProcessUsage] = {}
        self._ended: ProcessUsage | None = None
        self._lines: int | None = None
        self._lines_flushed = 0
        self._lines_since = clock()
        self._is_first = True

    def gauges(self) -> dict[str, float]:
        """The values that outlive a flush, for another image of the agent to begin with."""
        return {
            key: value
            for key, aggregate in self._aggregates.items()
            if isinstance(aggregate, Gauge)
            for value in aggregate.shown().values()
        }

    def preset(self, gauges: Mapping[str, float]) -> None:
        """Begins with gauges as they stood."""
        for key, value in gauges.items():
            self._aggregates[key] = Gauge(value)

    def feed(self, metric: Metric) -> None:
        """Takes one metric or raises Refused with the reason; the other keys are untouched."""
        aggregate = self._aggregates.get(metric.key)
        if aggregate is None:
            if len(self._aggregates) >= MAX_KEYS:
                raise Refused(f"the series holds {MAX_KEYS} keys already")
            aggregate = KINDS[metric.type]()
            aggregate.feed(metric.value, metric.rate)
            self._aggregates[metric.key] = aggregate
            return
        if aggregate.type != metric.type:
            raise Refused(f"the key is of type {aggregate.type}, not {metric.type}")
        aggregate.feed(metric.value, metric.rate)

    def take_usage(self, job: object, usage: ProcessUsage) -> None:
        """Keeps the newest reading of a running job."""
        self._usages[job] = usage

    def end_job(self, job: object) -> None:
        """The last reading of a job that is over still counts in the current interval."""
        usage = self._usages.pop(job, None)
        if usage is not None:
            ended = usage if self._ended is None else add_up([self._ended, usage])
            self._ended = ended._replace(pids=())

    def count_lines(self, count: int) -> None:
        """The jobs printed ``count`` more messages. From the first call on, also with 0, every flush has the lines."""
        self._lines = (self._lines or 0) + count

    def flush(self, pause: Callable[[], None], seconds: float = 0) -> dict[str, float]:
        """The values of the interval that ends now by key; and the next one begins.

        ``seconds``: how long it should be. A flush may come late, so rates are of the time that passed; only in the
        first interval, within which the series began, they are of all of it.

        ``pause`` is called between keys: it may give way to others, since thousands of timers
        take long to sort. What is fed meanwhile counts in one interval or the other. A key that the
        jobs send themselves goes before one of ours.
        """
        points: dict[str, float] = {}
        readings = [*self._usages.values(), *([self._ended] if self._ended is not None else [])]
        self._ended = None
        for key, aggregate in list(self._aggregates.items()):
            for suffix, value in aggregate.flush().items():
                if not suffix or key + suffix not in self._aggregates:
                    points[key + suffix] = value
            pause()
        for key, value in add_up(readings).items() if readings else ():
            points.setdefault(key, float(value))
        now = self._clock()
        passed = max(now - self._lines_since, seconds if self._is_first else 0)
        self._lines_since, self._is_first = now, False
        if self._lines is not None:
            count = self._lines - self._lines_flushed
            self._lines_flushed = self._lines
            points.setdefault(LINES, float(count))
            points.setdefault(LINE_RATE, round(count / max(passed, _SHORTEST), 3))
        return points

    def shown(self) -> list[ShownMetric]:
        """The present state for a scrape; counters and timers as totals since the series began."""
        found = [
            ShownMetric(key, kind, value)
            for key, aggregate in self._aggregates.items()
            for kind, value in aggregate.shown().items()
        ]
        if self._usages:
            usage = add_up(self._usages.values())
            found.extend(ShownMetric(name, "usage", float(value)) for name, value in usage.items())
        if self._lines is not None:
            found.append(ShownMetric(LINES, "lines", float(self._lines)))
        return found


def feed_text(series: Series, text: str) -> tuple[int, list[str]]:
    """Feeds every line of a text; returns how many counted, and why the others did not."""
    parsed = parse(text)
    refused = parsed.refused
    taken = 0
    for metric in parsed.metrics:
        try:
            series.feed(metric)
            taken += 1
        except Refused as reason:
            refused.append(f"key {shorten(metric.key)!r}: {reason}")
    return taken, refused
