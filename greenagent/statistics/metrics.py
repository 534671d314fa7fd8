"""What becomes of the values of one key within an interval (protocol 8.2).

Each kind takes values (``feed``); gives its points at the end of an interval and starts the next one
(``flush``: values by what follows the key, such as ``.count``); and tells its present state to a scrape
(``shown``: values by kind, which is counter, gauge, set, timer_count or timer_sum; totals never fall).
Nothing here ever becomes infinite: a value that would is refused, since JSON knows no infinity and the
whole batch would be lost (protocol 13.3, item 27).
"""

from __future__ import annotations

import hashlib
import math
import random
from array import array
from typing import Final

from greenagent.statistics import statsd

MAX_SAMPLES: Final = 2000
"""Samples kept of a timer in one interval; past them median and p95 come from a random selection."""

MAX_MEMBERS: Final = 100_000
"""Members of one set in one interval."""

_LONG_MEMBER = 32


class Refused(Exception):
    """A value that cannot be taken; the text is the reason."""


class Counter:
    """Adds up; a sample rate scales a value up."""

    type = statsd.COUNTER

    def __init__(self) -> None:
        self._sum = 0.0
        self._total = 0.0

    def feed(self, value: float | str, rate: float) -> None:
        step = float(value) / rate
        if not (math.isfinite(self._sum + step) and math.isfinite(self._total + step)):
            raise Refused("the sum would be too large for a number")
        self._sum += step
        self._total += step

    def flush(self) -> dict[str, float]:
        value, self._sum = self._sum, 0.0
        return {"": value}

    def shown(self) -> dict[str, float]:
        return {"counter": self._total}


class Gauge:
    """Keeps its value; a signed value changes it, starting from 0."""

    type = statsd.GAUGE

    def __init__(self, value: float = 0.0) -> None:
        self._value = value

    def feed(self, value: float | str, rate: float) -> None:
        if isinstance(value, str):
            changed = self._value + float(value)
            if not math.isfinite(changed):
                raise Refused("the gauge would be too large for a number")
            self._value = changed
        else:
            self._value = value

    def flush(self) -> dict[str, float]:
        return {"": self._value}

    def shown(self) -> dict[str, float]:
        return {"gauge": self._value}


class KeyValue:
    """The last value of the interval; 0 in an interval without one.

    A scrape sees the last value of all: between two intervals 0 would be a value that no job sent.
    """

    type = statsd.KEY_VALUE

    def __init__(self) -> None:
        self._value = 0.0
        self._last = 0.0

    def feed(self, value: float | str, rate: float) -> None:
        self._value = self._last = float(value)

    def flush(self) -> dict[str, float]:
        value, self._value = self._value, 0.0
        return {"": value}

    def shown(self) -> dict[str, float]:
        return {"gauge": self._last}


class Timer:
    """Collects samples: the mean under the key itself, the rest under ``key.count`` and so on.

    A sample rate counts in ``count`` alone: the others describe the samples that came.
    """

    type = statsd.TIMER

    def __init__(self) -> None:
        self._total_count = 0.0
        self._total_sum = 0.0
        self._begin()

    def _begin(self) -> None:
        self._samples = array("d")
        self._came = 0
        self._count = 0.0
        self._mean = 0.0
        self._min = math.inf
        self._max = -math.inf

    def feed(self, value: float | str, rate: float) -> None:
        sample = float(value)
        total = self._total_sum + sample / rate
        count = self._count + 1 / rate
        if not (math.isfinite(total) and math.isfinite(count) and math.isfinite(sample - self._mean)):
            raise Refused("the sum would be too large for a number")
        self._total_sum = total
        self._total_count += 1 / rate
        self._count = count
        self._came += 1
        self._mean += (sample - self._mean) / self._came
        self._min = min(self._min, sample)
        self._max = max(self._max, sample)
        if len(self._samples) < MAX_SAMPLES:
            self._samples.append(sample)
        else:
            place = random.randrange(self._came)
            if place < MAX_SAMPLES:
                self._samples[place] = sample

    def flush(self) -> dict[str, float]:
        if not self._came:
            return {"": 0.0, ".count": 0.0}
        ordered = sorted(self._samples)
        points = {
            "": self._mean,
            ".count": self._count,
            ".min": self._min,
            ".max": self._max,
            ".median": _median(ordered),
            ".p95": ordered[math.ceil(0.95 * len(ordered)) - 1],
        }
        self._begin()
        return points

    def shown(self) -> dict[str, float]:
        return {"timer_count": self._total_count, "timer_sum": self._total_sum}


class SetMetric:
    """Counts distinct texts."""

    type = statsd.SET

    def __init__(self) -> None:
        self._members: set[str | bytes] = set()

    def feed(self, value: float | str, rate: float) -> None:
        member: str | bytes = str(value)
        if len(member) > _LONG_MEMBER:  # so that memory is bounded whatever a job sends
            member = hashlib.blake2b(str(value).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if member not in self._members and len(self._members) >= MAX_MEMBERS:
            raise Refused(f"the set holds {MAX_MEMBERS} members already")
        self._members.add(member)

    def flush(self) -> dict[str, float]:
        value = float(len(self._members))
        self._members = set()
        return {"": value}

    def shown(self) -> dict[str, float]:
        return {"set": float(len(self._members))}


def _median(ordered: list[float]) -> float:
    """Halved before they are added: two huge samples must not become infinite."""
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return ordered[middle - 1] / 2 + ordered[middle] / 2


Aggregate = Counter | Gauge | KeyValue | Timer | SetMetric

KINDS: Final[dict[str, type[Aggregate]]] = {
    statsd.COUNTER: Counter,
    statsd.GAUGE: Gauge,
    statsd.KEY_VALUE: KeyValue,
    statsd.TIMER: Timer,
    statsd.SET: SetMetric,
}
