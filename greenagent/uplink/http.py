"""The HTTP client: one connection to one controller for one purpose (protocol 1.2).

``requests`` connects, shakes hands and makes the first exchange. Further requests go over the open socket, and
an ordinary answer is read here, at a tenth of the processor time. Any other answer goes, from its first byte, through
the parsers that read the first one, so it means the same and fails for the same reasons.

Every wait is bounded: connecting, each silence, the request as a whole; and so is the size of an answer.
"""

from __future__ import annotations

import http.client
import math
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from urllib.parse import urlsplit

import gevent
import requests
import requests.utils
import urllib3

from greenagent import __version__
from greenagent.runtime.greenlets import Heartbeat, Interrupted, Interruptible
from greenagent.uplink.answer import Answer, TransportError, explain
from greenagent.uplink.connection import PIECE, KeepAliveConnection, WatchedAdapter, in_pieces
from greenagent.uplink.proxy import proxies_for
from greenagent.uplink.tls import ControllerTls

CONNECT_TIMEOUT = 10.0
POLL_TIMEOUT = 75.0
"""Seconds; clearly above the 60 s a controller holds a poll, or commands handed over just then are lost."""
POST_TIMEOUT = 60.0
COMMAND_LIMIT = 32 * 1024 * 1024
"""Bytes; a larger answer to a poll is refused, so that no controller can exhaust our memory."""
POST_ANSWER_LIMIT = 64 * 1024
"""Bytes of the answer to a POST that are read; its status says all that counts."""
BODY_GRACE = 60.0
"""Seconds the body of an answer to a poll may take once its head is there."""
POST_BODY_GRACE = 5.0
MIN_UPLOAD_RATE = 8 * 1024
"""Bytes per second a body must at least be taken at; its time limit grows with its size accordingly."""
TIMEOUT_MARGIN = 120.0
"""Seconds beyond every other time limit before the service that uses a client counts as stuck."""
MAX_TIME_LIMITS = 8
"""Different ones that a client keeps."""
MAX_IDLE = 30.0
"""Seconds after which an open connection is opened anew: relays forget idle ones without a word."""

_FAILURES = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,  # a header or status that urllib3 or http.client cannot make sense of
)


