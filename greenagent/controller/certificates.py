"""TLS of the controller: its certificate, whom it lets in, and why it refused somebody."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path
from typing import Final

from greenagent.runtime.tls import PemFile, Wording, explain, openssl_reason, server_context
from greenagent.runtime.tls_watch import TlsContext

LINGER_TIMEOUT: Final = 2.0
"""Seconds a refused client gets to read the reason and close."""

_WORDING: Final = Wording(
    theirs="its client certificate", ours="our certificate", unknown_issuer="is not in --client-ca"
)


def tls_context(certificate: Path, key: Path | None, client_authority: Path | None) -> ssl.SSLContext:
    """The context of ``--tls-cert``, ``--tls-key`` and ``--client-ca``. Raises CertificateError."""
    return server_context(
        PemFile("--tls-cert", certificate),
        PemFile("--tls-cert", certificate) if key is None else PemFile("--tls-key", key),
        None if client_authority is None else PemFile("--client-ca", client_authority),
    )


class ServedCertificates(TlsContext):
    """The context for new connections, made anew when its files change."""

    def __init__(self, certificate: Path, key: Path | None, client_authority: Path | None) -> None:
        """Raises CertificateError."""
        files = (certificate, key, client_authority)
        tls_context(*files)  # a controller whose files cannot be used does not start
        super().__init__(lambda: tls_context(*files), [path for path in files if path is not None])

    def wrap_socket(
        self, connection: socket.socket, server_side: bool = True, do_handshake_on_connect: bool = True
    ) -> ssl.SSLSocket:
        """As of ssl.SSLContext, with the files of now."""
        assert self.context is not None
        return self.context.wrap_socket(
            connection, server_side=server_side, do_handshake_on_connect=do_handshake_on_connect
        )


def close_gently(connection: socket.socket) -> None:
    """Lets a refused client read why, before the connection is closed.

    Closed at once, while what it sent is unread, it would get a reset and lose our last words. Over
    TLS 1.3 a client has its request on the way by then.
    """
    try:
        connection.settimeout(LINGER_TIMEOUT)
        connection.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + LINGER_TIMEOUT
        while time.monotonic() < deadline and connection.recv(65536):
            pass
    except OSError:
        pass  # it is gone already


def describe_refusal(error: OSError, limit: float) -> str:
    """Why a handshake failed, in one line; ``limit``: the seconds it had."""
    if isinstance(error, TimeoutError):
        return f"no handshake within {limit:g} s"
    if isinstance(error, ssl.SSLError) and (text := explain(error, _WORDING)):
        return text
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError)):
        return "it closed the connection during the handshake"
    return (openssl_reason(error).replace("_", " ") or error.strerror or str(error)).lower()
