"""Statistics as InfluxDB's line protocol, with the names and tags that the original controller gave them.

A point is written once more where no answer came: with the same name, tags and time it takes the place of the first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from greenagent.uplink.encoding import Form, Point, StatisticsEncoding, points

CONTENT_TYPE: Final = "text/plain; charset=utf-8"
_UNFIT: Final = dict.fromkeys([*range(0x20), 0x7F, ord("\\")], "_")
"""Nothing can stand for a line's end, nor for a backslash before a comma."""
_MEASUREMENT: Final = str.maketrans({**_UNFIT, ",": "\\,", " ": "\\ "})
_TAG: Final = str.maketrans({**_UNFIT, ",": "\\,", " ": "\\ ", "=": "\\="})
_NANOSECONDS: Final = 1_000_000_000


class InfluxStatistics(StatisticsEncoding):
    """One line for each value: the whole key as its name, the parts of the key as tags, and a field ``value``."""

    def __init__(self, path: str, has_command: bool) -> None:
        """``path``: of the endpoint, with its query; ``has_command``: as for ``points``."""
        self._path = path
        self._has_command = has_command

    def form(self, address: str = "") -> Form:
        return Form(self._path, b"\n".join)  # keys have gid and nid in them, also of a former address

    def encode(self, body: bytes, pause: Callable[[], None]) -> bytes:
        lines = []
        for point in points(body, self._has_command):
            lines.append(_line(point))
            pause()
        return "\n".join(lines).encode()


def _line(point: Point) -> str:
    tags = {
        "command": point.cmd,
        "domain": point.domain,
        "gid": point.gid,
        "measurement": point.key,
        "name": point.name,
        "nid": point.nid,
    }
    # Sorted, as InfluxDB wants them for speed; an empty one would be malformed.
    text = "".join(f",{key}={value.translate(_TAG)}" for key, value in tags.items() if value)
    name = point.full_key.translate(_MEASUREMENT)
    return f"{name}{text} value={float(point.value)!r} {point.stamp * _NANOSECONDS}"
