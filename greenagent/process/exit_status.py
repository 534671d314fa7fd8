"""How a process ended, in the words of results (design, section 5)."""

from __future__ import annotations

import signal
from dataclasses import dataclass


@dataclass(frozen=True)
class ExitStatus:
    """How a process ended: ``code`` if it exited, or the name of the ``signal`` it died of."""

    code: int | None
    signal: str | None


def signal_name(number: int) -> str:
    """``SIGTERM`` for 15; real-time signals as ``SIGRTMIN+n``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        if signal.SIGRTMIN < number < signal.SIGRTMAX:
            return f"SIGRTMIN+{number - signal.SIGRTMIN}"
        return f"SIG{number}"
