"""Reading from a peer that may send without end, as fast as it likes."""

from __future__ import annotations

import io
import math
import socket
import time
from typing import Any, Final

import gevent

from greenagent.runtime.greenlets import give_way

LINGER_TIMEOUT: Final = 2.0
"""Seconds a peer that is turned away gets to read why and close."""


class ExcessError(OSError):
    """More has come than is allowed."""


class PacedStream(io.RawIOBase):
    """What a raw stream gives; however much there is, the hub gets its turn in between."""

    def __init__(self, raw: Any) -> None:
        """``raw``: as ``socket.makefile("rb", 0)`` makes it; closed with this."""
        self._raw = raw
        self.allowed = math.inf
        """Bytes that may yet come; a read beyond them raises ExcessError."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        give_way()
        size = self._raw.readinto(buffer)
        self.allowed -= size or 0
        if self.allowed < 0:
            raise ExcessError("more has come than is allowed")
        return size

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def close(self) -> None:
        super().close()
        self._raw.close()


def close_gently(connection: socket.socket) -> None:
    """Lets a peer that is turned away read why, before its connection is closed.

    Closed at once, while what it sent is unread, it would get a reset and lose our last words. Over
    TLS 1.3 a client has its request on the way by then.
    """
    try:
        connection.settimeout(LINGER_TIMEOUT)
        connection.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + LINGER_TIMEOUT
        while time.monotonic() < deadline and connection.recv(65536):
            gevent.sleep(0.001)  # nobody wants what comes: it may take its time
    except OSError:
        pass  # it is gone already
