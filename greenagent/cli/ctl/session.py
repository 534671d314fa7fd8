"""What carries the requests of ``greenagent-ctl``: a session with its TLS context, and why a request failed, in words.

A module of its own, imported when the first controller is asked: ``requests`` takes most of the program's start, and
neither help nor wrong arguments need it.
"""

from __future__ import annotations

import http.client
import ssl
from pathlib import Path
from typing import Any, Final

from greenagent.runtime.lean_requests import import_requests

import_requests()

import requests  # noqa: E402
from requests.utils import DEFAULT_CA_BUNDLE_PATH  # noqa: E402

from greenagent.cli.common import UsageError  # noqa: E402
from greenagent.runtime.tls import CertificateError, PemFile, Wording, client_context, explain  # noqa: E402
from greenagent.runtime.tls_adapter import TlsAdapter  # noqa: E402
from greenagent.values.errors import GreenagentError  # noqa: E402

CONNECT_TIMEOUT: Final = 10
READ_TIMEOUT: Final = 30
"""Seconds above what the controller was asked to wait."""
_WORDING: Final = Wording(
    theirs="its certificate",
    ours="our client certificate (--cert)",
    unknown_issuer="is unknown: name the authority with --ca",
    give_certificate="give --cert and --key",
    where=": does the URL begin with http there?",
)


class RequestError(GreenagentError):
    """A request got no answer; its text is the innermost reason."""


class Session:
    """Requests to one controller. Environment proxies and CA bundles are not looked at."""

    def __init__(self, is_tls: bool, headers: dict[str, str], ca: str, cert: str, key: str) -> None:
        """``ca``, ``cert``, ``key``: files, "" for none. Raises UsageError for those that cannot be used."""
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers.update(headers)
        self._may_be_tls = not is_tls
        context = _context(ca, cert, key)
        if is_tls:
            self._session.mount("https://", TlsAdapter(context))

    def ask(self, method: str, url: str, path: str, wait: float, **options: Any) -> requests.Response:
        """The answer for ``path`` below ``url``. Raises RequestError."""
        try:
            request = self._session.prepare_request(requests.Request(method, url, **options))
            # Put in here, since requests takes the id ".." for a step up even where it is escaped.
            base, mark, query = (request.url or "").partition("?")
            request.url = f"{base}{path}{mark}{query}"
            timeout = (CONNECT_TIMEOUT, READ_TIMEOUT + wait)
            answer = self._session.send(request, timeout=timeout, allow_redirects=False)
        except requests.RequestException as error:
            raise RequestError(_reason_of(error, self._may_be_tls)) from error
        self._may_be_tls = False
        return answer


def _context(ca: str, cert: str, key: str) -> ssl.SSLContext:
    """Trusts ``ca`` alone, or the roots that ``requests`` brings. A key may be in the file of ``cert``.

    Raises UsageError for files that cannot be used.
    """
    authority = PemFile("--ca", Path(ca)) if ca else PemFile("the roots of requests", Path(DEFAULT_CA_BUNDLE_PATH))
    certificate = PemFile("--cert", Path(cert)) if cert else None
    try:
        return client_context(
            authority, certificate, PemFile("--key", Path(key)) if key else certificate, system_roots=False
        )
    except CertificateError as error:
        raise UsageError(str(error)) from error


def _reason_of(error: BaseException, may_be_tls: bool) -> str:
    """The innermost reason of a failed request, in words; ``may_be_tls``: it was asked by http and never answered."""
    causes = [error]
    for cause in causes:  # requests and urllib3 wrap each other's errors several times
        following = getattr(cause, "reason", None) or cause.__cause__ or cause.__context__
        wrapped = [one for one in (following, *cause.args) if isinstance(one, BaseException)]
        causes += [one for one in wrapped[:1] if one not in causes]
    inner = causes[-1]
    if isinstance(inner, ssl.SSLError) and (reason := explain(inner, _WORDING)):
        return reason
    if isinstance(inner, (ConnectionResetError, http.client.BadStatusLine)):
        # A port that speaks TLS sends an alert, or just closes.
        hint = ": if it speaks TLS, the URL must begin with https" if may_be_tls else ""
        return f"it closed the connection{hint}"
    if isinstance(inner, ConnectionRefusedError):
        return "Connection refused: is it there, or at another --url (GREENAGENT_CTL_URL)?"
    message = getattr(inner, "verify_message", "") or getattr(inner, "strerror", "") or str(inner)
    if isinstance(error, requests.Timeout) and not message:
        message = "no answer in time"
    return " ".join(str(message).split()) or type(inner).__name__
