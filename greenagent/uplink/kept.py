"""Requests over a connection that is open already, without what ``requests`` does for each.

``requests`` connects, shakes hands and takes the first answer. From then on an ordinary exchange
(one head of which no line is special, a body of known length) is written and read here, at a tenth
of the processor time. An answer that is anything else goes, from its first byte, through the same
parsers as the first one, so it means the same and fails for the same reasons.
"""

from __future__ import annotations

import http.client
import io
from collections.abc import Iterator, Mapping
from select import POLLIN
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from gevent import monkey

_poll = monkey.get_original("select", "poll")

PIECE = 64 * 1024
"""Bytes written or read at a time."""
MAX_HEAD = 64 * 1024
_STATUS_LINE = b"HTTP/1.1 "
_SPECIAL = frozenset({"transfer-encoding", "content-encoding", "connection", "keep-alive", "upgrade"})


class Headers(Mapping[str, str]):
    """Headers of an answer; upper and lower case are the same."""

    def __init__(self, lower: dict[str, str]) -> None:
        """``lower``: by names in lower case."""
        self._lower = lower

    def __getitem__(self, name: str) -> str:
        return self._lower[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lower)

    def __len__(self) -> int:
        return len(self._lower)


class PlainReply:
    """An ordinary answer: its head is read, its body has a known length."""

    def __init__(self, connection: Any, status: int, headers: Headers, received: bytes, length: int) -> None:
        """``received``: what came of the body together with the head."""
        self.status = status
        self.headers: Mapping[str, str] = headers
        self._socket = connection
        self._received = received
        self._length = length

    @property
    def is_here(self) -> bool:
        """Whether nothing is left to wait for."""
        return len(self._received) == self._length

    def read(self, limit: int) -> tuple[bytes, bool]:
        """The body and whether that is all of it; of one of more than ``limit`` bytes only the beginning is read."""
        if len(self._received) == self._length <= limit:
            return self._received, True
        pieces = [self._received]
        size = len(self._received)
        wanted = self._length if self._length <= limit else min(self._length, PIECE)
        while size < wanted:
            piece = self._socket.recv(min(PIECE, self._length - size))
            if not piece:
                raise http.client.IncompleteRead(b"".join(pieces), self._length - size)
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces), self._length <= limit


class ParsedReply:
    """Any other answer, as ``urllib3`` reads it."""

    is_here = False

    def __init__(self, status: int, headers: Mapping[str, str], raw: Any) -> None:
        self.status = status
        self.headers = headers
        self._raw = raw

    def read(self, limit: int) -> tuple[bytes, bool]:
        """The body and whether that is all of it; of one of more than ``limit`` bytes only the beginning is kept."""
        pieces: list[bytes] = []
        size = 0
        while piece := self._raw.read(PIECE, decode_content=True):
            size += len(piece)
            pieces.append(piece)
            if size > limit:
                return _beginning(pieces), False
        self._raw.release_conn()
        return b"".join(pieces), True


def _beginning(pieces: list[bytes]) -> bytes:
    """A piece of what came: two copies of all of it would be memory for nothing."""
    found = bytearray()
    for piece in pieces:
        found += piece
        if len(found) >= PIECE:
            break
    return bytes(found)


