"""Why a request to a controller failed, in one line that names the failed check."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import requests
import urllib3

from greenagent.runtime.tls import explain as explain_tls
from greenagent.runtime.tls import openssl_reason
from greenagent.uplink.tls import WORDING
from greenagent.values.errors import GreenagentError

CLOSED = "it closed the connection without an answer"

_INCOMPLETE = (http.client.IncompleteRead, urllib3.exceptions.IncompleteRead)
_CLOSED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
_TIMEOUTS = (TimeoutError, requests.exceptions.Timeout, urllib3.exceptions.TimeoutError)
_RUBBISH = (http.client.HTTPException, urllib3.exceptions.HTTPError, ValueError)
_WRAPPERS = (urllib3.exceptions.MaxRetryError, requests.RequestException)
"""Say nothing themselves, and are errors of many kinds."""


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
