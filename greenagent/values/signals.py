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
        if text.isdecimal() and 0 < int(text) < signal.NSIG:
            return int(text)  # real-time signals have numbers without a name
        return int(signal.Signals[text if text.startswith("SIG") else "SIG" + text])
    except (ValueError, KeyError) as error:
        raise SignalError(f"there is no signal {value!r}") from error
