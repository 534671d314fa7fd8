"""The newest statistics of every agent, kept in memory within stated caps."""

from __future__ import annotations

import sys
import time
from typing import Any, Final

from greenagent.controller.limits import Limits
from greenagent.controller.model import AgentKey
from greenagent.controller.state.log_lines import MAX_WHOLE

MAX_VALUE: Final = sys.float_info.max


class LatestMetrics:
    """The newest value of every statistics key of every agent, for ``ctl top``."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._agents: dict[AgentKey, dict[str, tuple[int, float, int]]] = {}
        """By agent and key: stamp, value, interval."""
        self._received: dict[AgentKey, float] = {}

    def take(self, key: AgentKey, received: Any) -> bool:
        """Takes a batch an agent posted (protocol 8.4); False when it is not a list of flush objects."""
        if not isinstance(received, list):
            return False
        points: list[tuple[str, int, float]] = []
        for flush in received:
            match flush:
                case {"timestamp": int() as stamp, "series": list() as series} if _is_number(stamp, MAX_WHOLE):
                    for pair in series:
                        match pair:
                            case [str() as name, value] if _is_number(value, MAX_VALUE):
                                points.append((name, stamp, float(value)))
                            case _:
                                return False
                case _:
                    return False
        metrics = self._agents.setdefault(key, {})
        self._received[key] = time.time()
        for name, stamp, value in points:
            old = metrics.pop(name, None)
            if old is None:
                metrics[name] = (stamp, value, 0)
            elif stamp < old[0]:
                metrics[name] = old
            else:
                metrics[name] = (stamp, value, stamp - old[0] or old[2])
        while len(metrics) > self._limits.metrics_per_agent:
            del metrics[next(iter(metrics))]
        while len(self._agents) > self._limits.agents:
            oldest = min(self._received, key=lambda one: self._received[one])
            del self._agents[oldest], self._received[oldest]
        return True

    def describe(self) -> list[dict[str, Any]]:
        """By agent, each key with its stamp (seconds since 1970), value and the interval it comes in.

        The interval is the distance to the stamp before, in seconds; None while there was none.
        """
        return [
            {
                **key.to_wire(),
                "received": self._received[key],
                "figures": {
                    name: {"timestamp": stamp, "value": value, "interval": interval or None}
                    for name, (stamp, value, interval) in metrics.items()
                },
            }
            for key, metrics in sorted(self._agents.items())
        ]


def _is_number(value: Any, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= most
