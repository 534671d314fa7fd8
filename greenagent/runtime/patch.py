"""What an entry point does to its own process before anything else; the one place that monkey-patches."""

from __future__ import annotations

import ctypes
from typing import Final

import gevent
from gevent import events, monkey

_M_MMAP_THRESHOLD: Final = -3
_LARGE: Final = 1 << 20


def patch() -> None:
    """Makes blocking calls of the standard library cooperative.

    ``subprocess``, ``os`` and ``signal`` stay as they are: patched, they would have libev reap
    children, and the exit codes of jobs would be lost (design, section 3); and ``os.close`` would
    close later than asked.

    No plugin of gevent is asked: for each of some twenty patched modules it would search the metadata of every
    installed package, which takes a program a third of its start. Nothing but time depends on this name.
    """
    events.notify_and_call_entry_points = events.notify
    gevent.config.track_greenlet_tree = False  # who started which, with stacks: nobody asks, and each job has three
    if not monkey.is_module_patched("socket"):
        monkey.patch_all(subprocess=False, os=False, signal=False)


def return_large_blocks() -> None:
    """Gives blocks of a mebibyte and more a mapping of their own, for good.

    glibc raises that limit with the first large block that is freed: from then on a result of 16 MiB, which
    is there in several forms at once, leaves holes in the heap that stay with the process.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none, and needs none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
