"""Reading request bodies that may be anything: they neither fill the memory nor hold up the others."""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import falcon
import gevent

from greenagent.controller.http.connections import Connection
from greenagent.controller.limits import Limits
from greenagent.runtime.native import NativePool
from greenagent.values.command import load_json
from greenagent.values.errors import GreenagentError

T = TypeVar("T")

MAX_DEPTH: Final = 200
MAX_PARTS: Final = 500_000
"""Members of all objects and lists of one body together."""
PIECE: Final = 16 * 1024
"""Bytes read at once; a body in chunks of one byte takes some milliseconds for them."""
FEW_PARTS: Final = 2000
FEW_BYTES: Final = 64 * 1024
"""What is no more than this is made a value at once; everything else in a native thread."""
SLOWEST: Final = 8 * 1024
"""Bytes a second that a body must come with, once ``Limits.slow_body`` is over."""
RETRY_AFTER: Final = 5
"""Seconds after which a body is to be sent again for which there was no room."""

_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_PART_SIGNS: Final = (b",", b"{", b"[")


class BodyError(GreenagentError):
    """The body did not come as announced, or not in time."""


class BodyTooLargeError(GreenagentError):
    """More bytes, or more members, than this endpoint takes."""


class NotJsonError(GreenagentError):
    """The body has come, and is no JSON value."""


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
        self._pool = NativePool(1)
        self._bodies: dict[_Body, None] = {}
        self._held = 0

    def close(self) -> None:
        self._pool.close()

    def read(self, req: falcon.Request, limit: int, make: Callable[[Any], T], empty: Any = None) -> T:
        """What ``make`` makes of the JSON value of a body, without lone surrogates; ``empty`` for an empty body.

        ``make`` is called in a native thread where the body is large: it must look at nothing but the value. What
        it raises is raised. Raises BodyError, BodyTooLargeError and NoRoomError, after which the connection is
        closed, and NotJsonError.
        """
        connection: Connection = req.env["greenagent.connection"]
        body = _Body(connection.address, gevent.getcurrent())
        self._bodies[body] = None
        try:
            self._receive(req, body, limit)
            body.is_coming = False
            if not body.data and empty is not None:
                return make(empty)
            data = body.data
            if len(data) <= FEW_BYTES and _count_signs(data) <= FEW_PARTS:
                return make(_value(data))
            return self._pool.run(lambda: make(_value(data)))
        except (BodyError, BodyTooLargeError, NoRoomError):
            req.env["greenagent.close"]()  # what is left of the body is not read: the connection ends with this answer
            raise
        finally:
            del self._bodies[body]
            self._held -= len(body.data)

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
            if len(piece) == PIECE:
                gevent.sleep(0)

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


def _value(data: bytearray) -> Any:
    """The JSON value of a body. Raises BodyTooLargeError, NotJsonError."""
    if _count_signs(data) > MAX_PARTS and _count_parts(data) > MAX_PARTS:
        raise BodyTooLargeError(f"the body has more than {MAX_PARTS} members")
    try:
        value = load_json(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise NotJsonError(f"the body is not JSON: {reason}") from error
    if _is_deep(value):
        raise NotJsonError(f"the body is not JSON: nested more than {MAX_DEPTH} deep")
    return value


def _count_signs(data: bytearray, *span: int) -> int:
    """The commas and opening brackets, of all of the body or between two places."""
    return sum(data.count(sign, *span) for sign in _PART_SIGNS)


def _count_parts(data: bytearray) -> int:
    """Those outside of texts, up to the first fault."""
    return _count_signs(data) - sum(_count_signs(data, *text.span()) for text in _TEXT.finditer(data))


def finite(value: Any) -> Any:
    """A JSON value with null for NaN and infinite numbers: shown again, they would be no JSON."""
    try:
        json.dumps(value, allow_nan=False)  # ten times faster than any look at the text
    except ValueError:
        return _finite(value)
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_deep(value: Any) -> bool:
    """What can just be read could be too deep to be written again, at another depth of the stack."""
    layer = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH + 1):
        inner = [one for item in layer for one in (item.values() if isinstance(item, dict) else item)]
        layer = [one for one in inner if isinstance(one, (dict, list))]
        if not layer:
            return False
    return True
