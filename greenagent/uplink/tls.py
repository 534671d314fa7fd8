"""Whom the agent trusts and who it is: certificates of one controller's ``security`` section.

``certificate_authority`` is an extra trust root beside the system's (protocol 1.4); the
original replaced the system's by it (protocol 1.4). Files replaced on disk are taken up while the
agent runs.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import gevent

from greenagent.runtime.agent_log import AgentLog
from greenagent.values.errors import GreenagentError

CHECK_INTERVAL = 10.0
"""Seconds between looks at the files; promised are 30."""


class TrustError(GreenagentError):
    """A certificate or key file that cannot be used: which and why, in one line."""


class SecurityFiles:
    """The three paths of a ``security`` section; None where absent or empty."""

    def __init__(self, security: Any = None) -> None:
        """``security``: anything with these three attributes (or None, for none)."""
        self.client_certificate = _path(security, "client_certificate")
        self.client_certificate_key = _path(security, "client_certificate_key")
        self.certificate_authority = _path(security, "certificate_authority")

    def paths(self) -> list[Path]:
        """The files that are named."""
        named = (self.client_certificate, self.client_certificate_key, self.certificate_authority)
        return [path for path in named if path is not None]


def build_context(files: SecurityFiles) -> ssl.SSLContext:
    """TLS 1.2 or later, names and chains verified against the system's roots and the extra one. Raises TrustError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # As in the original, whatever certificate is named as authority is trusted, also an
    # intermediate one or a server's own.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_default_certs()
    _load_authority(files, context)
    _load_client_certificate(files, context)
    return context


class Trust:
    """The TLS context of one controller, renewed when its files change."""

    def __init__(
        self, key: str, url: str, security: Any, agent_log: AgentLog, *, check_interval: float = CHECK_INTERVAL
    ) -> None:
        """Never raises: files that cannot be used are the reason of every request's failure until they can."""
        self.is_secure = url.lower().startswith("https:")
        self.files = SecurityFiles(security)
        self.context: ssl.SSLContext | None = None
        self.problem = ""
        self._key = key
        self._topic = agent_log.on_change()
        self._agent_log = agent_log
        self._check_interval = check_interval
        self._subscribers: set[Callable[[], None]] = set()
        self._marks = self._read_marks()
        if self.is_secure:
            try:
                self.context = build_context(self.files)
            except TrustError as error:
                self.problem = str(error)

    @property
    def has_client_certificate(self) -> bool:
        return self.files.client_certificate is not None

    def subscribe(self, renewed: Callable[[], None]) -> None:
        """Calls ``renewed`` after every change of the context, until ``unsubscribe``; it must not block."""
        self._subscribers.add(renewed)

    def unsubscribe(self, renewed: Callable[[], None]) -> None:
        """Calls ``renewed`` no more; harmless where it was not subscribed."""
        self._subscribers.discard(renewed)

    def watch(self) -> None:
        """Body of a service: looks at the files for ever; returns at once where TLS is not used."""
        if not self.is_secure:
            return
        while True:
            gevent.sleep(self._check_interval)
            self.refresh()

    def refresh(self) -> bool:
        """Takes up changed files; True when the context is a new one. A broken file keeps the old context."""
        marks = self._read_marks()
        if not self.is_secure or (marks == self._marks and not self.problem):
            return False
        try:
            context = build_context(self.files)
        except TrustError as error:
            if self.context is None:
                self.problem = str(error)
            else:
                self._topic.warning(f"controller {self._key}: {error}; the certificates read before stay in use")
            return False
        self._marks, self.context, self.problem = marks, context, ""
        self._topic.resolved(f"controller {self._key}: the certificate files can be used again")
        self._agent_log.info(f"controller {self._key}: certificate files were replaced and are in use now")
        for renewed in tuple(self._subscribers):
            renewed()
        return True

    def _read_marks(self) -> tuple[tuple[int, int, int] | None, ...]:
        paths = [str(path) for path in self.files.paths()]
        system = ssl.get_default_verify_paths().cafile
        return tuple(_mark(path) for path in [*paths, *([system] if system else [])])


def _path(security: Any, name: str) -> Path | None:
    value = getattr(security, name, None)
    return Path(value) if value and str(value) != "." else None


def _mark(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(setting: str, path: Path, expected: str) -> None:
    """Checks that a file can be read and holds what PEM calls ``expected``. Raises TrustError."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise TrustError(f"{setting} {path} does not exist") from error
    except OSError as error:
        raise TrustError(f"{setting} {path} cannot be read: {error.strerror}") from error
    if b"-----BEGIN " not in content or expected.encode() + b"-----" not in content:
        raise TrustError(f"{setting} {path} is no PEM file with a {expected.lower()}")


def _load_authority(files: SecurityFiles, context: ssl.SSLContext) -> None:
    path = files.certificate_authority
    if path is None:
        return
    _read("certificate_authority", path, "CERTIFICATE")
    try:
        context.load_verify_locations(cafile=str(path))
    except (OSError, ValueError) as error:
        raise TrustError(f"certificate_authority {path} holds a certificate that cannot be read") from error


def _load_client_certificate(files: SecurityFiles, context: ssl.SSLContext) -> None:
    certificate, key = files.client_certificate, files.client_certificate_key
    if certificate is None:
        return
    if key is None:
        raise TrustError("client_certificate is set but client_certificate_key is not")
    _read("client_certificate", certificate, "CERTIFICATE")
    _read("client_certificate_key", key, "PRIVATE KEY")

    def no_password() -> NoReturn:
        # Without this OpenSSL would ask on the terminal and the agent would hang.
        raise TrustError(f"client_certificate_key {key} is protected by a pass phrase, which the agent cannot ask for")

    try:
        context.load_cert_chain(str(certificate), str(key), no_password)
    except ssl.SSLError as error:
        if "MISMATCH" in str(error.reason or ""):
            raise TrustError(f"client_certificate_key {key} does not match client_certificate {certificate}") from error
        raise TrustError(f"client_certificate {certificate} or its key {key} cannot be read as PEM") from error
    except OSError as error:
        raise TrustError(f"client_certificate {certificate} cannot be read: {error.strerror}") from error
