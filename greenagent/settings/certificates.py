"""Looks at certificate files before anything connects: each fault is told apart (protocol 1.4)."""

from __future__ import annotations

import base64
import os
import re
import ssl
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from greenagent.settings.models import SecuritySettings

_CERTIFICATE = re.compile(rb"-----BEGIN (TRUSTED |X509 )?CERTIFICATE-----")
_BLOCK = re.compile(r"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----([^-]*)-----END")
_KEY = re.compile(rb"-----BEGIN ([A-Z]+ )*PRIVATE KEY-----")


_REASONS = {
    "KEY_TOO_SMALL": "is not usable: its key is too short for this system",
    "MD_TOO_WEAK": "is not usable: it is signed with a hash that is too weak for this system",
}


@dataclass(frozen=True, slots=True)
class CertificateFault:
    """``key`` is the setting at fault; ``fatal`` faults make the controller unusable, others are warnings."""

    key: str
    text: str
    fatal: bool = True


class _EncryptedKey(Exception):
    pass


def check_certificates(security: SecuritySettings) -> tuple[CertificateFault, ...]:
    """Every fault of one controller's certificate files, in the order of the settings."""
    return tuple(_faults(security))


def _faults(security: SecuritySettings) -> Iterator[CertificateFault]:
    certificate, key = security.client_certificate, security.client_certificate_key
    usable = True
    for name, path, pattern, what in (
        ("client_certificate", certificate, _CERTIFICATE, "certificate"),
        ("client_certificate_key", key, _KEY, "private key"),
        ("certificate_authority", security.certificate_authority, _CERTIFICATE, "certificate"),
    ):
        text = _file_fault(path, pattern, what) if path is not None else ""
        if text:
            usable = usable and name == "certificate_authority"
            yield CertificateFault(name, text)
        elif name == "certificate_authority" and path is not None:
            yield from _authority_fault(path)
    if certificate is not None and key is None:
        yield CertificateFault("client_certificate", "needs client_certificate_key beside it")
    elif key is not None and certificate is None:
        yield CertificateFault("client_certificate_key", "is not used without client_certificate", fatal=False)
    elif certificate is not None and key is not None and usable:
        yield from _pair_fault(certificate, key)
        yield from _period_fault(certificate)
    if key is not None and _readable_by_others(key):
        yield CertificateFault(
            "client_certificate_key", f"{str(key)!r} can be read by every user, run: chmod o= {key}", fatal=False
        )


def _file_fault(path: Path, pattern: re.Pattern[bytes], what: str) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return f"there is no file {str(path)!r}"
    except OSError as error:
        return f"{str(path)!r} cannot be read: {error.strerror}"
    if not pattern.search(content):
        return f"{str(path)!r} is no PEM file with a {what}"
    return ""


def _authority_fault(path: Path) -> Iterator[CertificateFault]:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=str(path))
    except (ssl.SSLError, OSError) as error:
        yield CertificateFault("certificate_authority", f"{str(path)!r} {_damage(error)}")


def _pair_fault(certificate: Path, key: Path) -> Iterator[CertificateFault]:
    def refuse() -> str:
        raise _EncryptedKey

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_cert_chain(str(certificate), str(key), password=refuse)
    except _EncryptedKey:
        yield CertificateFault(
            "client_certificate_key", f"{str(key)!r} is protected by a password, store it without one"
        )
    except (ssl.SSLError, OSError) as error:
        if getattr(error, "reason", "") in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            text = f"{str(key)!r} does not match the certificate {str(certificate)!r}"
            yield CertificateFault("client_certificate_key", text)
        elif _certificate_damaged(certificate):
            yield CertificateFault("client_certificate", f"{str(certificate)!r} {_damage(error)}")
        else:
            yield CertificateFault("client_certificate_key", f"{str(key)!r} {_damage(error)}")


def _period_fault(certificate: Path) -> Iterator[CertificateFault]:
    """A clock may be wrong and the file may be replaced while the agent runs: only a warning."""
    period = _period(certificate)
    if period is None:
        return
    begin, end = period
    now = datetime.now(timezone.utc)
    text = ""
    if now > end:
        text = f"{str(certificate)!r} has expired on {end:%Y-%m-%d %H:%M:%S} UTC, make a new one"
    elif now < begin:
        text = f"{str(certificate)!r} is not valid before {begin:%Y-%m-%d %H:%M:%S} UTC, is this machine's clock right?"
    if text:
        yield CertificateFault("client_certificate", text, fatal=False)


def _period(path: Path) -> tuple[datetime, datetime] | None:
    """From when to when the first certificate of a file is valid; None when that cannot be read.

    ``ssl`` tells it of a peer's certificate only, so this walks the DER form (RFC 5280, section 4.1).
    """
    try:
        blocks = _BLOCK.search(path.read_text("ascii", "replace"))
        content = base64.b64decode(blocks.group(1)) if blocks is not None else b""
        fields = _parts(_parts(_parts(content)[0][1])[0][1])
        validity = fields[4 if fields[0][0] == 0xA0 else 3]  # the version is there or not
        begin, end = (_time(tag, text.decode("ascii")) for tag, text in _parts(validity[1]))
    except (OSError, ValueError, IndexError):
        return None
    return begin, end


def _parts(content: bytes) -> list[tuple[int, bytes]]:
    """Tags and contents of the DER values that follow each other. Raises IndexError."""
    found = []
    at = 0
    while at < len(content):
        tag, length = content[at], content[at + 1]
        at += 2
        if length & 0x80:
            count = length & 0x7F
            length = int.from_bytes(content[at : at + count], "big")
            at += count
        found.append((tag, content[at : at + length]))
        at += length
    return found


def _time(tag: int, text: str) -> datetime:
    """A UTCTime (two digits of the year, those below 50 are of this century) or GeneralizedTime. Raises ValueError."""
    if tag == 0x17:
        text = ("20" if text < "5" else "19") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)


def _certificate_damaged(path: Path) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=str(path))
    except (ssl.SSLError, OSError):
        return True
    return False


def _damage(error: OSError) -> str:
    """OpenSSL's own words tell people nothing, but for a few."""
    reason = str(getattr(error, "reason", None) or "")
    return next(
        (text for word, text in _REASONS.items() if word in reason), "is damaged: it cannot be decoded, store it anew"
    )


def _readable_by_others(path: Path) -> bool:
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:
        return False