class HttpClient:
    """Requests to ``<url>/<gid>/<nid>/``, one at a time, over a connection that is kept open.
    Redirects are not followed, no cookie is kept, of the environment only proxies count. One client for each purpose.
    """

    def __init__(
        self,
        url: str,
        tls: ControllerTls,
        gid: int,
        nid: int,
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
        command_limit: int = COMMAND_LIMIT,
        body_grace: float = BODY_GRACE,
        content_type: str = "application/json",
        failed: Callable[[TransportError], None] = lambda error: None,
    ) -> None:
        """Times in seconds, sizes in bytes. ``content_type``: of what is posted. ``failed`` is told why a request got
        no usable answer.
        """
        self._url = url.rstrip("/")
        self.heartbeat = Heartbeat()
        """Of the service that uses this client."""
        self._base = f"{self._url}/{gid}/{nid}/"
        self._tls = tls
        self._connect_timeout = connect_timeout
        self._command_limit = command_limit
        self._body_grace = body_grace
        self._content_type = content_type
        self._proxies = proxies_for(self._base)
        # Through a proxy every request goes the way of ``requests``, which knows the kinds there are.
        self._is_proxied = requests.utils.select_proxy(self._base, self._proxies) is not None
        self._adapter: WatchedAdapter | None = None
        self._connection: KeepAliveConnection | None = None
        self._request = Interruptible()
        self._time_limits = _TimeLimits()
        self._may_be_called_off = False
        self._has_old_context = False
        self._has_answered = False
        self._last_use = 0.0
        self._failed = failed
        self.is_busy = False
        """True while a request is under way."""
        self.more_headers: Callable[[], Mapping[str, str]] = dict
        """What every POST tells besides."""

    def get(
        self,
        path: str,
        params: Iterable[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        timeout: float = POLL_TIMEOUT,
    ) -> Answer:
        """GET; ``timeout`` in seconds until the head of the answer. Raises TransportError."""
        return self._send(_template("GET", self._base + path, tuple(params)), headers or {}, b"", timeout)

    def post(self, path: str, body: bytes, timeout: float = POST_TIMEOUT) -> Answer:
        """POST of a text; ``timeout`` as for ``get``. Raises TransportError."""
        headers = {"Content-Length": str(len(body)), **self.more_headers()}
        base = self._url if path.startswith("/") else self._base  # a former gid and nid may stand in the path
        return self._send(_template("POST", base + path, content_type=self._content_type), headers, body, timeout)

    def interrupt(self) -> bool:
        """Ends a GET that still waits for the head of its answer; it raises TransportError ``interrupted``.

        An answer that has begun, or lies unread, is read to its end: there may be a command in it.
        """
        if not self._may_be_called_off:
            return False
        is_quiet = not self._has_unread()
        # Looked at again at the very moment; and where it was no answer (TLS has messages of its own), a little later.
        return self._request.interrupt(unless=self._has_unread) and is_quiet

    def _has_unread(self) -> bool:
        way = self._connection or self._adapter
        return way is not None and way.has_unread

    def abort(self) -> bool:
        """Ends whatever request is under way; it raises TransportError ``interrupted``."""
        return self._request.interrupt()

    def close(self) -> None:
        """Closes the connection; the next request opens a new one."""
        self._has_answered = self._has_old_context = False
        self._tls.unsubscribe(self._context_changed)
        self._connection = None
        if self._adapter is not None:
            self._adapter.close()
            self._adapter = None

    def _context_changed(self) -> None:
        self._has_old_context = True
        self.interrupt()

    def _send(self, template: _Template, headers: Mapping[str, str], body: bytes, timeout: float) -> Answer:
        if self._tls.problem:
            raise TransportError("tls", self._tls.problem)
        if self._has_old_context:
            self.close()
        if self._adapter is None:
            # Subscribed as long as something is open: a client that is closed for good must not be kept for ever.
            self._tls.subscribe(self._context_changed)
            self._adapter = WatchedAdapter(self._tls.context)
        is_stale = time.monotonic() - self._last_use > MAX_IDLE
        if self._connection is not None and (is_stale or not self._connection.is_usable):
            self._connection.close()
            self._connection = None
        limit = timeout + len(body) / MIN_UPLOAD_RATE
        if self._connection is None:
            limit += self._connect_timeout
        self.heartbeat.expect_within(limit + self._body_grace + TIMEOUT_MARGIN, "a request")
        self._may_be_called_off = template.is_get
        self.is_busy = True
        try:
            with self._request, self._time_limits.of(limit):
                reply = self._exchange(self._adapter, template, headers, body, timeout)
            self._may_be_called_off = False
            self._has_answered = True
            return reply if isinstance(reply, Answer) else self._read(reply, template.is_get)
        except BaseException as error:
            failure = self._failure(error)
            self.close()
            if failure is None:
                raise
            self._failed(failure)
            raise failure from error
        finally:
            self.is_busy = False
            self._last_use = time.monotonic()
            self.heartbeat.expect_within(TIMEOUT_MARGIN, "what follows a request")

    def _failure(self, error: BaseException) -> TransportError | None:
        """The reason in words; None for what is not the controller's, such as a time limit of our caller."""
        if isinstance(error, _OutOfTime):
            return TransportError("timeout", "it did not answer in time")
        if isinstance(error, Interrupted):
            return TransportError("interrupted", "the request was called off")
        if not isinstance(error, _FAILURES):
            return None
        return explain(
            error,
            url=self._url,
            has_client_certificate=self._tls.has_client_certificate,
            has_answered=self._has_answered,
        )

    def _exchange(
        self, adapter: WatchedAdapter, template: _Template, headers: Mapping[str, str], body: bytes, timeout: float
    ) -> Answer | urllib3.HTTPResponse:
        """Sends the request and returns once the head of its answer is there."""
        if self._connection is not None:
            return self._connection.exchange(template.head(headers), body, timeout)
        response = adapter.send(
            template.request(headers, body),
            stream=True,
            timeout=(self._connect_timeout, timeout),
            verify=True,
            cert=None,
            proxies=self._proxies,
        )
        return response.raw

    def _read(self, reply: urllib3.HTTPResponse, is_poll: bool) -> Answer:
        """The whole answer; the connection is kept if that is possible."""
        limit, seconds = (self._command_limit, self._body_grace) if is_poll else (POST_ANSWER_LIMIT, POST_BODY_GRACE)
        opened = reply.connection
        pieces: list[bytes] = []
        size = 0
        try:
            with self._request, self._time_limits.of(seconds):
                while size <= limit and (piece := reply.read(PIECE, decode_content=True)):
                    pieces.append(piece)
                    size += len(piece)
        except (_OutOfTime, Interrupted, *_FAILURES):
            if is_poll:
                raise
            # The status of a POST is here and says all that counts: a body that fails or never ends changes nothing.
            size = limit + 1
        is_whole = size <= limit
        headers = {name.lower(): value for name, value in reply.headers.items()}
        answer = Answer(reply.status, headers, b"".join(pieces if is_whole else pieces[:1]))
        if is_whole:
            reply.release_conn()
            if opened is not None and opened.sock is not None and not self._is_proxied:
                self._connection = KeepAliveConnection(opened)
        elif is_poll:
            raise TransportError("too-large", f"its answer is larger than {limit} bytes", answer=answer)
        else:
            self.close()
        return answer


class _OutOfTime(BaseException):
    """A time limit of a request, told apart from everybody else's."""


class _TimeLimit:
    """A region (``with``) that lasts so long at most, again and again; then ``_OutOfTime`` is raised in it."""

    def __init__(self, seconds: float) -> None:
        self._timer = gevent.get_hub().loop.timer(0, seconds)

    def __enter__(self) -> None:
        # Not ``start``: of a timer that was stopped libev keeps what was left of its time.
        self._timer.again(gevent.getcurrent().throw, _OutOfTime)

    def __exit__(self, *error: object) -> None:
        self._timer.stop()


class _TimeLimits:
    """Those of one client, kept: a ``gevent.Timeout`` for each request took a twentieth of what a job costs."""

    def __init__(self) -> None:
        self._kept: dict[int, _TimeLimit] = {}

    def of(self, seconds: float) -> _TimeLimit:
        """In whole tenths of a second, so that bodies of much the same size have the same."""
        tenths = math.ceil(seconds * 10)
        if tenths not in self._kept:
            if len(self._kept) >= MAX_TIME_LIMITS:
                self._kept.clear()
            self._kept[tenths] = _TimeLimit(tenths / 10)
        return self._kept[tenths]


class _Template:
    """A request that is made again and again, with a few headers and the body different each time."""

    def __init__(self, method: str, url: str, params: tuple[tuple[str, str], ...], content_type: str) -> None:
        self.is_get = method == "GET"
        headers = {
            "User-Agent": f"greenagent/{__version__}",
            "Accept-Encoding": "identity",
            "Connection": "keep-alive",
            **({} if self.is_get else {"Content-Type": content_type}),
        }
        self._prepared = requests.Request(method, url, params=list(params), headers=headers).prepare()
        self._prepared.headers.pop("Content-Length", None)
        parts = urlsplit(self._prepared.url or "")
        host = str(parts.netloc).rpartition("@")[2].removesuffix(":443" if parts.scheme == "https" else ":80")
        lines = [f"{method} {self._prepared.path_url} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in self._prepared.headers.items()]
        self._head = "".join(f"{line}\r\n" for line in lines).encode("latin-1")

    def head(self, headers: Mapping[str, str]) -> bytes:
        """The whole head, for a connection that is open already."""
        return self._head + "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode() + b"\r\n"

    def request(self, headers: Mapping[str, str], body: bytes) -> requests.PreparedRequest:
        """The whole request, for a connection that is yet to be opened."""
        request = self._prepared.copy()
        request.headers.update(headers)
        if self.is_get:
            return request  # even an empty body would be sent, in chunks
        # A body given in one piece has the time of one write for all of it: a large result over a
        # slow line would time out for ever.
        request.body = body if len(body) <= PIECE else in_pieces(body)  # type: ignore[assignment]
        return request


@lru_cache(maxsize=256)
def _template(
    method: str, url: str, params: tuple[tuple[str, str], ...] = (), content_type: str = "application/json"
) -> _Template:
    return _Template(method, url, params, content_type)
