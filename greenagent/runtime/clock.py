"""A wall clock that nobody can set: for ages that must not jump with the machine's clock (issue: clocks)."""

from __future__ import annotations

import time

_BASE = time.time() - time.monotonic()


def steady_time() -> float:
    """Seconds since 1970 as the wall clock told at the start of this process, and the time that has passed since.

    Setting the wall clock changes nothing here, so what is kept for an hour is kept for an hour. For
    stamps that people or controllers read take ``time.time()``.
    """
    return _BASE + time.monotonic()
