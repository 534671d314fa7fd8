"""How a kind of destination wants what it is sent: controllers as the protocol says (1.2), sinks by their standards."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

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


class Encoding(ABC):
    """What one destination takes."""

    content_type: ClassVar[str] = "application/json"

    @abstractmethod
    def lines(self, address: str = "") -> Form:
        """How log lines are posted; ``address`` (gid/nid): under which they were written, where that is another."""

    @abstractmethod
    def line(self, record: Mapping[str, Any]) -> bytes:
        """One log line, as ``Record.to_wire`` has it."""


class ControllerEncoding(Encoding):
    """Protocol 7.1 and 8.4."""

    def lines(self, address: str = "") -> Form:
        return Form(f"/{address}/log" if address else "log")

    def line(self, record: Mapping[str, Any]) -> bytes:
        return encode(record)


def encode(value: Any) -> bytes:
    """As JSON, without blanks."""
    return json.dumps(value, separators=(",", ":")).encode()
