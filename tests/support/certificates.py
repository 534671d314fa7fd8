"""Certificates for tests, made by trustme, and TLS contexts of servers that use them."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


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


def certificate_without_key_identifiers(folder: Path) -> tuple[Path, Path, Path]:
    """An authority, and a certificate for 127.0.0.1 with its key; neither names the key it was signed with."""
    now, keys = datetime.now(timezone.utc), [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("authority", "controller")]
    paths = (folder / "plain-ca.crt", folder / "plain.crt", folder / "plain.key")
    for name, key, path in zip(names, keys, paths, strict=False):
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(names[0]).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
        builder = builder.not_valid_after(now + timedelta(hours=1))
        is_authority = name is names[0]
        builder = builder.add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        if not is_authority:
            alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
            builder = builder.add_extension(alternative, critical=False)
        path.write_bytes(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    paths[2].write_bytes(keys[1].private_bytes(*private))
    paths[2].chmod(0o600)
    return paths


def security(
    authority: Path | None = None, certificate: Path | None = None, key: Path | None = None
) -> SimpleNamespace:
    """A ``security`` section of the configuration."""
    return SimpleNamespace(certificate_authority=authority, client_certificate=certificate, client_certificate_key=key)
