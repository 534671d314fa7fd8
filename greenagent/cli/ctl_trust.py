"""The certificate files of ``greenagent-ctl``, looked at before anything is asked."""

from __future__ import annotations

import ssl
from pathlib import Path

from greenagent.runtime.tls import CertificateError, PemFile, load_authority, load_pair
from greenagent.values.errors import GreenagentError


class UsageError(GreenagentError):
    """Options that cannot be used."""


def check_files(authority: str, certificate: str, key: str) -> None:
    """Raises UsageError when a file of ``--ca``, ``--cert`` or ``--key`` cannot be used; an empty text is none.

    Without a key it is in the certificate's file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    shown = PemFile("--cert", Path(certificate))
    try:
        if authority:
            load_authority(context, PemFile("--ca", Path(authority)))
        if certificate:
            load_pair(context, shown, PemFile("--key", Path(key)) if key else shown)
    except CertificateError as error:
        raise UsageError(str(error)) from error
