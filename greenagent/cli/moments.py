"""Moments as people give them to options, alike in all programs; and how long something took, as it is shown."""

from __future__ import annotations

import math
import re
import time
from bisect import bisect_left
from datetime import datetime, timedelta, timezone
from typing import Final

from greenagent.cli.common import UsageError, span

FORMS: Final = "15m, 1h, 2d, 1w ago, 12:30, yesterday, or an ISO time"
"""For help texts."""
_OF_A_DAY: Final = re.compile(r"(today|yesterday)?(?: *([0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?))?", re.IGNORECASE)


def moment(text: str, now: float | None = None) -> float:
    """Seconds since 1970 of an option: a span such as ``1h`` (ago), an ISO date or time, ``yesterday`` (its midnight,
    or with a time behind it), ``today``, a time of today, or such seconds.

    Local time unless the text names an offset. A span is one of seconds, not of the clock on the wall. Of a time that
    there was twice the first counts; one that a change of the clock left out is the moment of that change.
    """
    text = text.strip()
    now = time.time() if now is None else now
    try:
        if (ago := span(text)) is not None:
            return datetime.fromtimestamp(now - ago, timezone.utc).timestamp()
        if re.fullmatch(r"[0-9]{9,11}(\.[0-9]+)?", text):
            return float(text)
        if (found := _OF_A_DAY.fullmatch(text)) is not None and text:
            day = datetime.fromtimestamp(now).date() - timedelta(days=(found[1] or "").lower() == "yesterday")
            clock = found[2] or "00:00"
            text = f"{day}T{clock.zfill(5) if clock.count(':') == 1 else clock.zfill(8)}"
        # Python before 3.11 knows no Z.
        return _since_1970(datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith(("Z", "z")) else text))
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"{text!r} is no time: say 90s, 15m, 1h, 2d, 1w ago, yesterday, or 2026-01-31T12:30"
        ) from error


def _since_1970(read: datetime) -> float:
    first = read.timestamp()
    if read.tzinfo is not None or datetime.fromtimestamp(first) == read:
        return first
    # The clock went forward over it: with the offset before the change it is too late, with the one after it too early.
    early = read.replace(fold=1).timestamp()
    offset = time.localtime(early).tm_gmtoff
    changes = range(math.ceil(early), math.ceil(first) + 1)
    return float(changes[bisect_left(changes, True, key=lambda at: time.localtime(at).tm_gmtoff != offset)])


def duration(seconds: float | None) -> str:
    """How long something took: 0.3s, 2m05s, 3h10m, 2d04h; "-" where that is not known."""
    if seconds is None:
        return "-"
    seconds = max(0.0, seconds)
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for size, unit, part, part_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02}{part_unit}"
    return f"{whole // 60}m{whole % 60:02}s"
