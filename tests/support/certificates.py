"""Certificates for tests, made by trustme, and TLS contexts of servers that use them."""

from __future__ import annotations

import ssl
from pathlib import Path
from types import SimpleNamespace

import trustme


def server_context(
    certificate: trustme.LeafCert, client_ca: trustme.CA | None = None, version: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """A server's context; with ``client_ca`` it requires a client certificate. ``version``: that one only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    if client_ca is not None:
        client_ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def write_authority(authority: trustme.CA, path: Path) -> Path:
    authority.cert_pem.write_to_path(str(path))
    return path


def write_pair(certificate: trustme.LeafCert, folder: Path, name: str = "client") -> tuple[Path, Path]:
    """Writes a certificate with its chain, and its key."""
    chain, key = folder / f"{name}.crt", folder / f"{name}.key"
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(str(key))
    key.chmod(0o600)
    return chain, key


def security(
    authority: Path | None = None, certificate: Path | None = None, key: Path | None = None
) -> SimpleNamespace:
    """A ``security`` section of the configuration."""
    return SimpleNamespace(certificate_authority=authority, client_certificate=certificate, client_certificate_key=key)
