"""All open connections, and which of them go when there are too many or one takes too long."""

from __future__ import annotations

import resource
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import gevent

from greenagent.controller.limits import Limits

SMALL_HEAD: Final = 8 * 1024
"""Bytes of memory for a head that is always taken: thousands of agents park with 3 KiB."""

RESERVED_DESCRIPTORS: Final = 64
"""Kept for files and for what the libraries open."""

ASKING: Final = "asking"
"""Nothing of a next request has come yet."""
HEAD: Final = "head"
"""A part of a request has come, its head is not complete yet (or what is left of its body is thrown away)."""
BODY: Final = "body"
"""The head is complete, the body is still coming."""
ANSWERED: Final = "answered"
"""Its request is in work, as that of a parked poll."""


@dataclass(eq=False, slots=True)
class Connection:
    """One accepted connection."""

    address: str
    greenlet: Any
    """None while its request is parked."""
    phase: str = HEAD
    since: float = field(default_factory=time.monotonic)
    """When its phase began."""
    head: int = 0
    """Bytes that the head of its newest request takes in memory."""
    has_asked: bool = False
    """A complete request came over it once: from then on it does not count for its address."""

    def enter(self, phase: str) -> None:
        self.phase = phase
        self.since = time.monotonic()

    def asked(self, head: int) -> None:
        """A complete head has come that takes so many bytes in memory."""
        self.head = head
        self.has_asked = True
        self.enter(ANSWERED)


class Connections:
    """Ends what has no complete request in time, and the oldest of those where they are too many."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: dict[Connection, None] = {}

    def add(self, address: str, greenlet: Any) -> Connection:
        """A connection just accepted. Others go for it where there is no room."""
        if len(self._open) >= self.most():
            self.make_room()
        connection = Connection(address, greenlet)
        self._open[connection] = None
        return connection

    def remove(self, connection: Connection) -> None:
        self._open.pop(connection, None)

    def most(self) -> int:
        """How many may be open."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return min(self._limits.connections, max(8, soft - RESERVED_DESCRIPTORS))

    def has_room_for(self, connection: Connection) -> bool:
        """Whether the head of its request, which stays until it is answered, can be taken beside all others."""
        if connection.head <= SMALL_HEAD:
            return True
        held = sum(one.head for one in self._open if one.phase in (BODY, ANSWERED) and one.head > SMALL_HEAD)
        return held <= self._limits.heads

    def watch(self) -> None:
        """Once a second: ends what takes too long."""
        while True:
            gevent.sleep(1)
            self.look()

    def look(self) -> None:
        """Ends heads that do not get complete, and what is too many of one address."""
        limits = self._limits
        now = time.monotonic()
        unasked: dict[str, list[Connection]] = {}
        for connection in list(self._open):
            if connection.phase == HEAD and now - connection.since > limits.head:
                self._end(connection)
            elif not connection.has_asked and now - connection.since > limits.unasked_for:
                unasked.setdefault(connection.address, []).append(connection)
        for connections in unasked.values():  # oldest first: that is the order they were added in
            for connection in connections[: max(0, len(connections) - limits.unasked_per_address)]:
                self._end(connection)

    def make_room(self) -> None:
        """Ends the oldest connections that wait for nothing of ours, of the address that has most of these.

        First those that never asked anything, then those whose body takes long. Parked polls and requests in work are
        never ended.
        """
        some = max(1, len(self._open) // 32)  # looking through all for each new one would be a load of its own
        long_ago = time.monotonic() - self._limits.unasked_for
        for waiting in (
            [one for one in self._open if not one.has_asked],
            [one for one in self._open if one.phase == BODY and one.since < long_ago],
            [one for one in self._open if one.phase != ANSWERED],
        ):
            if waiting:
                [(busiest, _)] = Counter(one.address for one in waiting).most_common(1)
                for connection in [one for one in waiting if one.address == busiest][:some]:
                    self._end(connection)
                return

    def _end(self, connection: Connection) -> None:
        self.remove(connection)
        connection.greenlet.kill(block=False)
