"""Who may use ``/api``: loopback or a token, JSON posts, a known Host header.

See design, section 5 "Roles and the embedded controller".
"""

from __future__ import annotations

import hmac
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import falcon

from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.files import read_token
from greenagent.values import levels
from greenagent.values.errors import GreenagentError
from greenagent.values.text import HostNames, is_loopback

SHORT_TOKEN: Final = 16
"""Characters; a shorter one could be guessed."""
BROWSER_HEADERS: Final = (
    "HTTP_ORIGIN",
    "HTTP_SEC_FETCH_SITE",
    "HTTP_SEC_FETCH_MODE",
    "HTTP_REFERER",
    "HTTP_ACCEPT_LANGUAGE",
    "HTTP_COOKIE",
)
"""As the application finds them. No agent sends one of these; a page that was opened under a name of ours (DNS
rebinding) cannot leave all out."""


class TokenFile:
    """The token of ``--token-file``, read again when the file changes."""

    def __init__(self, path: Path, log: AgentLog) -> None:
        """Raises GreenagentError."""
        self._path = path
        self._log = log
        self._trouble = log.on_change()
        self._mark: tuple[int, ...] | None = None
        self._token = self._read(pipe_given=True)

    def __call__(self) -> str:
        """The token as it is now; the one before while the file cannot be used."""
        try:
            if self._found() != self._mark:
                self._token = self._read()
        except (GreenagentError, OSError) as error:
            self._trouble.warning(f"{error}; the token before is still asked for")
        else:
            self._trouble.resolved(f"the token file {self._path} can be used again")
        return self._token

    def _found(self) -> tuple[int, ...]:
        found = self._path.stat()
        if not stat.S_ISREG(found.st_mode):
            return ()  # the pipe given at the start can be read only once
        return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode

    def _read(self, pipe_given: bool = False) -> str:
        """``pipe_given`` at the start alone: later everybody here would wait for its writer. Raises as ``__init__``."""
        token = read_token(self._path, pipe_given=pipe_given)
        self._mark = self._found()
        if self._mark and self._mark[3] & stat.S_IROTH:
            self._log.warning(f"everybody here can read the token file {self._path}: chmod o-r {self._path}")
        if len(token) < SHORT_TOKEN:
            self._log.warning(f"the token in {self._path} is short: {SHORT_TOKEN} random characters cannot be guessed")
        return token


class AgentResource:
    """Base of the endpoints for agents; every other one is for people and under the rules."""


class Access:
    """Falcon middleware: the rules hold for ``/api``; agents are free to come."""

    def __init__(self, token: Callable[[], str] | None, names: tuple[str, ...], log: AgentLog) -> None:
        """``names``: host names this controller is reached by, beside this machine's own."""
        self._token = token
        self._refusals = log.rate_limited()
        self._names = HostNames(("localhost", socket.gethostname(), *names))

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, str]
    ) -> None:
        """Goes by the endpoint that was found, since one endpoint can be written in several ways."""
        if isinstance(resource, AgentResource):
            self._check_no_browser(req)
            return
        self._check_client(req)
        self._check_host(req)
        _check_page(req)
        if req.method in ("POST", "PUT", "PATCH", "DELETE"):
            content_type = (req.content_type or "").partition(";")[0].strip().lower()
            if content_type != "application/json":
                raise falcon.HTTPUnsupportedMediaType(description="posts need 'Content-Type: application/json'")

    def _check_no_browser(self, req: falcon.Request) -> None:
        """A web page on this machine must not take commands or give results in an agent's name."""
        is_page = any(name in req.env for name in BROWSER_HEADERS)
        if is_page or "Mozilla/" in (req.user_agent or ""):
            raise falcon.HTTPForbidden(description="this endpoint is for agents, not for web pages")

    def _check_client(self, req: falcon.Request) -> None:
        if self._token is None:
            if not is_loopback(req.env.get("REMOTE_ADDR", "")):
                raise falcon.HTTPForbidden(
                    description="/api serves this machine alone; start the controller with --token-file to open it"
                )
            if req.get_header("Forwarded") is not None or req.get_header("X-Forwarded-For") is not None:
                raise falcon.HTTPForbidden(
                    description="/api behind a proxy is open to everybody; start the controller with --token-file"
                )
            return
        if req.get_header("Authorization") is None:
            raise falcon.HTTPUnauthorized(
                description="this controller wants its token: give --token-file", challenges=["Bearer"]
            )
        scheme, _, given = (req.get_header("Authorization") or "").partition(" ")
        expected = self._token().encode()
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("utf-8", "replace"), expected):
            self._refusals.log(levels.WARNING, f"refused a wrong token from {req.env.get('REMOTE_ADDR', '')}")
            raise falcon.HTTPUnauthorized(
                description="the token is not that of this controller: look at --token-file", challenges=["Bearer"]
            )

    def _check_host(self, req: falcon.Request) -> None:
        """A web page can make a browser on this machine ask us under a name of its own (DNS rebinding).

        An address cannot be rebound, so only names have to be known.
        """
        name = self._names.unknown(req.get_header("Host") or "")
        if name is not None:
            raise falcon.HTTPForbidden(
                description=f"the Host {name!r} is not known here: "
                f"start the controller with --host-name {name or 'NAME'}"
            )


def _check_page(req: falcon.Request) -> None:
    """A web page of somebody else may not even ask: a browser keeps answers from it, but not what they do here."""
    origin, site = req.get_header("Origin"), req.get_header("Sec-Fetch-Site")
    is_own = origin is None or origin.partition("://")[2].lower() == (req.get_header("Host") or "").lower()
    if not is_own or site not in (None, "same-origin", "none"):
        raise falcon.HTTPForbidden(description="/api is not for web pages of others (Origin, Sec-Fetch-Site)")
