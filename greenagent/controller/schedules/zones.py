"""Time zones: what the clock on the wall shows, as a number of seconds beside that of UTC."""

from __future__ import annotations

import time
from datetime import datetime
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from greenagent.values.errors import GreenagentError

MAX_NAME: Final = 100
"""Characters of the name of a zone."""


class ZoneError(GreenagentError):
    """A time zone that this machine does not know."""


class Zone:
    """A time zone by its name, such as Europe/Berlin; "" is that of this machine."""

    def __init__(self, name: str) -> None:
        """Raises ZoneError."""
        self._info = _known(name) if name else None

    def offset(self, moment: float) -> int:
        """Seconds that the clock on the wall is ahead of UTC at a moment, in seconds since 1970."""
        if self._info is None:
            return time.localtime(moment).tm_gmtoff
        offset = datetime.fromtimestamp(moment, self._info).utcoffset()
        return int(offset.total_seconds()) if offset is not None else 0


@lru_cache(maxsize=100)
def _known(name: str) -> ZoneInfo:
    try:
        if len(name) <= MAX_NAME:
            return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        pass  # what is no name at all, and folders of the zones' files, are none of them either
    raise ZoneError(
        f"this machine knows no time zone {name[:MAX_NAME]!r}: give one such as Europe/Berlin (if it knows none, it"
        " lacks the package tzdata)"
    )
