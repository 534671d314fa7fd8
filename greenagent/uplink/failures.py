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

from greenagent.values.errors import GreenagentError

UNKNOWN_ISSUER_CODES = frozenset({2, 18, 19, 20, 21, 27})
"""Codes of OpenSSL that mean: no trust root vouches for this certificate."""
NOT_YET_VALID_CODE = 9
EXPIRED_CODE = 10
WRONG_NAME_CODES = frozenset({62, 64})
CLOSED = "it closed the connection without an answer"

_PLAIN_HTTP_REASONS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE")
_CLIENT_CERTIFICATE_ALERTS = {
    "ALERT_UNKNOWN_CA": "it does not know the issuer",
    "ALERT_CERTIFICATE_EXPIRED": "it has expired",
    "ALERT_CERTIFICATE_REVOKED": "it was revoked",
    "ALERT_CERTIFICATE_UNKNOWN": "it gives no closer reason",
    "ALERT_BAD_CERTIFICATE": "it cannot be read or verified",
    "ALERT_UNSUPPORTED_CERTIFICATE": "it is of a kind that is not supported there",
    "ALERT_ACCESS_DENIED": "access is denied",
    "ALERT_DECRYPT_ERROR": "its signature did not verify",
}


class TransportError(GreenagentError):
    """A request that got no usable answer.

    ``kind`` is one word: refused, timeout, closed, name, unreachable, tls, plain-http, rubbish,
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
        return self.kind in ("refused", "closed", "name", "unreachable", "tls", "plain-http", "proxy")


def explain(error: BaseException, *, url: str, has_client_certificate: bool, proven: bool) -> TransportError:
    """The reason behind what ``requests`` raised, which wraps the true cause several times.

    ``proven``: an answer came over this session before, so its certificates were accepted.
    """
    chain = list(_causes(error))
    secure = url.startswith("https:")
    verdict = (
        _certificate(chain)
        or _alert(chain, has_client_certificate)
        or _network(chain)
        or _closed(chain)
        or _rubbish(chain, secure)
        or _local(chain)
        or ("other", f"the request failed ({type(chain[-1]).__name__})")
    )
    if any(isinstance(cause, (requests.exceptions.ProxyError, urllib3.exceptions.ProxyError)) for cause in chain):
        return TransportError("proxy", f"the proxy of the environment: {verdict[1]}")
    hint = _closing_hint(secure, has_client_certificate) if verdict[1] == CLOSED and not proven else ""
    return TransportError(*verdict, hint=hint)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything it wraps, outermost first."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting and len(seen) < 40:
        cause = waiting.pop(0)
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting.extend(argument for argument in cause.args if isinstance(argument, BaseException))
        reason = getattr(cause, "reason", None)
        waiting.extend([reason if isinstance(reason, BaseException) else None, cause.__cause__, cause.__context__])


def _certificate(chain: list[BaseException]) -> tuple[str, str] | None:
    for cause in chain:
        if isinstance(cause, ssl.SSLCertVerificationError):
            code = cause.verify_code
            if code == EXPIRED_CODE:
                return "tls", "its certificate has expired"
            if code == NOT_YET_VALID_CODE:
                return "tls", "its certificate is not valid yet (is the clock right?)"
            if code in WRONG_NAME_CODES:
                return "tls", "its certificate is for another host name than the URL's"
            if code in UNKNOWN_ISSUER_CODES:
                return "tls", (
                    "its certificate's issuer is unknown: neither a root of the system nor in certificate_authority"
                )
            return "tls", f"its certificate is refused: {cause.verify_message}"
    return None


def _alert(chain: list[BaseException], has_client_certificate: bool) -> tuple[str, str] | None:
    for cause in chain:
        if not isinstance(cause, ssl.SSLError) or isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            continue
        reason = str(getattr(cause, "reason", None) or "").replace(" ", "_").upper()
        if any(word in reason for word in _PLAIN_HTTP_REASONS):
            return "plain-http", "it does not speak TLS on this port (plain HTTP on the other side?)"
        if "CERTIFICATE_REQUIRED" in reason or ("HANDSHAKE_FAILURE" in reason and not has_client_certificate):
            return "tls", "it wants a client certificate: set client_certificate and client_certificate_key"
        for word, why in _CLIENT_CERTIFICATE_ALERTS.items():
            if word in reason:
                return "tls", f"it does not accept our client certificate: {why}"
        if "HANDSHAKE_FAILURE" in reason:
            return "tls", "it does not accept our client certificate, or no cipher suits both sides"
        if "PROTOCOL_VERSION" in reason or "UNSUPPORTED_PROTOCOL" in reason:
            return "tls", "it speaks no TLS version from 1.2 on"
        if "timed out" in str(cause):
            return "timeout", "it did not finish the TLS handshake in time"
        return "tls", f"TLS failed: {reason.replace('_', ' ').lower() or 'no reason given'}"
    return None


def _network(chain: list[BaseException]) -> tuple[str, str] | None:
    for cause in chain:
        if isinstance(cause, socket.gaierror):
            return "name", "its host name cannot be resolved"
        if isinstance(cause, ConnectionRefusedError):
            return "refused", "it refuses the connection"
        if isinstance(cause, requests.exceptions.ConnectTimeout):
            return "timeout", "no connection in time"
        if isinstance(cause, OSError) and cause.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL):
            return "unreachable", "there is no route to it"
    return None


def _closing_hint(secure: bool, has_certificate: bool) -> str:
    """What a connection closed before the first answer may mean."""
    if not secure:
        return "if it speaks TLS, the URL must begin with https"
    what = "does not accept our client certificate" if has_certificate else "wants a client certificate"
    return f"over TLS that may mean that it {what}"


def _closed(chain: list[BaseException]) -> tuple[str, str] | None:
    for cause in chain:
        if isinstance(cause, (http.client.IncompleteRead, urllib3.exceptions.IncompleteRead)):
            return "closed", "it closed the connection in the middle of an answer"
        if isinstance(cause, (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            return "closed", CLOSED
    for cause in chain:
        if isinstance(cause, (TimeoutError, requests.exceptions.Timeout, urllib3.exceptions.TimeoutError)):
            return "timeout", "it did not answer in time"
    return None


def _rubbish(chain: list[BaseException], secure: bool) -> tuple[str, str] | None:
    for cause in chain:
        if isinstance(cause, http.client.BadStatusLine) and not secure and "\x15\x03" in str(cause):
            return "rubbish", "it speaks TLS on this port: the URL must begin with https"
    for cause in chain:
        if isinstance(cause, http.client.HTTPException) or (
            isinstance(cause, (urllib3.exceptions.HTTPError, requests.exceptions.ContentDecodingError))
            and not isinstance(cause, urllib3.exceptions.MaxRetryError)
        ):
            return "rubbish", "its answer is not HTTP"
    return None


def _local(chain: list[BaseException]) -> tuple[str, str] | None:
    for cause in chain:
        if isinstance(cause, requests.exceptions.InvalidSchema):
            return "proxy", "the proxy named in the environment is of a kind that is not supported"
        if isinstance(cause, OSError) and cause.errno is not None:
            return "local", f"the request could not be sent: {os.strerror(cause.errno)}"
    return None
