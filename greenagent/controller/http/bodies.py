"""Reading request bodies that may be anything: they neither fill the memory nor hold up the others."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import falcon
import gevent

from greenagent.controller.http.body_values import BodyTooLargeError, value_of
from greenagent.controller.http.body_worker import BodyWorker
from greenagent.controller.http.connections import ANSWERED, BODY, Connection
from greenagent.controller.limits import Limits
from greenagent.values.errors import GreenagentError
from greenagent.values.json_shape import count_signs

T = TypeVar("T")

PIECE: Final = 16 * 1024
"""Bytes read at once; a body in chunks of one byte takes some milliseconds for them."""
FEW_PARTS: Final = 5000
FEW_BYTES: Final = 128 * 1024
"""What is no more than this is made a value at once, in 30 ms at the worst; everything else by another process."""
SLOWEST: Final = 8 * 1024
"""Bytes a second that a body must come with, once ``Limits.slow_body`` is over."""
RETRY_AFTER: Final = 5
"""Seconds after which a body is to be sent again for which there was no room."""


class BodyError(GreenagentError):
    """The body did not come as announced, or not in time."""


class NoRoomError(GreenagentError):
    """Too many bodies are coming at the same time."""


@dataclass(eq=False, slots=True)
class _Body:
    """One body while it comes and is made a value."""

    address: str
    greenlet: Any
    data: bytearray = field(default_factory=bytearray)
    is_coming: bool = True


class Bodies:
    """Reads the bodies of all requests, within ``Limits.bodies`` bytes of memory."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._worker = BodyWorker()
        self._bodies: dict[_Body, None] = {}
        self._held = 0

    def close(self) -> None:
        self._worker.close()

    def read(self, req: falcon.Request, limit: int, make: Callable[[Any], T], empty: Any = None) -> T:
        """What ``make`` makes of the JSON value of a body, without lone surrogates; ``empty`` for an empty body.

        ``make`` is a function of a module, or a ``partial`` of one: it is called in another process where the body is
        large. What it raises is raised. Raises BodyError, BodyTooLargeError and NoRoomError, after which the
        connection is closed, and NotJsonError.
        """
        connection: Connection = req.env["greenagent.connection"]
        body = _Body(connection.address, gevent.getcurrent())
        self._bodies[body] = None
        try:
            connection.enter(BODY)
            self._receive(req, body, limit)
            connection.enter(ANSWERED)
            body.is_coming = False
            if not body.data and empty is not None:
                return make(empty)
            if len(body.data) <= FEW_BYTES and count_signs(body.data) <= FEW_PARTS:
                return make(value_of(body.data))
            return self._worker.run(make, body.data, connection.address)
        except (BodyError, BodyTooLargeError, NoRoomError):
            req.env["greenagent.close"]()  # what is left of the body is not read: the connection ends with this answer
            raise
        finally:
            del self._bodies[body]
            self._held -= len(body.data)
            body.data = bytearray()  # or it would stay as long as what is raised, until the connection has ended

    def _receive(self, req: falcon.Request, body: _Body, limit: int) -> None:
        length = req.env.get("CONTENT_LENGTH")
        if length and int(length) > limit:
            raise BodyTooLargeError(f"the body is larger than {limit} bytes")
        stream = req.env["wsgi.input"]
        begun = time.monotonic()
        piece = b"-"
        while piece:
            left = begun + self._limits.slow_body + len(body.data) / SLOWEST - time.monotonic()
            try:
                with gevent.Timeout(max(0.001, left), BodyError("the body comes too slowly")):
                    piece = stream.read(PIECE)
            except (OSError, ValueError) as error:
                raise BodyError("the body did not come as announced") from error
            if len(body.data) + len(piece) > limit:
                raise BodyTooLargeError(f"the body is larger than {limit} bytes")
            body.data += piece
            self._held += len(piece)
            if self._held > self._limits.bodies:
                self._make_room(body)

    def _make_room(self, newest: _Body) -> None:
        """Sends the largest body away that is just coming, of the address from which most is coming."""
        coming = [one for one in self._bodies if one.is_coming]
        from_address: Counter[str] = Counter()
        for one in coming:
            from_address[one.address] += len(one.data)
        largest = max(coming, key=lambda one: (from_address[one.address], len(one.data)))
        error = NoRoomError("too much is being sent to this controller at once: try again later")
        if largest is newest:
            raise error
        largest.is_coming = False
        self._held -= len(largest.data)
        largest.data = bytearray()
        largest.greenlet.kill(error, block=False)
