"""The newest statistics of every agent, kept in memory within stated caps."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

from greenagent.controller.json_parts import json_list, json_object
from greenagent.controller.limits import Limits
from greenagent.controller.model import AgentKey
from greenagent.controller.state.log_lines import MAX_WHOLE
from greenagent.runtime.greenlets import give_way

MAX_VALUE: Final = sys.float_info.max
MAX_KEY: Final = 1000
"""Characters of a key; a longer one is left out."""
FIGURE_OVERHEAD: Final = 400
"""Bytes a kept figure costs beside its key."""
TURN: Final = 1000
"""Figures taken until others get a turn."""
SHOWN_AT_ONCE: Final = 20
"""Figures in a part of an answer: every client that asks makes one in each turn of the hub, and keeps it meanwhile."""


class Point(NamedTuple):
    """One figure of a flush object."""

    name: str
    stamp: int
    value: float


class Dropped:
    """How many figures of each agent were left out; each agent is told of once."""

    def __init__(self) -> None:
        self._counts: Counter[AgentKey] = Counter()
        self._told: set[AgentKey] = set()

    def add(self, key: AgentKey, number: int) -> None:
        self._counts[key] += number

    def forget(self, key: AgentKey) -> None:
        """It is told of again."""
        self._told.discard(key)

    def newly(self) -> dict[AgentKey, int]:
        """Of each agent that was not given before."""
        found = {key: count for key, count in self._counts.items() if key not in self._told}
        self._counts.clear()
        self._told.update(found)
        return found


class LatestMetrics:
    """The newest value of every statistics key of every agent, for ``ctl top``."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._agents: dict[AgentKey, dict[str, tuple[int, float, int]]] = {}
        """By agent and key: stamp, value, interval."""
        self._received: dict[AgentKey, float] = {}
        self._dropped = Dropped()
        self._bytes: dict[AgentKey, int] = {}
        self._all_bytes = 0
        """The sum of these: with thousands of agents it is too much to add up for every batch."""

    def take(self, key: AgentKey, points: list[Point]) -> None:
        """Takes a batch an agent posted. Other greenlets run meanwhile."""
        most = self._limits.metrics_per_agent
        for first in range(0, len(points), TURN):
            metrics = self._agents.setdefault(key, {})
            self._received[key] = time.time()
            self._bytes.setdefault(key, 0)
            for point in points[first : first + TURN]:
                name, stamp, value = point
                old = metrics.pop(name, None)
                if old is None:
                    metrics[name] = (stamp, value, 0)
                    self._count(key, _size(name))
                elif stamp < old[0]:
                    metrics[name] = old
                else:
                    metrics[name] = (stamp, value, stamp - old[0] or old[2])
            self._drop(key, len(metrics) - most)
            self._keep_to_caps()
            give_way()

    def _keep_to_caps(self) -> None:
        """The agent that has most gives way, so that no agent takes another's room."""
        while self._all_bytes > self._limits.metrics_bytes:
            largest = max(self._bytes, key=lambda one: self._bytes[one])
            self._drop(largest, len(self._agents[largest]) // 2 + 1)
        while len(self._agents) > self._limits.agents:
            oldest = min(self._received, key=lambda one: self._received[one])
            self._all_bytes -= self._bytes[oldest]
            del self._agents[oldest], self._received[oldest], self._bytes[oldest]
            self._dropped.forget(oldest)

    def _count(self, key: AgentKey, size: int) -> None:
        self._bytes[key] += size
        self._all_bytes += size

    def _drop(self, key: AgentKey, number: int) -> None:
        """Drops the figures that have not come for longest."""
        if number > 0:
            self._dropped.add(key, number)
            metrics = self._agents[key]
            self._count(key, -sum(map(_size, islice(metrics, number))))
            self._agents[key] = dict(islice(metrics.items(), number, None))  # made anew: a dict never shrinks

    def newly_dropped(self) -> dict[AgentKey, int]:
        """How many figures were dropped of each agent that was not given before."""
        return self._dropped.newly()

    def describe(self) -> Iterator[str]:
        """Parts of the JSON text of a list: by agent, each key with its stamp, value and the interval it comes in.

        Stamps are seconds since 1970. The interval is the distance to the stamp before, in seconds; null while there
        was none. Other greenlets may run between two parts.
        """
        return json_list(map(self._describe, sorted(self._agents)))

    def _describe(self, key: AgentKey) -> Iterator[str]:
        figures = self._figures(list(self._agents.get(key, {}).items()))
        return json_object({**key.to_wire(), "received": self._received.get(key, 0.0)}, figures=figures)

    def _figures(self, figures: list[tuple[str, tuple[int, float, int]]]) -> Iterator[str]:
        between = "{"
        for first in range(0, len(figures), SHOWN_AT_ONCE):
            part = {
                name: {"timestamp": stamp, "value": value, "interval": interval or None}
                for name, (stamp, value, interval) in figures[first : first + SHOWN_AT_ONCE]
            }
            yield f"{between}{json.dumps(part)[1:-1]}"
            between = ", "
        yield "}" if between == ", " else "{}"


def parse_points(received: Any) -> list[Point] | None:
    """The figures of a posted batch (protocol 8.4); None when it is not a list of flush objects.

    The earliest originals post each object as it is.
    """
    if isinstance(received, dict):
        received = [received]
    if not isinstance(received, list):
        return None
    points: list[Point] = []
    for flush in received:
        match flush:
            case {"timestamp": int() as stamp, "series": list() as series} if _is_number(stamp, MAX_WHOLE):
                for pair in series:
                    match pair:
                        case [str() as name, value] if _is_number(value, MAX_VALUE):
                            if len(name) <= MAX_KEY:
                                points.append(Point(name, stamp, float(value)))
                        case _:
                            return None
            case _:
                return None
    return points


def _size(name: str) -> int:
    return FIGURE_OVERHEAD + sys.getsizeof(name)


def _is_number(value: Any, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= most
