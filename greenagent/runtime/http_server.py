"""What every HTTP server of ours does about clients that mean harm: gevent.pywsgi, tamed."""

from __future__ import annotations

import io
import math
import re
from typing import Any, Final

from gevent import GreenletExit, Timeout
from gevent.pywsgi import WSGIHandler

from greenagent.runtime.greenlets import give_way
from greenagent.runtime.paced import PacedStream, close_gently

MAX_HEAD: Final = 64 * 1024
"""Bytes of the headers of a request."""

MAX_HEADERS: Final = 100

MAX_UNREAD: Final = 64 * 1024
"""Bytes of a body that nobody wants that are read, so that the connection can be kept."""

SMALL_ANSWER: Final = 16 * 1024
"""Bytes of a body that are sent together with the headers."""

_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*\r?\n")
_ONLY_ONCE: Final = ("content-length", "transfer-encoding", "host")


class RequestHead:
    """The headers of a request, refused where readers differ about what they mean. What pywsgi asks of them.

    The standard library makes a mail of them, a tenth of all that a small request takes.
    """

    status = ""
    """What is wrong with them; that is raised instead."""

    def __init__(self, stream: Any) -> None:
        """Reads them. Raises ValueError for a line that is no header, or odd where it decides about the body."""
        self.headers: list[str] = []
        """The lines."""
        self._first: dict[str, int] = {}
        """The place of each one's first line, by the name in small letters. No values: they would be held twice."""
        left = MAX_HEAD
        while (line := stream.readline(left + 1)) not in (b"\r\n", b"\n", b""):
            left -= len(line)
            if left < 0:
                raise ValueError(f"the headers are longer than {MAX_HEAD} bytes")
            if len(self.headers) == MAX_HEADERS:
                raise ValueError(f"there are more than {MAX_HEADERS} headers")
            self._take(line)
        self.cost = 2 * (MAX_HEAD - left) + 200 * len(self.headers)
        """Bytes that what was read takes in memory, as it came and as the application reads it (measured)."""

    def _take(self, line: bytes) -> None:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise ValueError("a line of the headers is no header")
        name, value = header[1].decode().lower(), header[2].decode("latin-1")
        if name in _ONLY_ONCE:
            if name in self._first:
                raise ValueError(f"{name} is there twice")
            if name == "content-length" and not header[2].isdigit():
                raise ValueError("content-length must be a number")
            if name == "transfer-encoding" and value.lower() != "chunked":
                raise ValueError("only the transfer-encoding chunked is known")
            if {"content-length", "transfer-encoding"} <= {name, *self._first}:
                raise ValueError("content-length and transfer-encoding exclude each other")
        self._first.setdefault(name, len(self.headers))
        self.headers.append(line.decode("latin-1"))

    def get(self, name: str, default: str | None = None) -> str | None:
        place = self._first.get(name.lower())
        return default if place is None else self.headers[place].partition(":")[2].strip(" \t\r\n")

    getheader = get

    def __delitem__(self, name: str) -> None:
        del self._first[name.lower()]

    @property
    def typeheader(self) -> str | None:
        return self.get("content-type")


class GuardedHandler(WSGIHandler):  # type: ignore[misc]
    """One connection, whatever its client sends."""

    def __init__(self, client: Any, address: Any, server: Any) -> None:
        # The usual buffer of 8 KiB for each parked poll would be a third of what a poll costs. It is small also since
        # pywsgi reads chunks byte by byte: the hub gets its turn only where the buffer is filled.
        self._stream = PacedStream(client.makefile("rb", 0))
        super().__init__(client, address, server, io.BufferedReader(self._stream, 1024))
        self.head: RequestHead
        """Of the newest request."""
        self._together: bytearray | None = None
        """What is gathered of an answer before it is sent."""
        self._has_unread = False
        """Something of the newest request is not read, and will not be."""

    def handle_one_request(self) -> Any:
        give_way()
        result = super().handle_one_request()
        if self._has_unread:
            close_gently(self.socket)
        return result

    def MessageClass(self, stream: Any, *args: Any) -> Any:
        self.head = RequestHead(stream)
        return self.head

    def close_after_answer(self) -> None:
        """What is left of the request's body is not read."""
        body = self.wsgi_input
        self._has_unread = self._has_unread or self.unread() > 0
        self.close_connection = True
        body.position = body.content_length or 0
        body.chunked_input = False

    def unread(self) -> float:
        """Bytes of the body that are still to come; infinite where nobody knows."""
        body = self.wsgi_input
        if body.chunked_input:
            return 0 if body.chunk_length == 0 else math.inf
        return int(body.content_length or 0) - int(body.position)

    def finalize_headers(self) -> None:
        if math.inf > self.unread() > MAX_UNREAD:
            self.close_after_answer()
        if self.close_connection and not any(name.lower() == b"connection" for name, _ in self.response_headers):
            self.response_headers.append((b"Connection", b"close"))
        super().finalize_headers()

    def _write_with_headers(self, data: Any) -> None:
        """In one packet where it is small: a system call less here and one less at the client."""
        together = self._together = bytearray() if len(data) <= SMALL_ANSWER else None
        try:
            super()._write_with_headers(data)
        finally:
            self._together = None
        if together:
            self._sendall(together)

    def _sendall(self, data: Any) -> None:
        if self._together is None:
            super()._sendall(data)
        else:
            self._together += data

    def run_application(self) -> None:
        try:
            super().run_application()
        except BaseException:
            self.close_after_answer()
            raise
        if self.unread():
            self.discard_rest()

    def discard_rest(self) -> None:
        """Reads what is left of the body, unless that is much."""
        self._stream.allowed = MAX_UNREAD
        try:
            self.wsgi_input._discard()
        except OSError:
            self.close_after_answer()
        except BaseException:
            self.close_after_answer()  # or pywsgi would go on reading it, where nobody ends it any more
            raise
        self._stream.allowed = math.inf

    def format_request(self) -> str:
        return ""

    def handle_error(self, kind: Any, value: Any, trace: Any) -> None:
        self.close_connection = True
        if isinstance(value, (OSError, GreenletExit, Timeout)):
            self._has_unread = False  # nobody waits for an answer
            return  # the client is gone or too slow, or the server stops
        self.report_error(kind, value, trace)
        self._send_error_response_if_possible(500)

    def report_error(self, kind: Any, value: Any, trace: Any) -> None:
        """An error that is ours."""
        self._log_error(kind, value, trace)

    def _handle_client_error(self, error: Any) -> Any:
        if isinstance(error, OSError):
            return None  # nothing was asked within the time
        # Whatever else reading a request raises (too many headers, half a version), its client has caused.
        return super()._handle_client_error(error if isinstance(error, ValueError) else ValueError(repr(error)))
