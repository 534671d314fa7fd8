"""All HTTP clients of one controller, for what one of them finds out about the way there and the others must know."""

from __future__ import annotations

from typing import Any, Final

from greenagent.uplink.answer import TransportError
from greenagent.uplink.http import HttpClient
from greenagent.uplink.tls import ControllerTls

_DEAD: Final = ("timeout", "closed", "unreachable")
"""Kinds of TransportError after which connections that rested are not trusted either."""


class HttpClients:
    """Makes the clients of one controller.

    Where a connection is found dead, those of the others that rest are closed at once: whatever forgot it (a relay, a
    machine that changed its address) has forgotten them too, and each would wait for its own time limit to notice. A
    request that is under way is left alone: it may be a poll that is answered with a command just now.
    """

    def __init__(self, url: str, tls: ControllerTls, gid: int, nid: int, **options: Any) -> None:
        """``options``: as for ``HttpClient``."""
        self._url = url
        self._tls = tls
        self._identity = (gid, nid)
        self._options = options
        self._clients: list[HttpClient] = []

    def open(self) -> HttpClient:
        """A client for one more purpose."""
        client = HttpClient(self._url, self._tls, *self._identity, failed=self._failed, **self._options)
        self._clients.append(client)
        return client

    def end(self, client: HttpClient) -> None:
        """Closes one that is needed no more."""
        self._clients.remove(client)
        client.close()

    def close(self) -> None:
        """Ends everything that is under way, and closes all."""
        for client in self._clients:
            client.abort()
            client.close()

    def _failed(self, error: TransportError) -> None:
        if error.kind in _DEAD:
            for client in self._clients:
                if not client.is_busy:
                    client.close()
