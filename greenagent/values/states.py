"""Job states as they stand on the wire (protocol 4.2), and as people ask for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from greenagent.values.errors import StateNameError

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

WAITING: Final = "WAITING"
"""Never on the wire: people see it of what is RUNNING and waits for its turn at its agent."""
FAILED: Final = "FAILED"
"""Never on the wire: people ask by it for every end but SUCCESS."""
FAILURES: Final = TERMINAL - {SUCCESS}
ASKED_FOR: Final = (QUEUED, WAITING, RUNNING, *sorted(TERMINAL), FAILED)
"""What people may ask a controller for."""


def is_terminal(state: str) -> bool:
    """True for every state except the placeholders QUEUED and RUNNING (protocol 4.2)."""
    return state not in PLACEHOLDERS


def read_states(text: str, known: Iterable[str]) -> frozenset[str]:
    """The states of a list such as ``error,timeout``, in any case; FAILED stands for all of ``FAILURES``.

    Raises StateNameError for one that is none of ``known``.
    """
    known = list(known)
    given = [part.strip() for part in text.split(",") if part.strip()]
    if odd := [part for part in given if part.upper() not in known]:
        raise StateNameError(f"{odd[0]!r} is no state: say {', '.join(known)}")
    found = {part.upper() for part in given}
    return frozenset(found - {FAILED} | (FAILURES if FAILED in found else set()))
