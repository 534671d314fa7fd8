"""Descriptors as the system has them, beside gevent and libev.

Both put work off until the hub's next turn; where a number is used again, or copied into a child, that is too late.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

import gevent
from gevent import monkey

close_descriptor: Callable[[int], None] = monkey.get_original("os", "close")
"""``os.close`` as the system has it.

gevent 25.8.1 and later closes later instead, and a pipe opened under a number just closed then
never becomes readable for ``wait_read``: the job would hang (design, section 3).
"""

_epoll_ctl = getattr(ctypes.PyDLL(None), "epoll_ctl", None)
"""Keeps the interpreter: it never waits, and is called for each pipe."""
_EPOLL_CTL_DEL = 2


def forget_descriptor(descriptor: int) -> None:
    """Takes a descriptor out of what the hub waits for, before it is closed. Harmless where it is not there.

    libev leaves that to the close. But a child that is just being started holds copies until its program runs: the
    kernel goes on telling of the descriptor, and libev takes that for a sign to register all that it has anew.
    """
    waits_for = gevent.get_hub().loop.fileno()
    if _epoll_ctl is not None and waits_for is not None:
        _epoll_ctl(waits_for, _EPOLL_CTL_DEL, descriptor, None)


def write_all(descriptor: int, data: bytes) -> None:
    """Writes everything, blocking; for native threads."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
