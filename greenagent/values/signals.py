"""Signals as people name them (design, section 5 "Ending")."""

from __future__ import annotations

import signal

from greenagent.values.errors import SignalError


def parse_signal(value: object) -> int:
    """A signal by name (with or without SIG) or number. Raises SignalError."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise SignalError("'signal' must be a name or a number")
    text = str(value).strip().upper()
    try:
        if text.isdecimal():
            return _known_number(int(text))
        return int(signal.Signals[text if text.startswith("SIG") else "SIG" + text])
    except (ValueError, KeyError) as error:
        raise SignalError(f"there is no signal {value!r}") from error


def _known_number(number: int) -> int:
    """Real-time signals have numbers without a name. Raises ValueError."""
    if not 0 < number < signal.NSIG:
        raise ValueError(number)
    return number
