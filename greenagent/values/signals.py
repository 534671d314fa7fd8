"""Signals as people name them (design, section 5 "Ending")."""

from __future__ import annotations

import re
import signal

from greenagent.values.errors import SignalError


def signal_name(number: int) -> str:
    """``SIGTERM`` for 15; real-time signals as ``SIGRTMIN+n``. ``parse_signal`` reads it back."""
    try:
        return signal.Signals(number).name
    except ValueError:
        if signal.SIGRTMIN < number < signal.SIGRTMAX:
            return f"SIGRTMIN+{number - signal.SIGRTMIN}"
        return f"SIG{number}"


def parse_signal(value: object) -> int:
    """A signal by name (with or without SIG; also RTMIN+n and RTMAX-n) or number. Raises SignalError."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise SignalError("'signal' must be a name or a number")
    text = str(value).strip().upper().removeprefix("SIG")
    if f"SIG{text}" in signal.Signals.__members__:
        return int(signal.Signals[f"SIG{text}"])
    base = 0
    real_time = re.fullmatch(r"RT(MIN|MAX)(?=[+-])(.+)", text)
    if real_time is not None:
        base, text = (signal.SIGRTMIN if real_time[1] == "MIN" else signal.SIGRTMAX), real_time[2]
    if re.fullmatch(r"[+-]?[0-9]{1,3}" if base else r"[0-9]{1,3}", text):
        number = base + int(text)
        if (signal.SIGRTMIN <= number <= signal.SIGRTMAX) if base else (0 < number < signal.NSIG):
            return number
    raise SignalError(f"there is no signal {value!r}: say TERM, SIGUSR1, RTMIN+3 or a number")
