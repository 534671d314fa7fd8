"""What is counted about one controller, for the agent's own statistics and for people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class UplinkFigures:
    """Counters that only rise, from the start of the agent."""

    polls: int = 0
    poll_errors: int = 0
    commands: int = 0
    commands_refused: int = 0
    results_sent: int = 0
    result_errors: int = 0
    log_batches_sent: int = 0
    log_lines_sent: int = 0
    log_errors: int = 0
    statistics_sent: int = 0
    statistics_errors: int = 0
    set_aside: int = 0
