"""Lets ``requests`` use our own TLS context, in the agent and in ``greenagent-ctl`` alike.

Its own would trust the roots it brings along, and from Python 3.13 on refuse certificates without a key identifier,
such as older versions of OpenSSL make.
"""

from __future__ import annotations

import ssl
from typing import Any

import requests.adapters


class TlsAdapter(requests.adapters.HTTPAdapter):
    """Uses our TLS context alone: ``requests`` would add the roots it brings along."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._tls: dict[str, Any] = {} if context is None else {"ssl_context": context}
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **more: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **more, **self._tls)

    def proxy_manager_for(self, proxy: Any, **more: Any) -> Any:
        return super().proxy_manager_for(proxy, **more, **self._tls)

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, self._tls if host["scheme"] == "https" else {}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """The context has everything already."""
