"""TLS of the controller: its certificate, whom it lets in, and why it refused somebody."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from greenagent.runtime.tls import PemFile, Wording, explain, openssl_reason, server_context
from greenagent.runtime.tls_watch import TlsContext

_WORDING: Final = Wording(
    theirs="its client certificate", ours="our certificate", unknown_issuer="is not in --client-ca"
)


def served_context(certificate: Path, key: Path | None, client_authority: Path | None) -> TlsContext:
    """The context of ``--tls-cert``, ``--tls-key`` and ``--client-ca``, made anew when the files change.

    Raises CertificateError.
    """
    certificate_file = PemFile("--tls-cert", certificate)
    key_file = PemFile("--tls-key", key) if key is not None else certificate_file
    authority_file = PemFile("--client-ca", client_authority) if client_authority is not None else None

    def make() -> ssl.SSLContext:
        return server_context(certificate_file, key_file, authority_file)

    make()  # a controller whose files cannot be used does not start
    return TlsContext(make, [path for path in (certificate, key, client_authority) if path is not None])


def describe_refusal(error: OSError, limit: float) -> str:
    """Why a handshake failed, in one line; ``limit``: the seconds it had."""
    if isinstance(error, TimeoutError):
        return f"no handshake within {limit:g} s"
    if isinstance(error, ssl.SSLError) and (text := explain(error, _WORDING)):
        return text
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError)):
        return "it closed the connection during the handshake"
    return (openssl_reason(error).replace("_", " ") or error.strerror or str(error)).lower()
