"""The certificate files of ``greenagent-ctl``, looked at before anything is asked; worded as the agent does."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NoReturn

from greenagent.values.errors import GreenagentError


class UsageError(GreenagentError):
    """Options that cannot be used."""


def check_authority(path: Path) -> None:
    """Raises UsageError when the file of ``--ca`` cannot be used."""
    _check("--ca", path, "CERTIFICATE")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:
        raise UsageError(f"--ca {path} holds a certificate that cannot be read") from error


def check_certificate(certificate: Path, key: Path | None) -> None:
    """Raises UsageError when the pair cannot be used; without a key it is in the certificate's file."""
    _check("--cert", certificate, "CERTIFICATE")
    key_option, key_file = ("--key", key) if key is not None else ("--cert", certificate)
    _check(key_option, key_file, "PRIVATE KEY")

    def no_password() -> NoReturn:
        raise UsageError(f"{key_option} {key_file} is protected by a pass phrase, which cannot be asked for")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key_file, no_password)
    except ssl.SSLError as error:
        if "MISMATCH" in str(error.reason or ""):
            raise UsageError(f"{key_option} {key_file} does not match --cert {certificate}") from error
        raise UsageError(f"--cert {certificate} or its key {key_file} cannot be read as PEM") from error
    except OSError as error:
        raise UsageError(f"--cert {certificate} cannot be read: {error.strerror}") from error


def _check(option: str, path: Path, expected: str) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{option}: cannot read {path}: {error.strerror}") from error
    if b"-----BEGIN " not in content or f"{expected}-----".encode() not in content:
        raise UsageError(f"{option} {path} is no PEM file with a {expected.lower()}")
