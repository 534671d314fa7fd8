"""A wall clock that nobody can set: for ages that must not jump with the machine's clock."""

from __future__ import annotations

import time

_base = time.time() - time.monotonic()


def monotonic_epoch() -> float:
    """Seconds since 1970: the wall clock at the start of this process plus the monotonic time since.

    An image that replaces the agent in place goes on with it.

    Setting the wall clock changes nothing here: a record kept for an hour is kept for an hour. Use
    ``time.time()`` for stamps that people or controllers read.
    """
    return _base + time.monotonic()


def clock_base() -> float:
    """What ``keep_base`` makes an image of the agent that replaces this one go on with."""
    return _base


def keep_base(base: float) -> None:
    """Goes on with the clock of the process's earlier image, whatever was made of the wall clock since."""
    global _base
    _base = base
