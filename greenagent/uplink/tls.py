"""Which controllers the agent trusts and how it shows who it is: the ``security`` section of one controller.

``certificate_authority`` is an extra trust root beside the system's; the original replaced the
system's by it (protocol 1.4). Files replaced on disk are taken up while the agent runs.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Final

from greenagent.runtime.tls import CertificateError, PemFile, Wording, client_context
from greenagent.runtime.tls_watch import TlsContext

WORDING: Final = Wording(
    theirs="its certificate",
    ours="our client certificate",
    unknown_issuer="is unknown: neither a root of the system nor in certificate_authority",
    give_certificate="set client_certificate and client_certificate_key",
    where=" on this port (plain HTTP on the other side?)",
)


class ControllerTls(TlsContext):
    """The TLS context for connections to one controller or sink; none where its URL is not https."""

    def __init__(self, key: str, url: str, security: Any, *, what: str = "controller") -> None:
        """``security``: anything with the three settings as attributes, or None. ``what`` is at the other end.

        Never raises: files that cannot be used are the ``problem`` of every request until they can.
        """
        self.has_client_certificate = _named(security, "client_certificate") is not None
        paths: list[Path] = []
        if url.lower().startswith("https:"):
            system = ssl.get_default_verify_paths()
            paths = [Path(system.cafile or system.openssl_cafile)]
            names = ("client_certificate", "client_certificate_key", "certificate_authority")
            paths += [file.path for file in (_named(security, name) for name in names) if file is not None]
        super().__init__(lambda: agent_context(security), paths, f"{what} {key}: ")


def agent_context(security: Any) -> ssl.SSLContext:
    """The context of a ``security`` section. Raises CertificateError."""
    certificate = _named(security, "client_certificate")
    key = _named(security, "client_certificate_key")
    if certificate is not None and key is None:
        raise CertificateError(certificate, "needs client_certificate_key beside it")
    return client_context(_named(security, "certificate_authority"), certificate, key)


def _named(security: Any, setting: str) -> PemFile | None:
    path = getattr(security, setting, None)
    return PemFile(setting, Path(path)) if path else None
