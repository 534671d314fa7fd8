"""When a schedule is due: expressions of cron as the original controller reads them (protocol 12.5), in a time zone.

The fields are read and matched by ``cronsim``, on the time that a clock on the wall shows; what such a clock does when
daylight saving begins and ends is decided here, as Debian's cron decides it:

- A schedule for certain minutes of certain hours is for people, who think of it as "each day at half past two". It is
  due once where the hour comes twice, and at the moment of the change where it is left out.
- One whose minute or hour begins with ``*`` is due in even steps: in both of the hours that come twice, and in none
  that is left out.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, Protocol

from cronsim import CronSim

from greenagent.controller.schedules.zones import Zone
from greenagent.values.errors import GreenagentError

MAX_LENGTH: Final = 200
"""Characters of an expression."""
MAX_PERIOD: Final = 100 * 365 * 86_400
"""Seconds between two runs."""
DESCRIPTORS: Final = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
EVERY: Final = "@every "
FORMS: Final = (
    "give five fields (minute hour day-of-month month day-of-week), six (with the second in front), '@every 90s' or"
    f" {', '.join(DESCRIPTORS)}"
)
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_ANY: Final = re.compile(r"(^|,)\?")
_FROM_DAY: Final = re.compile(r"(^|,)([0-6]|SUN|MON|TUE|WED|THU|FRI|SAT)/", re.IGNORECASE)
_BEGINNING: Final = datetime(1970, 1, 1)
_DAY: Final = 86_400


class CronError(GreenagentError):
    """An expression that says no time, or none that ever comes."""


class Expression(Protocol):
    """When something is due. Moments are seconds since 1970."""

    @property
    def is_fixed(self) -> bool:
        """It names certain minutes of certain hours: what happened at one of them must not happen once more."""
        ...

    def following(self, after: float) -> float:
        """The first due moment after that one. Raises CronError where there is none any more."""
        ...


def with_seconds(text: str) -> str:
    """An expression as people write it, whose five fields begin with the minute, in the way of the originals.

    Theirs begin with the second, always, and it is the day of the week that may be left out.
    """
    return f"0 {text.strip()}" if len(text.split()) == 5 and not text.strip().startswith("@") else text.strip()


def parse_cron(text: str, zone: Zone, anchor: float) -> Expression:
    """Reads an expression as the originals do: see ``with_seconds``. Raises CronError.

    ``anchor``: a moment from which the runs of ``@every`` are counted.
    """
    text = text.strip()
    if len(text) > MAX_LENGTH:
        raise CronError(f"a cron expression has {MAX_LENGTH} characters at most")
    if text.startswith(EVERY):
        return Every(_duration(text[len(EVERY) :].strip()), anchor)
    if text.startswith("@"):
        if text not in DESCRIPTORS:
            raise CronError(f"there is no {text!r}: {FORMS}")
        text = DESCRIPTORS[text]
    fields = text.split()
    if len(fields) not in (5, 6):
        raise CronError(f"{text!r} has {len(fields)} fields: {FORMS}")
    calendar = Calendar((*fields, "*")[:6], zone)
    calendar.following(anchor)
    return calendar


def _duration(text: str) -> int:
    """The seconds of a duration as Go writes it, such as 1h30m: whole ones, at least one."""
    seconds, position = 0.0, 0
    while found := _PART.match(text, position):
        seconds += float(found[1]) * _UNITS[found[2]]
        position = found.end()
    if not position or position != len(text):
        raise CronError(f"{text!r} is no duration: give one such as 90s, 15m or 1h30m")
    if seconds > MAX_PERIOD:
        raise CronError(f"{text!r} is longer than a hundred years")
    return max(1, int(seconds))


class Every:
    """Due again and again after a number of seconds."""

    is_fixed = False

    def __init__(self, period: int, anchor: float) -> None:
        self._period = period
        self._anchor = int(anchor)

    def following(self, after: float) -> float:
        return self._anchor + ((after - self._anchor) // self._period + 1) * self._period


class Calendar:
    """Due when the clock on the wall shows what six fields name."""

    def __init__(self, fields: tuple[str, ...], zone: Zone) -> None:
        """Raises CronError."""
        *others, weekdays = (_ANY.sub(r"\1*", field) for field in fields)
        # To cronsim the last day of the week is 7, another Sunday: 1/2 would be due on Sundays, too.
        self._text = " ".join([*others, _FROM_DAY.sub(r"\g<1>\g<2>-6/", weekdays)])
        self.is_fixed = not others[1].startswith("*") and not others[2].startswith("*")
        self._zone = zone
        self._matches(0)

    def following(self, after: float) -> float:
        return self._fixed(after) if self.is_fixed else self._in_steps(after)

    def _fixed(self, after: float) -> float:
        matches = self._matches(after + self._zone.offset(after))
        while (found := self._moment(_next(matches))) <= after:
            pass  # the hour comes twice, and this was its first time
        return found

    def _in_steps(self, after: float) -> float:
        offset, since = self._zone.offset(after), after
        shown = after + offset
        while True:
            found = _next(self._matches(shown)) - offset
            if self._zone.offset(found) == offset:
                return found
            since = self._change(since, found)
            offset = self._zone.offset(since)
            shown = since + offset - 1

    def _moment(self, shown: float) -> float:
        """When the clock shows that: the first time, or where it is left out, the moment of the change."""
        offsets = sorted({self._zone.offset(shown - _DAY), self._zone.offset(shown + _DAY)})
        moments = [shown - offset for offset in reversed(offsets)]
        found = (moment for moment in moments if moment + self._zone.offset(moment) == shown)
        first = next(found, None)
        return self._change(moments[0], moments[-1]) if first is None else first

    def _change(self, since: float, until: float) -> float:
        """The first second of another offset than that of ``since``."""
        offset = self._zone.offset(since)
        seconds = range(int(since), int(until) + 1)
        return float(seconds[bisect_left(seconds, True, key=lambda at: self._zone.offset(at) != offset)])

    def _matches(self, shown: float) -> CronSim:
        """What a clock shows at the due moments after it shows ``shown``, in seconds since 1970 of such a clock."""
        try:
            return CronSim(self._text, _BEGINNING + timedelta(seconds=int(shown)))
        except Exception as error:  # beside its own, cronsim lets an AssertionError out of fields such as MON#1/2
            reason = str(error) or "it mixes what does not go together"
            raise CronError(f"{self._text!r} is no cron expression: {reason}; {FORMS}") from error


def _next(matches: CronSim) -> float:
    found = next(matches, None)
    if found is None:
        raise CronError("this cron expression names a time that never comes")
    return (found - _BEGINNING).total_seconds()


@lru_cache(maxsize=10_000)
def cached_cron(text: str, zone: str, anchor: float) -> Expression:
    """``parse_cron``, for who asks again and again. Raises CronError and ZoneError."""
    return parse_cron(text, Zone(zone), anchor)
