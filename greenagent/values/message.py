"""Messages a job prints, and the records they become (protocol 3 and 6)."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

MAX_PAIRS: Final = 62
"""Pairs of an AC logger with one of its controllers: a stored line carries a mark for each, one bit of 62."""


class Message(NamedTuple):
    """One message of a job: its level and its text."""

    level: int
    text: str


class Record(NamedTuple):
    """One stored log line. ``epoch`` is seconds since 1970 with milliseconds; ``seq`` orders, ``id`` does not."""

    seq: int
    id: int
    jobid: str
    domain: str
    name: str
    epoch: float
    level: int
    data: str

    def to_wire(self) -> dict[str, Any]:
        """The object that people and controllers see: always the same (design, section 5 "Messages and logs")."""
        return {
            "id": self.id,
            "jobid": self.jobid,
            "domain": self.domain,
            "name": self.name,
            "epoch": int(self.epoch),
            "epoch_ms": round(self.epoch * 1000),
            "level": self.level,
            "data": self.data,
        }
