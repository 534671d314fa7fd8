"""All series of the agent: which job feeds which, and when each is flushed (protocol 8.3 and 8.4)."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

from gevent.event import Event

from greenagent.runtime.greenlets import Heartbeat, TimeSlice
from greenagent.statistics.meter import ProcessUsage
from greenagent.statistics.own import AgentMetrics
from greenagent.statistics.series import Series, ShownMetric, feed_text
from greenagent.values.text import storable

LAYOUT_LATER: Final = "later"
"""Of keys (setting ``stats.key_layout``): with the command's name in them; any other is the seed's layout."""

OWN_DOMAIN: Final = "greenagent"
OWN_NAME: Final = "agent"
"""Domain and name of the agent's own metrics."""

MAX_ENDED: Final = 10_000
"""Series that are over and whose last interval is remembered."""

_MAX_SLEEP = 2.0
_MAX_FLUSH = 120.0
"""Seconds after which a flush counts as stuck."""
_MAX_INTERVAL = 10**9


class FlushedObject(NamedTuple):
    """The points of one series for one interval; full keys are ``prefix + key``."""

    stamp: int
    prefix: str
    points: dict[str, float]


class Sink(Protocol):
    """Where flushed objects go."""

    def add(self, objects: list[FlushedObject]) -> None:
        """Takes what was flushed together."""
        ...


class SeriesName(NamedTuple):
    """What makes jobs share a series; ``cmd`` is empty in the seed's layout. Dots are replaced already."""

    cmd: str
    domain: str
    name: str


class SeriesHandle:
    """One job's way into its series."""

    def __init__(self, entry: _Entry, interval: int, count: Callable[[str, int], None]) -> None:
        self.interval = interval
        self.refused = 0
        """Statistics lines that were refused, in all."""
        self._entry = entry
        self._count = count

    def feed(self, text: str) -> list[str]:
        """Takes the lines of one level 10 message; returns why lines were refused, for the job's log."""
        taken, refused = feed_text(self._entry.series, text)
        self._count("statsd_lines", taken)
        self._count("statsd_lines_refused", len(refused))
        self.refused += len(refused)
        return refused

    def add_output(self, lines: int, size: int) -> None:
        """``size`` bytes came out of the job's pipes and ended ``lines`` messages; zeros begin the counting."""
        self._entry.series.count_lines(lines)
        self._count("lines_read", lines)
        self._count("bytes_read", size)

    def add_usage(self, usage: ProcessUsage) -> None:
        """Takes a reading of the job's processes."""
        if self in self._entry.handles:
            self._entry.series.take_usage(self, usage)

    def end_run(self) -> None:
        """A run is over and another may follow: its last reading counts in this interval and no longer."""
        self._entry.series.end_job(self)

    def close(self) -> None:
        """The job is over: what it fed is sent at the end of the interval. Harmless when repeated."""
        if self in self._entry.handles:
            self._entry.handles.discard(self)
            self._entry.series.end_job(self)


