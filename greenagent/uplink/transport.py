"""One HTTP session with one controller for one purpose (protocol 1.2).

Every wait is bounded: connecting, each silence, and the request as a whole, so that a peer that
sends a byte now and then is cut off too; and so is the size of an answer.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import gevent
import requests
import requests.adapters
import requests.utils
import urllib3

from greenagent import __version__
from greenagent.runtime.heartbeat import Heartbeat
from greenagent.uplink.failures import TransportError, explain
from greenagent.uplink.interrupt import Interrupted, Interruptible
from greenagent.uplink.kept import PIECE, KeptConnection, ParsedReply, PlainReply, request_head
from greenagent.uplink.tls import ControllerTls

__all__ = ["Answer", "Transport", "TransportError"]

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
SLOWEST_UPLOAD = 8 * 1024
"""Bytes per second a body must at least be taken at; its time limit grows with its size accordingly."""
SLACK = 120.0
"""Seconds beyond what is bounded otherwise before whoever uses a transport counts as stuck."""


class Answer(NamedTuple):
    """What a controller answered; ``headers`` do not mind upper and lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """True for 2xx, the only acceptance there is (design, section 5)."""
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        """The beginning of the body, for people."""
        return self.body[:1000].decode("utf-8", "replace").strip()


class _Adapter(requests.adapters.HTTPAdapter):
    """Uses our TLS context alone: ``requests`` would add the roots it brings along."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **more: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **more, **self._tls())

    def proxy_manager_for(self, proxy: Any, **more: Any) -> Any:
        return super().proxy_manager_for(proxy, **more, **self._tls())

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, self._tls() if host["scheme"] == "https" else {}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """The context has it all; nothing is to be loaded into it."""

    def _tls(self) -> dict[str, Any]:
        return {} if self._context is None else {"ssl_context": self._context}


class Transport:
    """Requests to ``<url>/<gid>/<nid>/``, one at a time, over a connection that is kept.

    Redirects are not followed and no cookie is kept. Proxies come from the environment, nothing
    else does. Give every purpose a transport of its own, so that none waits for another.
    """

    def __init__(
        self,
        key: str,
        url: str,
        tls: ControllerTls,
        gid: int,
        nid: int,
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
        command_limit: int = COMMAND_LIMIT,
        body_grace: float = BODY_GRACE,
    ) -> None:
        """``key``: the controller's name in the configuration. Times in seconds, sizes in bytes."""
        self.key = key
        self.url = url.rstrip("/")
        self._base = f"{self.url}/{gid}/{nid}/"
        self._tls = tls
        self._connect_timeout = connect_timeout
        self._command_limit = command_limit
        self._body_grace = body_grace
        self._proxies = requests.utils.get_environ_proxies(self._base)
        # Through a proxy every request goes the way of ``requests``, which knows the kinds there are.
        self._is_proxied = requests.utils.select_proxy(self._base, self._proxies) is not None
        self._opened: Any = None
        self._adapter: _Adapter | None = None
        self._kept: KeptConnection | None = None
        self._prepared: tuple[tuple[str, tuple[tuple[str, str], ...]], _Template] | None = None
        self._post_templates: dict[str, _Template] = {}
        self._head = Interruptible()
        self._whole = Interruptible()
        self._renewing = False
        self._proven = False
        self.heartbeat = Heartbeat()
        """Of the service that uses this transport: one at a time, so it is the same."""
        self._again = partial(
            Transport,
            key,
            url,
            tls,
            gid,
            nid,
            connect_timeout=connect_timeout,
            command_limit=command_limit,
            body_grace=body_grace,
        )

    def another(self) -> Transport:
        """One like this, with a heartbeat of its own."""
        return self._again()

    def get(
        self,
        path: str,
        params: Iterable[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        timeout: float = POLL_TIMEOUT,
    ) -> Answer:
        """GET; ``timeout`` in seconds until the head of the answer. Raises TransportError.

        The request is prepared once and used again as long as ``path`` and ``params`` stay the same.
        """
        wanted = (path, tuple(params))
        if self._prepared is None or self._prepared[0] != wanted:
            request = requests.Request("GET", self._base + path, params=list(wanted[1]), headers=_headers())
            self._prepared = (wanted, _Template(request))
        return self._send(self._prepared[1], headers or {}, b"", timeout, True)

    def post(self, path: str, body: bytes, timeout: float = POST_TIMEOUT) -> Answer:
        """POST of a JSON text; ``timeout`` as for ``get``. Raises TransportError."""
        template = self._post_templates.get(path)
        if template is None:
            headers = {**_headers(), "Content-Type": "application/json"}
            template = _Template(requests.Request("POST", self._base + path, data=b"{}", headers=headers))
            self._post_templates[path] = template
        return self._send(template, {"Content-Length": str(len(body))}, body, timeout, False)

    def interrupt(self) -> bool:
        """Ends a GET that still waits for the head of its answer; it raises TransportError ``interrupted``.

        An answer that has begun is let finish: there may be a command in it.
        """
        return self._head.interrupt()

    def abort(self) -> bool:
        """Ends whatever request is under way; it raises TransportError ``interrupted``."""
        return self._whole.interrupt()

    def close(self) -> None:
        """Closes the connection; the next request opens a new one."""
        self._proven = self._renewing = False
        self._tls.unsubscribe(self._tls_changed)
        self._kept = self._opened = None
        if self._adapter is not None:
            self._adapter.close()
            self._adapter = None

    def _tls_changed(self) -> None:
        self._renewing = True
        self.interrupt()

    def _send(
        self, template: _Template, headers: Mapping[str, str], body: bytes, timeout: float, is_poll: bool
    ) -> Answer:
        if self._tls.problem:
            raise TransportError("tls", self._tls.problem)
        if self._renewing:
            self.close()
        if self._adapter is None:
            # Subscribed as long as something is open: a transport that is closed for good must not be kept for ever.
            self._tls.subscribe(self._tls_changed)
            self._adapter = _Adapter(self._tls.context)
        if self._kept is not None and not self._kept.is_usable:
            self._kept.close()
            self._kept = None
        limit = timeout + len(body) / SLOWEST_UPLOAD
        if self._kept is None:
            limit += self._connect_timeout
        self.heartbeat.expect_within(limit + self._body_grace + SLACK, "a request")
        try:
            with self._whole, gevent.Timeout(limit, _OutOfTime):
                if is_poll:
                    with self._head:
                        reply = self._request(self._adapter, template, headers, body, timeout)
                else:
                    reply = self._request(self._adapter, template, headers, body, timeout)
            self._proven = True
            if is_poll:
                return self._poll_answer(reply)
            return self._post_answer(reply)
        except _OutOfTime as error:
            self.close()
            raise TransportError("timeout", "it did not answer in time") from error
        except Interrupted as error:
            self.close()
            raise TransportError("interrupted", "the request was called off") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            raise self._failure(error) from error
        except ValueError as error:  # a header or status that urllib3 or http.client cannot make sense of
            raise self._failure(http.client.HTTPException(str(error))) from error
        except BaseException:
            self.close()
            raise
        finally:
            self.heartbeat.expect_within(SLACK, "what follows a request")

    def _request(
        self, adapter: _Adapter, template: _Template, headers: Mapping[str, str], body: bytes, timeout: float
    ) -> PlainReply | ParsedReply:
        """Sends the request and returns once the head of its answer is there."""
        if self._kept is not None:
            return self._kept.request(template.head(headers), body, timeout)
        response = adapter.send(
            template.request(headers, body),
            stream=True,
            timeout=(self._connect_timeout, timeout),
            verify=True,
            cert=None,
            proxies=self._proxies,
        )
        self._opened = response.raw.connection
        return ParsedReply(response.status_code, response.headers, response.raw)

    def _read(self, reply: PlainReply | ParsedReply, limit: int, seconds: float) -> tuple[bytes, bool]:
        """The body of an answer, and whether that is all of it."""
        if reply.is_here:
            return reply.read(limit)
        with self._whole, gevent.Timeout(seconds, _OutOfTime):
            body, complete = reply.read(limit)
        opened, self._opened = self._opened, None
        if complete and opened is not None and opened.sock is not None and not self._is_proxied:
            self._kept = KeptConnection(opened)
        return body, complete

    def _poll_answer(self, reply: PlainReply | ParsedReply) -> Answer:
        body, complete = self._read(reply, self._command_limit, self._body_grace)
        answer = Answer(reply.status, reply.headers, body)
        if not complete:
            beginning = answer._replace(body=body[:PIECE])
            raise TransportError(
                "too-large", f"its answer is larger than {self._command_limit} bytes", answer=beginning
            )
        return answer

    def _post_answer(self, reply: PlainReply | ParsedReply) -> Answer:
        """The status is here and says all that counts: a body that fails or never ends changes nothing."""
        body, complete = b"", False
        try:
            body, complete = self._read(reply, POST_ANSWER_LIMIT, POST_BODY_GRACE)
        except (_OutOfTime, Interrupted, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError):
            complete = False
        if not complete:
            self.close()
        return Answer(reply.status, reply.headers, body)

    def _failure(self, error: BaseException) -> TransportError:
        proven = self._proven
        self.close()
        return explain(
            error,
            url=self.url,
            has_client_certificate=self._tls.has_client_certificate,
            proven=proven,
        )


class _OutOfTime(BaseException):
    """A time limit of a request, told apart from everybody else's."""


class _Template:
    """A request that is made again and again, with a few headers and the body different each time."""

    def __init__(self, request: requests.Request) -> None:
        self._prepared = request.prepare()
        self._head = request_head(self._prepared)

    def head(self, headers: Mapping[str, str]) -> bytes:
        """The whole head, for a connection that is open already."""
        return self._head + "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode() + b"\r\n"

    def request(self, headers: Mapping[str, str], body: bytes) -> requests.PreparedRequest:
        """The whole request, for a connection that is yet to be opened."""
        request = self._prepared.copy()
        request.headers.update(headers)
        if body:
            # A body given in one piece has the time of one write for all of it: a large result over a
            # slow line would time out for ever.
            request.body = body if len(body) <= PIECE else _Pieces(body)  # type: ignore[assignment]
        return request


class _Pieces:
    """A body as an iterable of pieces, each with a write of its own."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Any:
        view = memoryview(self._body)
        return (view[start : start + PIECE] for start in range(0, len(view), PIECE))


def _headers() -> dict[str, str]:
    return {"User-Agent": f"greenagent/{__version__}", "Accept-Encoding": "identity", "Connection": "keep-alive"}
