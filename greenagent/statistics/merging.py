"""Points of equal key and stamp that were flushed one after the other, as one (design, section 5)."""

from __future__ import annotations

import math

from greenagent.statistics import metrics
from greenagent.statistics.series import FlushedPoint


def merge(old: list[FlushedPoint], new: list[FlushedPoint]) -> list[FlushedPoint]:
    """Two lists of points of equal key and stamp as one: ``new`` came later.

    Sums add up and means are weighed by their counts. The size of a united set is at least the
    larger one's, which is what is sent; median and p95 are those that came last.
    """
    earlier = {point.key: point for point in old}
    later = {point.key: point for point in new}
    united = dict(earlier)
    for key, point in later.items():
        before = earlier.get(key)
        if before is None or before.merge != point.merge:
            united[key] = point
        else:
            united[key] = point._replace(value=_unite(before, point, earlier, later))
    return list(united.values())


def _unite(
    before: FlushedPoint, point: FlushedPoint, earlier: dict[str, FlushedPoint], later: dict[str, FlushedPoint]
) -> float:
    if point.merge == metrics.SUM:
        total = before.value + point.value
        return total if math.isfinite(total) else point.value
    if point.merge == metrics.MIN:
        return min(before.value, point.value)
    if point.merge == metrics.MAX:
        return max(before.value, point.value)
    if point.merge == metrics.MEAN:
        first = earlier.get(point.key + ".count")
        second = later.get(point.key + ".count")
        if first is not None and second is not None and first.value + second.value > 0:
            share = first.value / (first.value + second.value)
            return before.value * share + point.value * (1 - share)
    return point.value
