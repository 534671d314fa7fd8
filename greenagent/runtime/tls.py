"""TLS for every program here: certificate files, contexts made of them, and ssl errors in words.

Needs no hub, so that ``greenagent-ctl`` and ``--check`` use it as well as agent and controller.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from greenagent.runtime.plain_files import open_plain, read_open
from greenagent.values.errors import GreenagentError

CERTIFICATE: Final = "certificate"
PRIVATE_KEY: Final = "private key"
PEM_LIMIT: Final = 16 * 1024 * 1024
"""Bytes; the roots of a system take less than one mebibyte."""
_PEM_BLOCKS: Final = {
    CERTIFICATE: re.compile(rb"-----BEGIN (TRUSTED |X509 )?CERTIFICATE-----"),
    PRIVATE_KEY: re.compile(rb"-----BEGIN ([A-Z]+ )*PRIVATE KEY-----"),
}
_HASHED: Final = re.compile(r"[0-9a-f]{8}\.r?[0-9]+")
"""A certificate, or list of revoked ones, in a folder of OpenSSL's."""
_UNUSABLE: Final = {
    "KEY_TOO_SMALL": "is not usable: its key is too short for this system",
    "MD_TOO_WEAK": "is not usable: it is signed with a hash that is too weak for this system",
}

NOT_YET_VALID_CODE: Final = 9
EXPIRED_CODE: Final = 10
WRONG_NAME_CODES: Final = frozenset({62, 64})
UNKNOWN_ISSUER_CODES: Final = frozenset({2, 18, 19, 20, 21, 24, 27})
"""Codes of OpenSSL that mean: no trusted authority vouches for this certificate."""

_REASONS: Final = {
    "CERTIFICATE_REQUIRED": "it wants a client certificate: {give_certificate}",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no client certificate",
    "HTTP_REQUEST": "it speaks plain HTTP on this TLS port: its URL must begin with https",
    "WRONG_VERSION_NUMBER": "it does not speak TLS{where}",
    "UNKNOWN_PROTOCOL": "it does not speak TLS{where}",
    "RECORD_LAYER_FAILURE": "it does not speak TLS{where}",
    "PROTOCOL_VERSION": "it speaks no TLS version from 1.2 on",
    "UNSUPPORTED_PROTOCOL": "it speaks no TLS version from 1.2 on",
    "ALERT_UNKNOWN_CA": "it does not accept {ours}: it does not know the issuer",
    "ALERT_CERTIFICATE_EXPIRED": "it does not accept {ours}: it has expired",
    "ALERT_CERTIFICATE_REVOKED": "it does not accept {ours}: it was revoked",
    "ALERT_CERTIFICATE_UNKNOWN": "it does not accept {ours}: it gives no closer reason",
    "ALERT_BAD_CERTIFICATE": "it does not accept {ours}: for another name, not valid yet, or unreadable",
    "ALERT_UNSUPPORTED_CERTIFICATE": "it does not accept {ours}: it is of a kind that is not supported there",
    "ALERT_ACCESS_DENIED": "it does not accept {ours}: access is denied",
    "ALERT_DECRYPT_ERROR": "it does not accept {ours}: its signature did not verify",
}
"""What OpenSSL's names for errors of a handshake mean; the braces are filled from ``Wording``."""


class PemFile(NamedTuple):
    """A file and the setting or option that names it."""

    setting: str
    path: Path

    def __str__(self) -> str:
        return f"{self.setting} {self.path}"


class CertificateError(GreenagentError):
    """A certificate or key file that cannot be used: ``fault`` says why, ``other`` is the file it does not match."""

    def __init__(self, file: PemFile, fault: str, other: PemFile | None = None) -> None:
        super().__init__(f"{file} {fault}" if other is None else f"{file} {fault} {other}")
        self.file = file
        self.fault = fault
        self.other = other


class Wording(NamedTuple):
    """How a program speaks of both sides' certificates, and what it tells people to do."""

    theirs: str
    ours: str
    unknown_issuer: str
    give_certificate: str = ""
    where: str = ""


