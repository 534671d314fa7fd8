"""The HTTP side of ``greenagent-ctl``: one session to a controller's ``/api``, errors as single sentences."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from greenagent import __version__
from greenagent.cli.common import UsageError
from greenagent.cli.ctl.exit_codes import FAILED
from greenagent.runtime.files import read_token
from greenagent.runtime.tls import CertificateError, PemFile, Wording, client_context, explain
from greenagent.runtime.tls_adapter import TlsAdapter
from greenagent.values.errors import GreenagentError
from greenagent.values.text import zone_fault

DEFAULT_URL: Final = "http://127.0.0.1:8966"
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


class ControllerError(GreenagentError):
    """The controller is away or refuses; ``status`` is the HTTP status, 0 where there was no answer."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status
        self.exit_code = FAILED


class Client:
    """Talks to ``/api``. Environment proxies and CA bundles are not looked at."""

    def __init__(self, url: str, ca: str = "", cert: str = "", key: str = "", token_file: str = "") -> None:
        """``ca``, ``cert``, ``key``, ``token_file``: files, "" for none. Raises UsageError for what cannot be used."""
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            (parts.hostname or "").encode("idna")
        except ValueError:  # such as http://[::1 and http://a..b
            usable = False
        if not usable:
            raise UsageError(f"--url {url!r} is not an http or https address")
        if fault := zone_fault(parts.hostname or ""):
            raise UsageError(f"--url {url!r} {fault}")
        self.url = url.rstrip("/")
        self._may_be_tls = not self.url.lower().startswith("https:")
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["User-Agent"] = f"greenagent-ctl/{__version__}"
        if key and not cert:
            raise UsageError("--key needs --cert")
        context = _context(ca, cert, key)
        if not self._may_be_tls:
            self._session.mount("https://", TlsAdapter(context))
        if token_file:
            try:
                token = read_token(Path(token_file), pipe_given=True)
            except GreenagentError as error:
                raise UsageError(f"--token-file: {error}") from error
            self._session.headers["Authorization"] = f"Bearer {token}"

    def get(self, path: str, wait: float = 0.0, **parameters: Any) -> dict[str, Any]:
        """The JSON object at ``/api/PATH``. Raises ControllerError."""
        if wait:
            parameters["wait"] = wait
        return self._ask("GET", path, wait, params=parameters)

    def post(self, path: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """Posts a JSON object to ``/api/PATH``; returns the answer. Raises ControllerError and UsageError."""
        try:
            body = json.dumps(value, allow_nan=False)
        except (RecursionError, ValueError) as error:
            raise UsageError(f"the command cannot be sent as JSON: {error}") from error
        return self._ask("POST", path, 0.0, data=body, headers={"Content-Type": "application/json"})

    def _ask(self, method: str, path: str, wait: float, **options: Any) -> dict[str, Any]:
        timeout = (CONNECT_TIMEOUT, READ_TIMEOUT + wait)
        try:
            request = self._session.prepare_request(requests.Request(method, f"{self.url}/api/", **options))
            # Put in here, since requests takes the id ".." for a step up even where it is escaped.
            base, mark, query = (request.url or "").partition("?")
            request.url = f"{base}{path}{mark}{query}"
            answer = self._session.send(request, timeout=timeout, allow_redirects=False)
        except requests.RequestException as error:
            reason = reason_of(error, self._may_be_tls)
            raise ControllerError(f"cannot reach the controller at {self.url}: {reason}") from error
        self._may_be_tls = False
        try:
            value = answer.json()
        except (RecursionError, ValueError):
            value = None
        status = answer.status_code
        if status >= 300:
            given = value.get("error") if isinstance(value, dict) else None
            reason = given or answer.reason or "no reason given"
            raise ControllerError(f"the controller at {self.url} refuses ({status}): {reason}", status)
        if not isinstance(value, dict):
            raise ControllerError(f"what answers at {self.url} is no controller", status)
        return value


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


def job_path(job_id: str) -> str:
    """Where a job is below ``/api/``, whatever its id is made of."""
    name = quote(job_id, safe="")
    return f"jobs/{name.replace('.', '%2E') if name in ('.', '..') else name}"


def reason_of(error: BaseException, may_be_tls: bool) -> str:
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
    message = getattr(inner, "verify_message", "") or getattr(inner, "strerror", "") or str(inner)
    if isinstance(error, requests.Timeout) and not message:
        message = "no answer in time"
    return " ".join(str(message).split()) or type(inner).__name__
