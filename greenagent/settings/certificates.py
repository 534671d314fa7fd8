"""Looks at certificate files before anything connects: each fault is told apart (protocol 1.4)."""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from greenagent.runtime.tls import (
    CERTIFICATE,
    PRIVATE_KEY,
    CertificateError,
    PemFile,
    check_pem,
    load_authority,
    load_pair,
)
from greenagent.settings.models import SecuritySettings


@dataclass(frozen=True, slots=True)
class CertificateFault:
    """``key`` is the setting at fault; ``fatal`` faults make the controller unusable, others are warnings."""

    key: str
    text: str
    fatal: bool = True


def check_certificates(security: SecuritySettings) -> tuple[CertificateFault, ...]:
    """Every fault of one controller's certificate files, in the order of the settings."""
    return tuple(_faults(security))


def _faults(security: SecuritySettings) -> Iterator[CertificateFault]:
    certificate, key, authority = (
        PemFile(name, path) if path is not None else None
        for name, path in (
            ("client_certificate", security.client_certificate),
            ("client_certificate_key", security.client_certificate_key),
            ("certificate_authority", security.certificate_authority),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unusable = [
        *_try(certificate, lambda file: check_pem(file, CERTIFICATE)),
        *_try(key, lambda file: check_pem(file, PRIVATE_KEY)),
    ]
    yield from unusable
    yield from _try(authority, lambda file: load_authority(context, file))
    if certificate is not None and key is None:
        yield CertificateFault("client_certificate", "needs client_certificate_key beside it")
    elif key is not None and certificate is None:
        yield CertificateFault("client_certificate_key", "is not used without client_certificate", fatal=False)
    elif certificate is not None and key is not None and not unusable:
        yield from _try(key, lambda file: load_pair(context, certificate, file))
        yield from _period_fault(certificate.path)
    if key is not None and _readable_by_others(key.path):
        yield CertificateFault(
            "client_certificate_key", f"{str(key.path)!r} can be read by every user, run: chmod o= {key.path}", False
        )


def _try(file: PemFile | None, use: Callable[[PemFile], None]) -> Iterator[CertificateFault]:
    """What is wrong with a file, if it is named, as far as ``use`` of it tells."""
    if file is None:
        return
    try:
        use(file)
    except CertificateError as error:
        path = str(error.file.path)
        if isinstance(error.__cause__, FileNotFoundError):
            text = f"there is no file {path!r}"
        else:
            text = f"{path!r} {error.fault}"
        if error.other is not None:
            text += f" the certificate {str(error.other.path)!r}"
        yield CertificateFault(error.file.setting, text)


def _period_fault(path: Path) -> Iterator[CertificateFault]:
    """A clock may be wrong and the file may be replaced while the agent runs: only a warning."""
    period = _period(path)
    if period is None:
        return
    begin, end = period
    now = datetime.now(timezone.utc)
    text = ""
    if now > end:
        text = f"{str(path)!r} has expired on {end:%Y-%m-%d %H:%M:%S} UTC, make a new one"
    elif now < begin:
        text = f"{str(path)!r} is not valid before {begin:%Y-%m-%d %H:%M:%S} UTC, is this machine's clock right?"
    if text:
        yield CertificateFault("client_certificate", text, fatal=False)


def _period(path: Path) -> tuple[datetime, datetime] | None:
    """From when to when the first certificate of a file is valid; None when that cannot be read.

    ``ssl`` tells it of a peer's certificate only; what its own tests read a file with is there from 2.6 to 3.14.
    """
    try:
        decode: Any = ssl._ssl._test_decode_cert  # type: ignore[attr-defined]
        found = decode(str(path))
        begin, end = (ssl.cert_time_to_seconds(found[name]) for name in ("notBefore", "notAfter"))
    except (AttributeError, KeyError, OSError, ValueError):
        return None
    return datetime.fromtimestamp(begin, timezone.utc), datetime.fromtimestamp(end, timezone.utc)


def _readable_by_others(path: Path) -> bool:
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:
        return False