def client_context(
    authority: PemFile | None,
    certificate: PemFile | None = None,
    key: PemFile | None = None,
    *,
    system_roots: bool = True,
) -> ssl.SSLContext:
    """TLS 1.2 or newer; names and chains are verified against ``authority`` and, with ``system_roots``, the system's.

    Raises CertificateError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # As in the original, whatever certificate is named as authority is trusted, also an
    # intermediate one or a server's own.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if system_roots:
        _check_system_roots()
        context.load_default_certs()
    if authority is not None:
        load_authority(context, authority)
    if certificate is not None and key is not None:
        load_pair(context, certificate, key)
    return context


def server_context(certificate: PemFile, key: PemFile, client_authority: PemFile | None = None) -> ssl.SSLContext:
    """TLS 1.2 or newer; with ``client_authority`` every client must show a certificate of it.

    Raises CertificateError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_pair(context, certificate, key)
    if client_authority is not None:
        load_authority(context, client_authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def check_pem(file: PemFile, kind: str) -> None:
    """Looks whether a file can be read and holds a ``kind``. Raises CertificateError."""
    with opened_pem(file, kind):
        pass


@contextmanager
def opened_pem(file: PemFile, kind: str) -> Iterator[str]:
    """A path under which OpenSSL finds the very file that was seen to hold a ``kind``. Raises CertificateError.

    Under its own name there may be another by then, and of a pipe it would wait for a writer.
    """
    try:
        descriptor = open_plain(file.path)
    except FileNotFoundError as error:
        raise CertificateError(file, "does not exist") from error
    except OSError as error:
        raise CertificateError(file, f"cannot be read: {error.strerror}") from error
    try:
        try:
            content = read_open(descriptor, file.path, PEM_LIMIT)
        except OSError as error:
            raise CertificateError(file, f"cannot be read: {error.strerror}") from error
        if not _PEM_BLOCKS[kind].search(content):
            raise CertificateError(file, f"is no PEM file with a {kind}")
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _check_system_roots() -> None:
    """What OpenSSL reads by itself must be no pipe either; a file that is missing does not matter to it.

    It looks into its folders at each handshake, for names made of a digest.
    """
    places = ssl.get_default_verify_paths()
    found = [Path(os.environ.get(places.openssl_cafile_env, places.openssl_cafile))]
    for folder in os.environ.get(places.openssl_capath_env, places.openssl_capath).split(os.pathsep):
        with suppress(OSError):
            found += [Path(folder, name) for name in os.listdir(folder or ".") if _HASHED.fullmatch(name)]
    for path in found:
        if path.is_fifo():
            raise CertificateError(PemFile("the system's root certificates", path), "cannot be read: it is a pipe")


def load_authority(context: ssl.SSLContext, file: PemFile) -> None:
    """Makes a context trust the certificates of a file. Raises CertificateError."""
    with opened_pem(file, CERTIFICATE) as path:
        try:
            context.load_verify_locations(cafile=path)
        except OSError as error:
            raise CertificateError(file, _damage(error)) from error


def load_pair(context: ssl.SSLContext, certificate: PemFile, key: PemFile) -> None:
    """Makes a context show a certificate (both may be one file). Raises CertificateError for the one at fault."""

    def no_password() -> NoReturn:
        # Without this OpenSSL would ask on the terminal, and the program would hang.
        raise CertificateError(key, "is protected by a pass phrase, store it without one")

    with opened_pem(certificate, CERTIFICATE) as chain, opened_pem(key, PRIVATE_KEY) as private:
        try:
            context.load_cert_chain(chain, private, no_password)
        except OSError as error:
            if "MISMATCH" in openssl_reason(error):
                raise CertificateError(key, "does not match", certificate) from error
            # OpenSSL does not say which of the two it cannot decode.
            load_authority(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate)
            raise CertificateError(key, _damage(error)) from error


def fingerprint(path: Path) -> tuple[int, int, int] | None:
    """Changes when a file is replaced or rewritten; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def explain(error: ssl.SSLError, words: Wording) -> str:
    """Why a handshake failed, in one line; empty where nothing better than OpenSSL's own words is known."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{words.theirs}{_refusal(error, words)}"
    reason = openssl_reason(error)
    return next((text for word, text in _REASONS.items() if word in reason), "").format(**words._asdict())


def openssl_reason(error: BaseException) -> str:
    """OpenSSL's name of an error, such as ``WRONG_VERSION_NUMBER``; empty for any other error."""
    return str(getattr(error, "reason", None) or "").replace(" ", "_").upper()


def _refusal(error: ssl.SSLCertVerificationError, words: Wording) -> str:
    if error.verify_code == EXPIRED_CODE:
        return " has expired"
    if error.verify_code == NOT_YET_VALID_CODE:
        return " is not valid yet (is the clock right?)"
    if error.verify_code in WRONG_NAME_CODES:
        return " is for another host name than the URL's"
    if error.verify_code in UNKNOWN_ISSUER_CODES:
        return f"'s issuer {words.unknown_issuer}"
    return f" is refused: {error.verify_message}"


def _damage(error: OSError) -> str:
    """What is wrong with a file that OpenSSL does not take; its own words tell people nothing, but for a few."""
    reason = openssl_reason(error)
    undecodable = "is damaged: it cannot be decoded, store it anew"
    return next((text for word, text in _UNUSABLE.items() if word in reason), undecodable)
