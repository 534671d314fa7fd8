"""Numbers in the options of ``greenagent-ctl``, as types for argparse."""

from __future__ import annotations

import argparse
from typing import Final

MAX_SECONDS: Final = 1e9
"""Some 30 years; the system's calls take no more than about ten times that."""


def seconds(text: str) -> float:
    """A span of time. Refuses "nan", which no comparison ends, and what no clock can wait for."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds (0 to {MAX_SECONDS:.0f})")
    return value


def positive(text: str) -> int:
    """A whole number above zero."""
    if not text.isascii() or not text.isdigit() or not 0 < len(text) < 10 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)
