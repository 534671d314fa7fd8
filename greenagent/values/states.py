"""Job states as they stand on the wire (protocol 4.2)."""

from __future__ import annotations

from typing import Final

SUCCESS: Final = "SUCCESS"
ERROR: Final = "ERROR"
TIMEOUT: Final = "TIMEOUT"
KILLED: Final = "KILLED"
UNKNOWN_CMD: Final = "UNKNOWN_CMD"
DUPLICATE_ID: Final = "DUPILICATE_ID"
"""The original's spelling is part of the wire."""
RUNNING: Final = "RUNNING"
"""Placeholder of a controller: handed to an agent."""
QUEUED: Final = "QUEUED"
"""Placeholder of a controller: waiting for its agent."""

PLACEHOLDERS: Final = frozenset({RUNNING, QUEUED})
TERMINAL: Final = frozenset({SUCCESS, ERROR, TIMEOUT, KILLED, UNKNOWN_CMD, DUPLICATE_ID})


def is_terminal(state: str) -> bool:
    """True for every state except the placeholders QUEUED and RUNNING (protocol 4.2)."""
    return state not in PLACEHOLDERS
