"""Who may use ``/api``: loopback or a token, JSON posts, a known Host header.

See design, section 5 "Roles and the embedded controller".
"""

from __future__ import annotations

import hmac
import ipaddress
import socket

import falcon


class AgentResource:
    """Base of the endpoints for agents; every other one is for people and under the rules."""


class Access:
    """Falcon middleware: the rules hold for ``/api``; agents are free to come."""

    def __init__(self, token: str | None, names: tuple[str, ...]) -> None:
        """``names``: host names this controller is reached by, beside this machine's own."""
        self._token = token
        own = ("localhost", socket.gethostname())
        self._names = frozenset(name.lower().rstrip(".") for name in (*own, *names))

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, str]
    ) -> None:
        """Goes by the endpoint that was found, since one endpoint can be written in several ways."""
        if isinstance(resource, AgentResource):
            self._check_no_browser(req)
            return
        self._check_client(req)
        self._check_host(req)
        if req.method in ("POST", "PUT", "PATCH", "DELETE"):
            content_type = (req.content_type or "").partition(";")[0].strip().lower()
            if content_type != "application/json":
                raise falcon.HTTPUnsupportedMediaType(description="posts need 'Content-Type: application/json'")

    def _check_no_browser(self, req: falcon.Request) -> None:
        """A web page on this machine must not take commands or give results in an agent's name."""
        if req.get_header("Origin") is not None or req.get_header("Sec-Fetch-Site") is not None:
            raise falcon.HTTPForbidden(description="this endpoint is for agents, not for web pages")

    def _check_client(self, req: falcon.Request) -> None:
        if self._token is None:
            address = _address(req.env.get("REMOTE_ADDR", "").partition("%")[0])
            if address is None or not address.is_loopback:
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
        expected = self._token.encode()
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("utf-8", "replace"), expected):
            raise falcon.HTTPUnauthorized(
                description="the token is not that of this controller: look at --token-file", challenges=["Bearer"]
            )

    def _check_host(self, req: falcon.Request) -> None:
        """A web page can make a browser on this machine ask us under a name of its own (DNS rebinding).

        An address cannot be rebound, so only names have to be known.
        """
        host = (req.get_header("Host") or "").strip().lower()
        name = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
        if name.rstrip(".") in self._names or _address(name) is not None:
            return
        raise falcon.HTTPForbidden(
            description=f"the Host {name!r} is not known here: start the controller with --host-name {name or 'NAME'}"
        )


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
