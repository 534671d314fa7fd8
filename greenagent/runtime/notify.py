"""Tells a service manager how the agent does, by the plain datagram protocol of ``sd_notify(3)``.

Nothing here may fail: an agent that was not started by such a manager, or whose manager is gone,
works as ever. Jobs do not see the variable, since they inherit no environment.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Final

VARIABLE: Final = "NOTIFY_SOCKET"
SEND_TIMEOUT: Final = 2.0
"""Seconds to wait for a manager that does not read; other greenlets run meanwhile."""


class ServiceManager:
    """The manager named in the environment, if there is one."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = _address(environment.get(VARIABLE, ""))

    def ready(self, status: str = "") -> bool:
        """The start, or a reload, is over. Like the others: True when the manager was told."""
        return self._send("READY=1", *_status(status))

    def reloading(self) -> bool:
        """A reload has begun; ``ready`` ends it. The stamp lets the manager match it to its request."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> bool:
        """The end has begun: from here the manager's time limit for stopping counts."""
        return self._send("STOPPING=1")

    def status(self, text: str) -> bool:
        """One line for people, shown by ``systemctl status``."""
        return self._send(*_status(text))

    def _send(self, *lines: str) -> bool:
        if self._address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(SEND_TIMEOUT)
                # Connected first: an unconnected socket counts as writable even while the
                # manager's queue is full, and waiting for it would spin.
                channel.connect(self._address)
                channel.send("\n".join(lines).encode("utf-8", "backslashreplace"))
        except OSError:
            return False
        return True


def _address(text: str) -> str | None:
    """A path, or the name of an abstract socket, which begins with ``@``; None for what we do not speak."""
    if text.startswith("@") and len(text) > 1:
        return "\0" + text[1:]
    return text if os.path.isabs(text) else None


def _status(text: str) -> list[str]:
    return [f"STATUS={' '.join(text.split())}"] if text else []
