"""Standard streams that were closed when the program was started (``<&-``, ``>&-``, ``2>&-``)."""

from __future__ import annotations

import os
import sys


def open_missing_streams() -> None:
    """Gives the descriptors 0, 1 and 2 that are closed to /dev/null. For entry points, before they open anything.

    Else the next file that is opened would get such a number, and what is written to stderr would
    go into it. ``sys.stderr`` then takes what nobody reads. ``sys.stdin`` and ``sys.stdout`` stay
    None: who needs them must say that they are missing.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free, this one
    if sys.stderr is None:
        # Not left out: what is printed to a file None goes to stdout.
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
