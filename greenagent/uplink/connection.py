"""Connections of the HTTP client once they are open: requests written and ordinary answers read directly."""

from __future__ import annotations

import http.client
import io
import re
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from select import POLLIN
from typing import Any

import urllib3
from gevent import monkey

from greenagent.runtime.greenlets import give_way
from greenagent.runtime.paced import PacedStream
from greenagent.runtime.tls_adapter import TlsAdapter
from greenagent.uplink.answer import MAX_OVERHEAD, Answer

_poll = monkey.get_original("select", "poll")

PIECE = 64 * 1024
"""Bytes written or read at a time."""
MAX_HEAD = 64 * 1024
BUFFER = 4 * 1024
"""Bytes read at a time for ``http.client``: chunks of a byte take it some milliseconds for so many."""
SMALLEST_CHUNKS = 8
"""Bytes that may come for each byte of content: chunks of a byte need six."""

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})(?: [\t -~]*)?")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*?)[ \t]*")
_SPECIAL_HEADERS = frozenset({"transfer-encoding", "content-encoding", "upgrade"})


class _AnswerStream(PacedStream):
    """What was received already and then what still comes, in the form ``http.client`` reads."""

    def __init__(self, raw: Any, received: bytes) -> None:
        super().__init__(raw)
        self.allowed = MAX_OVERHEAD
        self._received = received

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self, BUFFER)

    def readinto(self, buffer: Any) -> Any:
        if not self._received:
            return super().readinto(buffer)
        give_way()  # chunks of a byte take it some fifty milliseconds for what was received in one piece
        size = min(len(buffer), len(self._received))
        buffer[:size] = self._received[:size]
        self._received = self._received[size:]
        return size


class BoundedResponse(http.client.HTTPResponse):
    """An answer that takes no more beside its content than ``MAX_OVERHEAD``, and never holds up the hub."""

    def __init__(self, connection: Any, *args: Any, received: bytes = b"", **more: Any) -> None:
        """``received``: what has come of it already."""
        self._stream = _AnswerStream(connection.makefile("rb", 0), received)
        super().__init__(self._stream, *args, **more)  # type: ignore[arg-type]

    def read(self, amount: int | None = None) -> bytes:
        content = super().read(amount)
        self._stream.allowed += SMALLEST_CHUNKS * len(content)
        return content


class KeepAliveConnection:
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
        return self._connection.sock is self._socket and not self._is_last and not self.has_unread

    @property
    def has_unread(self) -> bool:
        """True when something lies there that nobody has read."""
        return bool(self._idle.poll(0))

    def close(self) -> None:
        """The pool that owns it opens it anew when it is used again."""
        self._connection.close()

    def exchange(self, head: bytes, body: bytes, timeout: float) -> Answer | urllib3.HTTPResponse:
        """Sends a request and waits for the head of the answer; an ordinary answer that came whole is returned as such.

        ``timeout``: seconds each piece of a large body may take. Raises what sockets and
        ``http.client`` raise.
        """
        if len(body) <= PIECE:
            self._socket.sendall(head + body)
        else:
            self._socket.settimeout(timeout)
            self._socket.sendall(head)
            for piece in in_pieces(body):
                self._socket.sendall(piece)
            self._socket.settimeout(None)
        received: bytes = self._socket.recv(PIECE)
        while (end := received.find(b"\r\n\r\n")) < 0 and len(received) < MAX_HEAD:
            give_way()
            piece = self._socket.recv(PIECE)
            if not piece:
                break
            received += piece
        answer = read_plain(received, end) if end >= 0 else None
        return answer or self._parse(received, head.partition(b" ")[0].decode())

    def _parse(self, received: bytes, method: str) -> urllib3.HTTPResponse:
        """Any answer, from its first byte."""
        parsed = BoundedResponse(self._socket, method=method, received=received)
        parsed.begin()
        self._is_last = parsed.will_close
        return urllib3.HTTPResponse(
            body=parsed,
            headers=urllib3.HTTPHeaderDict(parsed.msg.items()),
            status=parsed.status,
            version=parsed.version,
            reason=parsed.reason,
            preload_content=False,
            decode_content=False,
            original_response=parsed,
            request_method=method,
        )


class _Waiting:
    """The connection on which ``requests`` waits for the head of an answer, if it does."""

    connection: Any = None


class _Watched:
    """A connection that says when it has sent its request and waits."""

    def __init__(self, *args: Any, waiting: _Waiting, **more: Any) -> None:
        super().__init__(*args, **more)
        self._waiting = waiting

    def getresponse(self) -> Any:
        self._waiting.connection = self
        try:
            return super().getresponse()  # type: ignore[misc]
        finally:
            self._waiting.connection = None


class _HttpConnection(_Watched, urllib3.connection.HTTPConnection):
    response_class = BoundedResponse


class _HttpsConnection(_Watched, urllib3.connection.HTTPSConnection):
    response_class = BoundedResponse


_KINDS = {
    "http": (urllib3.HTTPConnectionPool, _HttpConnection),
    "https": (urllib3.HTTPSConnectionPool, _HttpsConnection),
}


class WatchedAdapter(TlsAdapter):
    """Tells of the request it makes whether an answer lies there unread, directly or from a proxy."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._waiting = _Waiting()
        super().__init__(context)

    @property
    def has_unread(self) -> bool:
        """False also before the whole request is sent: until then nobody answers it."""
        sock = getattr(self._waiting.connection, "sock", None)
        if sock is None or sock.fileno() < 0:
            return False
        waiting = _poll()
        waiting.register(sock.fileno(), POLLIN)
        return bool(waiting.poll(0))

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, **more)
        self._watch(self.poolmanager)

    def proxy_manager_for(self, proxy: Any, **more: Any) -> Any:
        return self._watch(super().proxy_manager_for(proxy, **more))

    def _watch(self, manager: Any) -> Any:
        manager.pool_classes_by_scheme = {
            scheme: partial(_open_pool, pool, partial(connection, waiting=self._waiting))
            for scheme, (pool, connection) in _KINDS.items()
        }
        return manager


def _open_pool(kind: Any, connect: Callable[..., Any], *args: Any, **more: Any) -> Any:
    pool = kind(*args, **more)
    pool.ConnectionCls = connect
    return pool


def read_plain(received: bytes, end: int) -> Answer | None:
    """The answer, if it is an ordinary one that came whole: no header is special, the body's length is told.

    ``end``: where the head ends. None leaves the answer to ``http.client``.
    """
    # Whatever is taken here must mean the same to http.client, or an answer would mean one thing as the first on a
    # connection and another as the second. So every line that is not plainly "name: value" is refused: a folded
    # header, a bare line feed, a name that comes twice or has odd characters (http.client ends the head there).
    first, *lines = received[:end].split(b"\r\n")
    line = _STATUS.fullmatch(first)
    status = 0 if line is None else int(line[1])
    if status < 200 or status in (204, 304) or len(lines) > 100:
        return None
    headers: dict[str, str] = {}
    for text in lines:
        header = _HEADER.fullmatch(text)
        if header is None:
            return None
        name = header[1].decode("ascii").lower()
        if name in headers:
            return None
        headers[name] = header[2].decode("latin-1")
    if not _SPECIAL_HEADERS.isdisjoint(headers) or headers.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    length = headers.get("content-length", "")
    body = received[end + 4 :]
    return Answer(status, headers, body) if length == str(len(body)) else None


def in_pieces(body: bytes) -> Iterator[memoryview]:
    view = memoryview(body)
    return (view[start : start + PIECE] for start in range(0, len(view), PIECE))
