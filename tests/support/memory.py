"""How much memory the test's own process has."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def held_by(value: Any) -> int:
    """Bytes of everything that can be reached from a value."""
    seen: set[int] = set()
    waiting = [value]
    total = 0
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type):
            continue
        seen.add(id(one))
        total += sys.getsizeof(one)
        if isinstance(one, dict):
            waiting.extend([*one.keys(), *one.values()])
        elif isinstance(one, (str, bytes, int, float)):
            continue
        elif hasattr(one, "__dict__") and type(one).__module__.startswith("greenagent"):
            waiting.extend(vars(one).values())
        elif (
            hasattr(type(one), "__slots__")
            and type(one).__module__.startswith("greenagent")
            and not isinstance(one, tuple)
        ):
            waiting.extend(getattr(one, name) for name in type(one).__slots__)
        elif hasattr(one, "__iter__"):
            waiting.extend(one)
    return total
