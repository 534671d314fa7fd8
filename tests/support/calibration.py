"""How slow this machine is just now: a promise in seconds holds for an ordinary one, and machines differ."""

from __future__ import annotations

import statistics
import time

STEPS = 200_000
STEPS_SECONDS = 0.008
"""What so many turns of an empty loop take an ordinary machine of 2024."""
BYTES = 32 * 1024 * 1024
BYTES_SECONDS = 0.008
"""What the first touch of so many bytes takes it."""
ROUNDS = 7


def takes_at_most(seconds: float, limit: float) -> bool:
    """Whether what took so long keeps a limit that holds for an ordinary machine; the machine is measured in doubt."""
    return seconds < limit or seconds < limit * slowness()


def slowness() -> float:
    """How many times slower than an ordinary machine this one is, at least 1: by its processor or by its memory.

    By processor time of this process: others on the same core do not count, a busy neighbour of a virtual machine does.
    """
    steps = [_seconds_for_steps() / STEPS_SECONDS for _ in range(ROUNDS)]
    touches = [_seconds_for_bytes() / BYTES_SECONDS for _ in range(ROUNDS)]
    return max(1.0, statistics.median(steps), statistics.median(touches))


def _seconds_for_steps() -> float:
    began = time.process_time()
    for _ in range(STEPS):
        pass
    return time.process_time() - began


def _seconds_for_bytes() -> float:
    began = time.process_time()
    bytearray(BYTES)
    return time.process_time() - began
