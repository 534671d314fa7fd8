"""How a kind of destination wants what it is sent: controllers as the protocol says (1.2), sinks by their standards."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple

from greenagent.uplink.answer import Answer


def as_list(bodies: Sequence[bytes]) -> bytes:
    """JSON texts as one list."""
    return b"[" + b",".join(bodies) + b"]"


class Rejection(NamedTuple):
    """What an answer tells that is an acceptance otherwise."""

    records: int
    """How many of those that were posted are not taken; which ones nobody says. They are not to be sent again."""
    reason: str


class Form(NamedTuple):
    """How bodies of one kind are posted together."""

    path: str
    """Behind the agent's own address, or with a ``/`` in front behind the URL alone."""
    join: Callable[[Sequence[bytes]], bytes] = as_list
    """Makes one request of several bodies."""
    count: Callable[[bytes], int] = lambda body: 1
    """How many records a ``Rejection`` would count in a body."""
    rejection: Callable[[Answer], Rejection | None] = lambda answer: None
    """What an acceptance rejects nevertheless."""


class LineEncoding(ABC):
    """How log lines are sent to one destination."""

    @abstractmethod
    def form(self, address: str = "") -> Form:
        """``address``: gid/nid under which they were written, where that is another than now."""

    @abstractmethod
    def encode(self, record: Mapping[str, Any]) -> bytes:
        """One of them, as ``Record.to_wire`` has it."""


class StatisticsEncoding(ABC):
    """How statistics are sent to one destination."""

    vouches: ClassVar[bool] = True
    """Whether one that takes them takes everything else as well."""

    @abstractmethod
    def form(self, address: str = "") -> Form:
        """As for lines."""

    @abstractmethod
    def encode(self, body: bytes, pause: Callable[[], None]) -> bytes:
        """One object in the form of the outbox: a JSON list of it alone. Empty: there is nothing to send of it.

        ``pause`` is called between points, and may give way to others: an object may have thousands.
        """


class Encoding(NamedTuple):
    """What one destination takes; None for what it does not."""

    lines: LineEncoding | None
    statistics: StatisticsEncoding | None
    content_type: str = "application/json"


class ControllerLines(LineEncoding):
    """Protocol 7.1."""

    def form(self, address: str = "") -> Form:
        return Form(f"/{address}/log" if address else "log")

    def encode(self, record: Mapping[str, Any]) -> bytes:
        return encode(record)


class ControllerStatistics(StatisticsEncoding):
    """Protocol 8.4."""

    vouches = False  # the originals keep statistics in another store

    def form(self, address: str = "") -> Form:
        return Form(f"/{address}/stats" if address else "stats")

    def encode(self, body: bytes, pause: Callable[[], None]) -> bytes:
        return body[1:-1]


FOR_CONTROLLERS: Final = Encoding(ControllerLines(), ControllerStatistics())


class Point(NamedTuple):
    """One value of an object of statistics, its key taken apart (protocol 8.3)."""

    gid: str
    nid: str
    cmd: str
    """Empty in the seed's layout, which has none."""
    domain: str
    name: str
    key: str
    full_key: str
    stamp: int
    """Seconds since 1970."""
    value: float


def points(body: bytes, has_command: bool) -> Iterator[Point]:
    """The points of one object in the form of the outbox. ``has_command``: its keys are of the later layout.

    One that is too short for that is of the seed's, and waited while the setting was changed. A value that JSON does
    not know, which is null there, is left out.
    """
    for item in json.loads(body):
        for full_key, value in item["series"]:
            if value is None:
                continue
            parts = full_key.split(".", 5 if has_command else 4)
            if len(parts) < 6:
                parts.insert(2, "")
            gid, nid, cmd, domain, name, key = parts
            yield Point(gid, nid, cmd, domain, name, key, full_key, item["timestamp"], value)


def encode(value: Any) -> bytes:
    """As JSON, without blanks."""
    return json.dumps(value, separators=(",", ":")).encode()
