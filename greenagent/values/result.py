"""The result of a job as it goes to a controller (protocol 4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from greenagent.values import states


class PendingBody(NamedTuple):
    """A body that waits in the outbox: a result, a statistics object, or a dead letter that is tried again.

    The older of two has the lower ``row``, and none is reused; ``path`` is where it is posted: result, stats or log.
    """

    row: int
    id: str
    body: bytes
    path: str = "result"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one run of a job.

    ``starttime`` is milliseconds since 1970, ``time`` a duration in milliseconds. ``streams`` is
    None when the process never started. ``exit_code`` is None when it never started or died of a
    signal, whose name is then in ``signal``.
    """

    id: str
    gid: int
    nid: int
    cmd: str
    args: dict[str, Any] = field(default_factory=dict)
    data: str = ""
    level: int = 0
    state: str = states.ERROR
    starttime: int = 0
    time: int = 0
    streams: tuple[str, str] | None = None
    critical: str = ""
    tags: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    truncated: bool = False

    def to_wire(self) -> dict[str, Any]:
        """The JSON object of POST ``result`` (protocol 4.1); originals ignore the keys we add."""
        wire: dict[str, Any] = {
            "id": self.id,
            "gid": self.gid,
            "nid": self.nid,
            "cmd": self.cmd,
            "args": self.args,
            "data": self.data,
            "level": self.level,
            "state": self.state,
            "starttime": self.starttime,
            "time": self.time,
            "exit_code": self.exit_code,
            "signal": self.signal,
        }
        if self.streams is not None:
            wire["streams"] = list(self.streams)
        if self.critical:
            wire["critical"] = self.critical
        if self.tags is not None:
            wire["tags"] = self.tags
        if self.truncated:
            wire["truncated"] = True
        return wire
