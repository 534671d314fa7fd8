"""``greenagent-logs --stats``: the lines in brief."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final, TextIO

from greenagent.cli.common import local_time
from greenagent.cli.lines import level_name
from greenagent.cli.logs.text import csv_writer, paint
from greenagent.logs.folder import LogFolder, Unreadable
from greenagent.logs.read.query import LogQuery
from greenagent.logs.read.totals import totals_of_minutes
from greenagent.values.levels import NAMES

MAX_ROWS: Final = 60
"""Bars of the chart."""
_STEPS: Final = (60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 604800, 2592000, 31536000)
_DURATIONS: Final = (("day", 86400), ("hour", 3600), ("minute", 60))
_MARKS: Final = dict(zip(sorted(NAMES), "*+=-oxvwzst%&@#:", strict=True))
"""Each standard level has its own: without colour nothing else tells them apart."""
_OTHER_MARKS: Final = "!?^~$acehkmnru"


def count_levels(folder: LogFolder, query: LogQuery, unreadable: Unreadable) -> dict[int, Counter[int]]:
    """Lines by minute (seconds since 1970) and level; ``unreadable``: see logs.folder."""
    counts: dict[int, Counter[int]] = defaultdict(Counter)
    for minute, level, count in totals_of_minutes(folder, query, unreadable):
        counts[minute][level] += count
    return counts


def print_stats(counts: dict[int, Counter[int]], form: str, colour: bool, out: TextIO) -> None:
    """A bar per minute, or per longer step where these would be too many, its parts by level.

    ``form`` "json": one object for each minute, "csv": one row for each minute and level.
    """
    minutes = [(minute, sorted(counts[minute].items())) for minute in sorted(counts)]
    if form == "json":
        out.writelines(json.dumps({"minute": minute, "levels": dict(levels)}) + "\n" for minute, levels in minutes)
    elif form == "csv":
        rows = [(minute, *level) for minute, levels in minutes for level in levels]
        csv_writer(out)([("minute", "level", "lines"), *rows])
    elif counts:
        out.writelines(_chart(counts, colour))


def _chart(counts: dict[int, Counter[int]], colour: bool) -> Iterator[str]:
    """The lines of the chart, then those that explain it."""
    span = max(counts) - min(counts) + 60
    step = next((step for step in _STEPS if span / step <= MAX_ROWS), _STEPS[-1])
    bars: dict[int, Counter[int]] = defaultdict(Counter)
    totals: Counter[int] = Counter()
    for minute, levels in counts.items():
        bars[minute // step * step].update(levels)
        totals.update(levels)
    most = max(bar.total() for bar in bars.values())
    digits = len(str(most))
    width = max(10, shutil.get_terminal_size().columns - digits - 20)
    for start, bar in sorted(bars.items()):
        yield f"{local_time(start)[:16]}  {bar.total():>{digits}}  {_bar(bar, width / most, colour)}\n"
    yield f"one bar: {_duration(step)}; lines by level:\n"
    for level, lines in sorted(totals.items()):
        yield f"  {_marks(level, 1, colour)} {level:>3} {level_name(level):<12} {lines}\n"


def _bar(levels: Counter[int], scale: float, colour: bool) -> str:
    """One bar; the lengths of its parts are rounded cumulatively, so that it is as long as its total says."""
    parts, done, total = [], 0, 0
    for level, count in sorted(levels.items()):
        total += count
        length = max(round(total * scale), 1) - done
        done += length
        parts.append(_marks(level, length, colour))
    return "".join(parts)


def _marks(level: int, length: int, colour: bool) -> str:
    marks = (_MARKS.get(level) or _OTHER_MARKS[level % len(_OTHER_MARKS)]) * length
    return paint(marks, level) if colour else marks


def _duration(seconds: int) -> str:
    """A step of the chart in words."""
    unit, length = next((unit, length) for unit, length in _DURATIONS if seconds >= length)
    count = seconds // length
    return f"{count} {unit}{'s' if count > 1 else ''}"
