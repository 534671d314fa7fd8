"""The result of a job as it goes to a controller (protocol 4)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from greenagent.values import states
from greenagent.values.json_shape import compact_json, object_text

NOT_FOUND: Final = "not_found"
CANNOT_START: Final = "cannot_start"
NEVER_BEGAN: Final = "never_began"
NOTHING_RAN: Final = frozenset((NOT_FOUND, CANNOT_START, NEVER_BEGAN))
AGENT_STOPPED: Final = "agent_stopped"
STOPPED: Final = "the agent was stopped"
"""``AGENT_STOPPED`` for people."""


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
    reason: str = ""
    """Why nothing of it ever ran: ``NOT_FOUND`` (no such command or program), ``CANNOT_START``, ``NEVER_BEGAN`` (killed
    or refused before its turn); ``AGENT_STOPPED``: nobody else killed it; or ""."""
    truncated: bool = False
    lines: Mapping[int, int] | None = None
    """By level, the lines of the job so far that its controller has been sent or will be; None where nobody counted
    them. Under 0 are those of levels beyond the ones counted apart."""
    lost: int = 0
    """How many lines of the job could not be stored, and so not sent, as far as that is known yet."""
    is_short: bool = False
    """Whether it is known to be short, so that its text is made at once."""

    def to_text(self, pause: Callable[[], None]) -> str:
        """The body of POST ``result``. ``pause``: as for ``object_text``."""
        return compact_json(self.to_wire()) if self.is_short else object_text(self.to_wire(), pause)

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
        if self.reason:
            wire["reason"] = self.reason
        if self.truncated:
            wire["truncated"] = True
        if self.lines is not None:
            wire["lines"] = {str(level): count for level, count in sorted(self.lines.items())}
        if self.lost:
            wire["lost"] = self.lost
        return wire


SHORTENED = (
    "left out: the controller refused the whole result (status {status}), greenagent-logs outbox has it on {agent}"
)
KEPT_ARGS = 16 * 1024
"""Bytes of JSON beyond which the run arguments are left out too."""


def without_output(body: str, status: int) -> str | None:
    """A result's body without what may be large: ``streams`` and ``data`` say so. None where it is so already.

    ``status``: what the controller answered to the whole one.
    """
    wire = json.loads(body)
    note = SHORTENED.format(status=status, agent=f"{wire.get('gid')}:{wire.get('nid')}")
    if str(wire.get("data", "")).startswith(SHORTENED.partition("(")[0]):
        return None
    wire |= {"data": note, "level": 0, "truncated": True}
    if wire.get("streams"):
        wire["streams"] = [f"{note}\n" if text else "" for text in wire["streams"]]
    if "critical" in wire:
        wire["critical"] = note
    if len(json.dumps(wire.get("args"))) > KEPT_ARGS:
        wire["args"] = {}
    return json.dumps(wire, ensure_ascii=False, separators=(",", ":"))
