"""What came of a request: an answer and what its status says (design, section 5 "Uploads"), or why there is none."""

from __future__ import annotations

import email.utils
import errno
import http.client
import os
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple

import requests
import urllib3

from greenagent.runtime.paced import ExcessError
from greenagent.runtime.tls import explain as explain_tls
from greenagent.runtime.tls import openssl_reason
from greenagent.uplink.tls import WORDING
from greenagent.values.errors import GreenagentError

MAX_RETRY_AFTER = 300.0
"""Seconds; what a controller asks for beyond that counts as this (design, section 5 "Uploads")."""
MAX_OVERHEAD = 1024 * 1024
"""Bytes of an answer beside its content: headers, interim answers, the sizes of chunks, trailers."""
CLOSED = "it closed the connection without an answer"

_INCOMPLETE = (http.client.IncompleteRead, urllib3.exceptions.IncompleteRead)
_CLOSED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
_TIMEOUTS = (TimeoutError, requests.exceptions.Timeout, urllib3.exceptions.TimeoutError)
_RUBBISH = (http.client.HTTPException, urllib3.exceptions.HTTPError, ValueError)
_WRAPPERS = (urllib3.exceptions.MaxRetryError, requests.RequestException)
"""Say nothing themselves, and are errors of many kinds."""


class ResponseClass(Enum):
    """What a status is about."""

    ACCEPTED = "2xx, the only acceptance there is"
    BODY = "the body is refused, and would be again"
    EITHER = "500: the originals answer it to a body they cannot read, others when they fail themselves"
    CONTROLLER = "anything else: the controller is at fault, everything is kept"


class Answer(NamedTuple):
    """Status, headers (their names in lower case) and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether it is an acceptance."""
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        """The beginning of the body, for people."""
        return self.body[:1000].decode("utf-8", "replace").strip()

    @property
    def retry_after(self) -> float | None:
        """Seconds the controller asks to wait, if it does."""
        return parse_retry_after(self.headers)

    def classify(self) -> ResponseClass:
        """What the status is about."""
        if self.ok:
            return ResponseClass.ACCEPTED
        if self.status in (400, 413, 422):
            return ResponseClass.BODY
        return ResponseClass.EITHER if self.status == 500 else ResponseClass.CONTROLLER

    def refusal(self) -> str:
        """A status that is no success, as a reason."""
        status = self.status
        if 300 <= status < 400:
            return f"it redirects (status {status}), which is not followed: is the URL right?"
        if status in (401, 403):
            return f"it does not let us in (status {status})"
        return {
            404: "it does not know the address (status 404): is the URL right?",
            429: "it asks us to wait (status 429)",
            500: "it fails on the request (status 500)",
        }.get(status, f"it answers with status {status}")


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds a controller asks to wait by its header ``retry-after`` (a number or a date); None where it does not."""
    text = headers.get("retry-after")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    if seconds != seconds:
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


class TransportError(GreenagentError):
    """A request that got no usable answer.

    ``kind`` is one word: refused, timeout, closed, name, unreachable, tls, rubbish,
    too-large, proxy, local, interrupted or other. The text is the reason, one line.
    """

    def __init__(self, kind: str, reason: str, *, hint: str = "", answer: Any = None) -> None:
        """``hint``: what it may mean; ``answer``: status, headers and beginning of an answer that was too large."""
        super().__init__(f"{reason} ({hint})" if hint else reason)
        self.kind = kind
        self.reason = reason
        self.hint = hint
        self.answer = answer

    @property
    def is_unreached(self) -> bool:
        """True when there was no connection to the controller, or none any more: any answer shows it to be over."""
        return self.kind in ("refused", "closed", "name", "unreachable", "tls", "proxy")


def explain(error: BaseException, *, url: str, has_client_certificate: bool, has_answered: bool) -> TransportError:
    """The reason behind what ``requests`` raised, which wraps the true cause several times.

    ``has_answered``: an answer came over this connection before, so its certificates were accepted.
    """
    chain = list(_causes(error))
    secure = url.startswith("https:")
    kind, reason = _tls(chain, has_client_certificate) or _network(chain) or _answer(chain, secure)
    if any(isinstance(cause, (requests.exceptions.ProxyError, urllib3.exceptions.ProxyError)) for cause in chain):
        return TransportError("proxy", f"the proxy of the environment: {reason}")
    hint = _closing_hint(secure, has_client_certificate) if reason == CLOSED and not has_answered else ""
    return TransportError(kind, reason, hint=hint)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything it wraps, outermost first."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting and len(seen) < 40:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            waiting += [*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__]


def _tls(chain: list[BaseException], has_client_certificate: bool) -> tuple[str, str] | None:
    for cause in chain:
        if not isinstance(cause, ssl.SSLError) or isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            continue
        reason = openssl_reason(cause)
        if "HANDSHAKE_FAILURE" in reason:
            if not has_client_certificate:
                return "tls", f"it wants a client certificate: {WORDING.give_certificate}"
            return "tls", f"it does not accept {WORDING.ours}, or no cipher suits both sides"
        if text := explain_tls(cause, WORDING):
            return "tls", text
        if "timed out" in str(cause):
            return "timeout", "it did not finish the TLS handshake in time"
        return "tls", f"TLS failed: {reason.replace('_', ' ').lower() or 'no reason given'}"
    return None


def _network(chain: list[BaseException]) -> tuple[str, str] | None:
    """What kept us from connecting, or ended the connection; by the first cause that says it, in this order."""
    for kinds, kind, reason in (
        (socket.gaierror, "name", "its host name cannot be resolved"),
        (ConnectionRefusedError, "refused", "it refuses the connection"),
        (requests.exceptions.ConnectTimeout, "timeout", "no connection in time"),
        (_INCOMPLETE, "closed", "it closed the connection in the middle of an answer"),
        (_CLOSED, "closed", CLOSED),
    ):
        if any(isinstance(cause, kinds) for cause in chain):
            return kind, reason
    for cause in chain:
        if isinstance(cause, OSError) and cause.errno is not None and not isinstance(cause, TimeoutError):
            if cause.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL):
                return "unreachable", "there is no route to it"
            return "local", f"the request could not be sent: {os.strerror(cause.errno)}"
    # Last, since urllib3 counts every failure to connect among the timeouts.
    if any(isinstance(cause, _TIMEOUTS) for cause in chain):
        return "timeout", "it did not answer in time"
    return None


def _answer(chain: list[BaseException], secure: bool) -> tuple[str, str]:
    """What is wrong with an answer that came."""
    for cause in chain:
        if isinstance(cause, ExcessError):
            return "rubbish", f"its answer has more than {MAX_OVERHEAD} bytes beside its content"
        if isinstance(cause, http.client.BadStatusLine) and not secure and "\x15\x03" in str(cause):
            return "rubbish", "it speaks TLS on this port: the URL must begin with https"
        if isinstance(cause, requests.exceptions.InvalidSchema):
            return "proxy", "the proxy named in the environment is of a kind that is not supported"
    if any(isinstance(cause, _RUBBISH) and not isinstance(cause, _WRAPPERS) for cause in chain):
        return "rubbish", "its answer is not HTTP"
    return "other", f"the request failed ({type(chain[-1]).__name__})"


def _closing_hint(secure: bool, has_certificate: bool) -> str:
    """What a connection closed before the first answer may mean."""
    if not secure:
        return "if it speaks TLS, the URL must begin with https"
    what = "does not accept our client certificate" if has_certificate else "wants a client certificate"
    return f"over TLS that may mean that it {what}"