class KeptConnection:
    """An open connection on which answers have come before; it belongs to the pool that opened it."""

    def __init__(self, connection: Any) -> None:
        """``connection``: as ``urllib3`` made it, idle now."""
        self._connection = connection
        self._socket = connection.sock
        # Each request as a whole has its time limit; one for each wait would be a timer for each.
        self._socket.settimeout(None)
        self._is_last = False
        self._idle = _poll()
        self._idle.register(self._socket.fileno(), POLLIN)

    @property
    def is_usable(self) -> bool:
        """False once the other side has closed it, or says anything unasked."""
        return self._connection.sock is self._socket and not self._is_last and not self._idle.poll(0)

    def close(self) -> None:
        """The pool that owns it opens it anew when it is used again."""
        self._connection.close()

    def request(self, head: bytes, body: bytes, timeout: float) -> PlainReply | ParsedReply:
        """Sends a request and waits for the head of the answer.

        ``timeout``: seconds each piece of a large body may take. Raises what sockets and
        ``http.client`` raise.
        """
        if len(body) <= PIECE:
            self._socket.sendall(head + body)
        else:
            self._send_pieces(head, body, timeout)
        received: bytes = self._socket.recv(PIECE)
        while (end := received.find(b"\r\n\r\n")) < 0 and len(received) < MAX_HEAD:
            piece = self._socket.recv(PIECE)
            if not piece:
                break
            received += piece
        if end >= 0:
            reply = self._plain(received, end)
            if reply is not None:
                return reply
        return self._parse(received, head.partition(b" ")[0].decode())

    def _send_pieces(self, head: bytes, body: bytes, timeout: float) -> None:
        self._socket.settimeout(timeout)
        self._socket.sendall(head)
        view = memoryview(body)
        for start in range(0, len(view), PIECE):
            self._socket.sendall(view[start : start + PIECE])
        self._socket.settimeout(None)

    def _plain(self, received: bytes, end: int) -> PlainReply | None:
        """The answer if it is an ordinary one."""
        first, *lines = received[:end].split(b"\r\n")
        code = first[9:12]
        if not first.startswith(_STATUS_LINE) or not code.isdigit() or first[12:13] not in (b" ", b""):
            return None
        status = int(code)
        if status < 200 or status in (204, 304) or len(lines) > 100:
            return None
        lower: dict[str, str] = {}
        for line in lines:
            name_bytes, colon, value = line.partition(b":")
            name = name_bytes.decode("latin-1").lower()
            if not colon or not name or name[0] in " \t" or name in lower or (b"\n" in line) or (b"\r" in line):
                return None
            lower[name] = value.strip(b" \t").decode("latin-1")
        length = lower.get("content-length", "")
        if not (length.isascii() and length.isdigit()) or len(length) > 15:
            return None
        if not _SPECIAL.isdisjoint(lower) and not _keeps_alive(lower):
            return None
        body = received[end + 4 :]
        if len(body) > int(length):
            return None
        return PlainReply(self._socket, status, Headers(lower), body, int(length))

    def _parse(self, received: bytes, method: str) -> ParsedReply:
        """Any answer, from its first byte."""
        parsed = http.client.HTTPResponse(_Again(received, self._socket), method=method)  # type: ignore[arg-type]
        parsed.begin()
        headers = urllib3.HTTPHeaderDict(parsed.msg.items())
        raw = urllib3.HTTPResponse(
            body=parsed,
            headers=headers,
            status=parsed.status,
            version=parsed.version,
            reason=parsed.reason,
            preload_content=False,
            decode_content=False,
            original_response=parsed,
            request_method=method,
        )
        if parsed.will_close:
            self._is_last = True
        return ParsedReply(parsed.status, headers, raw)


class _Again(io.RawIOBase):
    """What was received already and then what still comes, in the form ``http.client`` reads."""

    def __init__(self, received: bytes, connection: Any) -> None:
        self._received = received
        self._socket = connection

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self, PIECE)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._received:
            return int(self._socket.recv_into(buffer))
        size = min(len(buffer), len(self._received))
        buffer[:size] = self._received[:size]
        self._received = self._received[size:]
        return size


def _keeps_alive(lower: dict[str, str]) -> bool:
    """Whether what is special about the head only says that the connection stays open."""
    return (
        lower.keys().isdisjoint(("transfer-encoding", "content-encoding", "upgrade"))
        and lower.get("connection", "keep-alive").lower() == "keep-alive"
    )


def request_head(request: requests.PreparedRequest) -> bytes:
    """The head of a request as ``requests`` would send it, without its end and without its length."""
    parts = urlsplit(request.url or "")
    host = str(parts.netloc).rpartition("@")[2]
    default = ":443" if parts.scheme == "https" else ":80"
    lines = [f"{request.method} {request.path_url} HTTP/1.1", f"Host: {host.removesuffix(default)}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items() if name != "Content-Length"]
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")
