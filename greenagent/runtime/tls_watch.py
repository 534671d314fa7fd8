"""A TLS context that is made anew when its certificate files are replaced on disk."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from pathlib import Path

import gevent

from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.tls import CertificateError, fingerprint

CHECK_INTERVAL = 10.0
"""Seconds between looks at the files; promised are 30."""


class TlsContext:
    """The context for new connections. Files that cannot be used leave the context made before in use."""

    def __init__(self, make: Callable[[], ssl.SSLContext], paths: Iterable[Path], owner: str = "") -> None:
        """``make`` builds the context from the files at ``paths``, or raises CertificateError.

        ``owner`` begins what is logged, such as ``controller main: ``. Without paths TLS is not used.
        """
        self.context: ssl.SSLContext | None = None
        self.problem = ""
        """Why TLS cannot be used at all; empty once there was a context."""
        self._make = make
        self._paths = tuple(paths)
        self._owner = owner
        self._fingerprints = self._look()
        self._subscribers: set[Callable[[], None]] = set()
        if self._paths:
            try:
                self.context = make()
            except CertificateError as error:
                self.problem = str(error)

    def subscribe(self, renewed: Callable[[], None]) -> None:
        """Calls ``renewed`` after every change of the context, until ``unsubscribe``; it must not block."""
        self._subscribers.add(renewed)

    def unsubscribe(self, renewed: Callable[[], None]) -> None:
        """Calls ``renewed`` no more; harmless where it was not subscribed."""
        self._subscribers.discard(renewed)

    def watch(self, agent_log: AgentLog, interval: float = CHECK_INTERVAL) -> None:
        """Body of a service: looks at the files for ever; returns at once where TLS is not used."""
        trouble = agent_log.on_change()
        while self._paths:
            gevent.sleep(interval)
            try:
                is_new = self.refresh()
            except CertificateError as error:
                if self.context is not None:
                    trouble.warning(f"{self._owner}{error}; the certificates read before stay in use")
                continue
            if is_new:
                trouble.resolved(f"{self._owner}the certificate files can be used again")
                agent_log.info(f"{self._owner}certificate files were replaced and are in use now")

    def refresh(self) -> bool:
        """Takes up files that have changed; True when the context is a new one. Raises CertificateError."""
        fingerprints = self._look()
        if fingerprints == self._fingerprints and not self.problem:
            return False
        try:
            self.context = self._make()
        except CertificateError as error:
            if self.context is None:
                self.problem = str(error)
            raise
        self._fingerprints, self.problem = fingerprints, ""
        for renewed in tuple(self._subscribers):
            renewed()
        return True

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [fingerprint(path) for path in self._paths]
