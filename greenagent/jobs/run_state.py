"""How a run ended, and the limits it runs under."""

from __future__ import annotations

from dataclasses import dataclass

from greenagent.values import levels


@dataclass(frozen=True, slots=True)
class Limits:
    """How long ending may take, and how long a line may be (settings ``main.*``)."""

    kill_grace: float
    pipe_drain: float
    max_line: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended. ``lived`` is seconds; ``starttime`` milliseconds since 1970."""

    state: str
    data: str = ""
    level: int = 0
    starttime: int = 0
    lived: float = 0.0
    streams: tuple[str, str] | None = None
    critical: str = ""
    truncated: bool = False
    exit_code: int | None = None
    signal: str | None = None
    can_restart: bool = True
    ended_by_request: bool = False

    @property
    def has_result(self) -> bool:
        return self.level in levels.RESULTS
