"""What every HTTP server of ours does about clients that mean harm: gevent.pywsgi, tamed."""

from __future__ import annotations

import re
from typing import Any, Final

import gevent
from gevent import GreenletExit
from gevent.pywsgi import WSGIHandler

MAX_HEAD: Final = 64 * 1024
"""Bytes of the headers of a request."""

READS_WITHOUT_PAUSE: Final = 10_000
"""Of a body in chunks: some milliseconds."""

_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*\r?\n")
_ONLY_ONCE: Final = (b"content-length", b"transfer-encoding", b"host")


class RequestHead:
    """The headers of a request as they are read, refused where readers differ about what they mean."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._left = MAX_HEAD
        self._lines = 0
        self._found: dict[bytes, bytes] = {}

    @property
    def cost(self) -> int:
        """Bytes that what was read takes in memory, as it came and as the application reads it (measured)."""
        return 2 * (MAX_HEAD - self._left) + 200 * self._lines

    def readline(self, limit: int) -> bytes:
        """The next line. Raises ValueError for one that is no header, or odd where it decides about the body."""
        line: bytes = self._stream.readline(min(limit, self._left + 1))
        self._left -= len(line)
        self._lines += 1
        if self._left < 0:
            raise ValueError(f"the headers are longer than {MAX_HEAD} bytes")
        if line in (b"\r\n", b"\n", b""):
            return line
        header = _HEADER.fullmatch(line)
        if header is None:
            raise ValueError("a line of the headers is no header")
        name, value = header[1].lower(), header[2]
        if name in _ONLY_ONCE:
            if name in self._found:
                raise ValueError(f"{name.decode()} is there twice")
            self._found[name] = value
            if name == b"content-length" and not value.isdigit():
                raise ValueError("content-length must be a number")
            if name == b"transfer-encoding" and value.lower() != b"chunked":
                raise ValueError("only the transfer-encoding chunked is known")
            if b"content-length" in self._found and b"transfer-encoding" in self._found:
                raise ValueError("content-length and transfer-encoding exclude each other")
        return line


class _Chunks:
    """A body in chunks as it is read: byte by byte, which must not keep the hub."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._reads = 0

    def read(self, size: int) -> bytes:
        self._reads += 1
        if self._reads % READS_WITHOUT_PAUSE == 0:
            gevent.sleep(0)
        data: bytes = self._stream.read(size)
        return data


class GuardedHandler(WSGIHandler):  # type: ignore[misc]
    """One connection, whatever its client sends."""

    def __init__(self, client: Any, address: Any, server: Any) -> None:
        # The usual buffer of 8 KiB for each parked poll would be a third of what a poll costs.
        super().__init__(client, address, server, client.makefile("rb", 1024))
        self.head: RequestHead
        """Of the newest request."""

    def MessageClass(self, stream: Any, *args: Any) -> Any:
        self.head = RequestHead(stream)
        return super().MessageClass(self.head, *args)

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        if self.wsgi_input.chunked_input:
            self.wsgi_input.rfile = _Chunks(self.rfile)
        return environ

    def close_after_answer(self) -> None:
        """What is left of the request's body is not read."""
        self.close_connection = True
        self.wsgi_input.position = self.wsgi_input.content_length or 0
        self.wsgi_input.chunked_input = False

    def format_request(self) -> str:
        return ""

    def handle_error(self, kind: Any, value: Any, trace: Any) -> None:
        self.close_connection = True
        if isinstance(value, (OSError, GreenletExit)):
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
