"""TLS of the controller: its certificate, whom it lets in, and why it refused somebody.

Files that are replaced on disk are used for new connections soon after, without a restart.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from pathlib import Path
from typing import Final, NoReturn

import gevent

from greenagent.runtime.agent_log import AgentLog
from greenagent.values.errors import GreenagentError

CHECK_INTERVAL: Final = 10.0
"""Seconds between looks at the files."""
LAST_WORDS: Final = 2.0
"""Seconds a refused client gets to read the reason and close."""

_UNKNOWN_ISSUER: Final = frozenset({2, 18, 19, 20, 21, 24, 27})
"""Codes of OpenSSL that mean: ``--client-ca`` does not vouch for this certificate."""
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_REASONS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no client certificate",
    "HTTP_REQUEST": "it speaks plain HTTP on this TLS port: its URL must begin with https",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "UNSUPPORTED_PROTOCOL": "it speaks no TLS version from 1.2 on",
    "ALERT_UNKNOWN_CA": "it does not know the issuer of our certificate",
    "ALERT_CERTIFICATE_EXPIRED": "it finds our certificate expired",
    "ALERT_BAD_CERTIFICATE": "it does not accept our certificate: for another name, not valid yet, or unreadable",
    "ALERT_CERTIFICATE_UNKNOWN": "it does not accept our certificate and gives no closer reason",
}


class CertificateError(GreenagentError):
    """A certificate or key file that cannot be used."""


def tls_context(certificate: Path, key: Path | None, client_authority: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or newer; with ``client_authority`` every client must show a certificate of it.

    Raises CertificateError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    key_file, key_option = (certificate, "--tls-cert") if key is None else (key, "--tls-key")
    _check("--tls-cert", certificate, "CERTIFICATE")
    _check(key_option, key_file, "PRIVATE KEY")

    def no_password() -> NoReturn:
        # Without this OpenSSL would ask on the terminal and the controller would hang.
        raise CertificateError(f"{key_option} {key_file} is protected by a pass phrase: store it without one")

    try:
        context.load_cert_chain(certificate, key_file, no_password)
    except ssl.SSLError as error:
        if "MISMATCH" in str(error.reason or ""):
            raise CertificateError(f"{key_option} {key_file} does not match --tls-cert {certificate}") from error
        raise CertificateError(f"--tls-cert {certificate} or its key {key_file} is damaged") from error
    if client_authority is not None:
        _check("--client-ca", client_authority, "CERTIFICATE")
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(client_authority)
        except ssl.SSLError as error:
            raise CertificateError(f"--client-ca {client_authority} is damaged") from error
    return context


def _check(option: str, path: Path, expected: str) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{option} {path} cannot be read: {error.strerror}") from error
    if b"-----BEGIN " not in content or f"{expected}-----".encode() not in content:
        raise CertificateError(f"{option} {path} is no PEM file with a {expected.lower()}")


class ServedCertificates:
    """The context for new connections, made anew when its files change."""

    def __init__(self, certificate: Path, key: Path | None, client_authority: Path | None) -> None:
        """Raises CertificateError."""
        self._files = (certificate, key, client_authority)
        self._marks = self._look()
        self._context = tls_context(*self._files)

    def wrap_socket(
        self, connection: socket.socket, server_side: bool = True, do_handshake_on_connect: bool = True
    ) -> ssl.SSLSocket:
        """As of ssl.SSLContext, with the files of now."""
        return self._context.wrap_socket(
            connection, server_side=server_side, do_handshake_on_connect=do_handshake_on_connect
        )

    def watch(self, agent_log: AgentLog) -> None:
        """Body of a service: looks for ever. Files that cannot be used leave the old ones in use, said once."""
        trouble = agent_log.on_change()
        while True:
            gevent.sleep(CHECK_INTERVAL)
            marks = self._look()
            if marks == self._marks:
                continue
            try:
                self._context = tls_context(*self._files)
            except CertificateError as error:
                trouble.warning(f"{error}; the certificates read before stay in use")
                continue
            self._marks = marks
            trouble.resolved("the certificate files can be used again")
            agent_log.info("certificate files were replaced and are used for new connections")

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_mark(path) for path in self._files if path is not None]


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def close_gently(connection: socket.socket) -> None:
    """Lets a refused client read why, before the connection is closed.

    Closed at once, while what it sent is unread, it would get a reset and lose our last words. Over
    TLS 1.3 a client has its request on the way by then.
    """
    try:
        connection.settimeout(LAST_WORDS)
        connection.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + LAST_WORDS
        while time.monotonic() < deadline and connection.recv(65536):
            pass
    except OSError:
        pass  # it is gone already


def describe_refusal(error: OSError, limit: float) -> str:
    """Why a handshake failed, in one line; ``limit``: the seconds it had."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == _EXPIRED:
            return "its client certificate has expired"
        if error.verify_code == _NOT_YET_VALID:
            return "its client certificate is not valid yet"
        if error.verify_code in _UNKNOWN_ISSUER:
            return "its client certificate's issuer is not in --client-ca"
        return f"its client certificate is refused: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return f"no handshake within {limit:g} s"
    reason = str(getattr(error, "reason", None) or "").replace(" ", "_").upper()
    for word, text in _REASONS.items():
        if word in reason:
            return text
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError)):
        return "it closed the connection during the handshake"
    return (reason.replace("_", " ") or error.strerror or str(error)).lower()