class _Entry:
    """A series with its jobs and its current interval: fed from ``begin`` on, due at ``end``."""

    def __init__(self, name: SeriesName, interval: int, now: float, earliest: int) -> None:
        """``earliest``: stamps before it may be in use already."""
        self.name = name
        self.series = Series()
        self.flush: Callable[[Callable[[], None], float], dict[str, float]] = self.series.flush
        self.handles: set[SeriesHandle] = set()
        self.interval = interval
        self.earliest = earliest
        self.stamp = 0
        self.begin = 0.0
        self.end = 0.0
        self.align(now)

    def align(self, now: float) -> None:
        """Begins the interval that ``now`` lies in."""
        self.begin = now
        self.stamp = int(now // self.interval) * self.interval
        self.end = self.stamp + self.interval
        if self.stamp < self.earliest <= now + 1:  # later than that, the clock was set back meanwhile
            self.stamp = self.earliest
            self.end = max(self.end, self.stamp + 1)

    def shorten(self, interval: int, now: float) -> None:
        """A job with a smaller interval came: the current one ends earlier; its stamp stays."""
        if interval < self.interval:
            self.interval = interval
            self.end = min(self.end, (now // interval + 1) * interval)

    def advance(self, now: float, default: int) -> None:
        """Begins the next interval; no stamp is used twice, also when the intervals become longer."""
        self.earliest = math.ceil(self.end)
        self.interval = min((handle.interval for handle in self.handles), default=default)
        self.align(now)

    def is_due(self, now: float) -> bool:
        """True at the interval's end, and when the clock was set back before its beginning."""
        return now >= self.end or now < self.begin - 1


class Statistics:
    """Keeps the series of all jobs and of the agent itself, and flushes them into the outbox.

    An object's stamp is the beginning of the interval its values were gathered in: a multiple of the
    interval, but for the first after the agent's start, which begins there. So no two objects of one
    series share a stamp, and what was flushed need not be found again to be added up.

    ``gid`` and ``nid`` are the agent's own, whatever a command says (design, section 5 "Statistics").
    """

    def __init__(
        self,
        gid: int,
        nid: int,
        layout: str,
        default_interval: int,
        sink: Sink,
        metrics: AgentMetrics | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``default_interval`` is in seconds; ``layout`` is ``seed`` or ``later``."""
        self._gid = gid
        self._nid = nid
        self._layout = layout
        self._default_interval = max(1, default_interval)
        self._sink = sink
        self._metrics = metrics
        self._clock = clock
        self._entries: dict[SeriesName, _Entry] = {}
        self._presets: dict[SeriesName, dict[str, float]] = {}
        self._start = math.ceil(clock())
        self._used: OrderedDict[SeriesName, int] = OrderedDict()
        """The end of the last interval of series that are over."""
        self._own = _Entry(SeriesName("agent", OWN_DOMAIN, OWN_NAME), self._default_interval, clock(), self._start)
        if metrics is not None:
            self._own.flush = lambda pause, seconds: metrics.flush()
        self._changed = Event()
        self._wakes = 0.0
        """When ``run`` looks again if nothing changes, by the clock."""
        self.heartbeat = Heartbeat()

    def reconfigure(self, default_interval: int) -> None:
        """A new default interval (seconds); open handles keep theirs."""
        self._default_interval = max(1, default_interval)
        self._changed.set()

    def open(self, cmd: str, domain: str, name: str, interval: float | None = None) -> SeriesHandle:
        """A way in for one job; ``interval`` in seconds, None or anything under 1 means the default."""
        seconds = self._default_interval
        if interval is not None and interval >= 1:
            seconds = int(min(interval, _MAX_INTERVAL))
        series_name = self._series_name(cmd, domain, name)
        now = self._clock()
        entry = self._entries.get(series_name)
        if entry is None:
            entry = self._entries[series_name] = _Entry(
                series_name, seconds, now, self._used.pop(series_name, self._start)
            )
            entry.series.preset(self._presets.pop(series_name, {}))
        else:
            entry.shorten(seconds, now)
        handle = SeriesHandle(entry, seconds, self._count)
        entry.handles.add(handle)
        if entry.end < self._wakes:
            self._changed.set()
        return handle

    def gauges(self) -> list[tuple[SeriesName, dict[str, float]]]:
        """The gauges of all series, for ``preset`` in another image of the agent: deltas start from them."""
        return [(name, found) for name, entry in self._entries.items() if (found := entry.series.gauges())]

    def preset(self, gauges: Iterable[Sequence[Any]]) -> None:
        """Series that jobs open from now on begin with these gauges."""
        self._presets = {SeriesName(*name): values for name, values in gauges}

    def run(self) -> None:
        """Service greenlet: flushes each series when its interval ends. Never returns."""
        while True:
            self.heartbeat.expect_within(_MAX_SLEEP + _MAX_FLUSH, "flushing statistics")
            now = self._clock()
            next_end = min(entry.end for entry in self._all())
            pause = min(max(next_end - now, 0.001), _MAX_SLEEP)
            self._wakes = now + pause
            self._changed.wait(pause)
            self._changed.clear()
            self.flush_due()

    def flush_due(self) -> None:
        """Flushes the series whose interval is over."""
        now = self._clock()
        self._flush([entry for entry in self._all() if entry.is_due(now)])

    def flush_all(self) -> None:
        """Flushes everything now, at the agent's stop."""
        self._flush(self._all())

    def shown(self) -> Iterator[tuple[SeriesName, list[ShownMetric]]]:
        """The present state of every series, for a scrape."""
        for name, entry in list(self._entries.items()):
            yield name, entry.series.shown()

    def _all(self) -> list[_Entry]:
        return [*self._entries.values(), self._own]

    def _flush(self, entries: Iterable[_Entry]) -> None:
        objects: list[FlushedObject] = []
        pause = TimeSlice()
        for entry in entries:
            stamp, seconds = entry.stamp, entry.end - entry.stamp
            if entry.handles or entry is self._own:
                entry.advance(self._clock(), self._default_interval)
            elif self._entries.get(entry.name) is entry:
                # Taken out first: a job that comes while this gives way begins a series of its own.
                del self._entries[entry.name]
                self._used[entry.name] = math.ceil(entry.end)
                if len(self._used) > MAX_ENDED:
                    self._used.popitem(last=False)
            points = entry.flush(pause, seconds)
            if points:
                objects.append(FlushedObject(stamp, self._prefix(entry.name), points))
            pause()
        if objects:
            self._sink.add(objects)

    def _count(self, name: str, number: int) -> None:
        if self._metrics is not None:
            self._metrics.count(name, number)

    def _series_name(self, cmd: str, domain: str, name: str) -> SeriesName:
        part = SeriesName(cmd if self._layout == LAYOUT_LATER else "", domain, name)
        cleaned = SeriesName(*(_part_of_key(text) for text in part))
        if (cleaned.domain, cleaned.name) == (OWN_DOMAIN, OWN_NAME):
            return cleaned._replace(domain=OWN_DOMAIN + "_job")  # no job speaks for the agent
        return cleaned

    def _prefix(self, name: SeriesName) -> str:
        parts: list[Any] = [self._gid, self._nid]
        if self._layout == LAYOUT_LATER:
            parts.append(name.cmd)
        parts += [name.domain, name.name]
        return ".".join(map(str, parts)) + "."


def _part_of_key(text: str) -> str:
    """Dots separate the parts of a key; half a surrogate pair, which JSON allows, fits into no file."""
    return storable(text.replace(".", "_"))
