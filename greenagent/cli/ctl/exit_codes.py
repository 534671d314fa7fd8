"""The exit codes of ``greenagent-ctl`` (docs/controller.md tells them; design, section 8)."""

from __future__ import annotations

from typing import Any, Final

from greenagent.values import result as results
from greenagent.values import states
from greenagent.values.errors import SignalError
from greenagent.values.signals import parse_signal

NOT_SO: Final = 1
"""Of another command than ``run``: what was asked for is not so."""
TIMED_OUT: Final = 124
FAILED: Final = 125
"""No process told how it ended, or the command could not be carried out here: usage, a controller that is away or
refuses, a job that was not delivered or is forgotten, output that was lost."""
CANNOT_START: Final = 126
NOT_FOUND: Final = 127
BY_SIGNAL: Final = 128
"""With the number of the signal added."""
KILLED: Final = BY_SIGNAL + 9
_HIGHEST: Final = 255
_OF_STATES: Final = {states.TIMEOUT: TIMED_OUT, states.KILLED: KILLED}
"""They win over the job's own exit code."""
_OF_REASONS: Final = {results.CANNOT_START: CANNOT_START, results.NOT_FOUND: NOT_FOUND}


def exit_code(result: dict[str, Any]) -> int:
    """The exit code a job's result stands for."""
    state, code = result.get("state"), result.get("exit_code")
    if state in _OF_STATES:
        return _OF_STATES[state]
    if isinstance(code, int) and not isinstance(code, bool) and (code or state == states.SUCCESS):
        return code if 0 <= code <= _HIGHEST else FAILED
    if state == states.SUCCESS:
        return 0
    if result.get("delivered") is False:
        return FAILED
    if result.get("signal"):
        try:
            return BY_SIGNAL + parse_signal(result["signal"])
        except SignalError:
            return FAILED
    return _OF_REASONS.get(str(result.get("reason")), FAILED)
