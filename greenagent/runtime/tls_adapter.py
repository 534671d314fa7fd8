"""Lets ``requests`` use our own TLS context, in the agent and in ``greenagent-ctl`` alike.

Its own would trust the roots it brings along, and from Python 3.13 on refuse certificates without a key identifier,
such as older versions of OpenSSL make.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any, Final

import requests.adapters
from urllib3.connection import HTTPConnection

SILENCE: Final = 30
"""Seconds without a sign of the peer's system after which it is asked for one, or what was sent counts as lost."""
_OPTIONS: Final = [
    *HTTPConnection.default_socket_options,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENCE // 3),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE * 1000),
]
"""A firewall or relay on the way may forget a connection without a word, and a machine may go: both are found out."""


class TlsAdapter(requests.adapters.HTTPAdapter):
    """Uses our TLS context alone, over connections that find out when the other side is gone."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._tls: dict[str, Any] = {} if context is None else {"ssl_context": context}
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **more: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, socket_options=_OPTIONS, **more, **self._tls)

    def proxy_manager_for(self, proxy: Any, **more: Any) -> Any:
        return super().proxy_manager_for(proxy, **more, **self._tls)

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, self._tls if host["scheme"] == "https" else {}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """The context has everything already."""
