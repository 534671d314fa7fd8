"""``get_disk_info`` (protocol 9): every mounted file system."""

from __future__ import annotations

import re
from pathlib import Path

_ESCAPE = re.compile(r"\\([0-7]{3})")


def disk_info(proc: Path = Path("/proc")) -> list[dict[str, str]]:
    """All mounts of all kinds, as this process sees them. Raises OSError without /proc/self/mounts."""
    found = []
    for line in (proc / "self/mounts").read_text("utf-8", "surrogateescape").splitlines():
        fields = line.split(" ")
        if len(fields) < 4:
            continue
        device, mountpoint, fstype, opts = (_unescape(field) for field in fields[:4])
        found.append({"device": device, "mountpoint": mountpoint, "fstype": fstype, "opts": opts})
    return found


def _unescape(field: str) -> str:
    """Blanks and backslashes in names are written in octal; bytes that are no UTF-8 stay visible."""
    plain = _ESCAPE.sub(lambda match: chr(int(match.group(1), 8)), field)
    return plain.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
