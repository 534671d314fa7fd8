"""What is freed goes back to the system."""

from __future__ import annotations

import ctypes
from typing import Final

_M_MMAP_THRESHOLD: Final = -3
_LARGE: Final = 1 << 20


def return_large_blocks() -> None:
    """Gives blocks of a mebibyte and more a mapping of their own, for good.

    glibc raises that limit with the first large block that is freed: from then on a result of 16 MiB, which
    is there in several forms at once, leaves holes in the heap that stay with the process.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none, and needs none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
