"""A wall clock that nobody can set: for ages that must not jump with the machine's clock."""

from __future__ import annotations

import time

_BASE = time.time() - time.monotonic()


def monotonic_epoch() -> float:
    """Seconds since 1970: the wall clock at the start of this process plus the monotonic time since.

    Setting the wall clock changes nothing here: a record kept for an hour is kept for an hour. Use
    ``time.time()`` for stamps that people or controllers read.
    """
    return _BASE + time.monotonic()
