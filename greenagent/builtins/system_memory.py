"""``get_mem_info`` (protocol 9), in bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def memory_info(proc: Path = Path("/proc")) -> dict[str, Any]:
    """The machine's memory. ``used`` is all that is not free; ``used_percent`` leaves out what is available.

    ``available`` is the kernel's own estimate, or free, buffers and cached where it has none (before
    Linux 3.14). Raises OSError without /proc/meminfo.
    """
    fields: dict[str, int] = {}
    for line in (proc / "meminfo").read_text("ascii", "replace").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            fields[name] = int(words[0]) * 1024
    total = fields.get("MemTotal", 0)
    free = fields.get("MemFree", 0)
    buffers = fields.get("Buffers", 0)
    cached = fields.get("Cached", 0)
    available = fields.get("MemAvailable", free + buffers + cached)
    return {
        "total": total,
        "available": available,
        "used": total - free,
        "used_percent": round(100 * (total - available) / total, 2) if total else 0.0,
        "free": free,
        "active": fields.get("Active", 0),
        "inactive": fields.get("Inactive", 0),
        "buffers": buffers,
        "cached": cached,
        "wired": 0,
        "shared": fields.get("Shmem", 0),
    }
