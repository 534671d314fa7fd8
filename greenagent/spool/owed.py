"""What controllers are owed and cannot get: said, and shown in the agent's health."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from greenagent.runtime.agent_log import AgentLog
from greenagent.spool.schema import Waiting

LOSS_SHOWN: Final = 3600.0
"""Seconds for which health tells of a loss: nobody can undo it, and by then whoever looks at health knows."""


class Loss:
    """What an earlier agent had written into the ledger, and is not in it any more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.entries = 0
        """How many rows: jobs, results, statistics, dead letters."""
        self.shown_until = 0.0
        """Until when health tells it, by the monotonic clock."""

    def find(self, recorded: int, last_row: int) -> None:
        """``recorded``: the largest row number that earlier agents had, as the lock tells; ``last_row``: the file."""
        self.entries = max(0, recorded - last_row)
        self.shown_until = time.monotonic() + LOSS_SHOWN

    @property
    def problem(self) -> str:
        """For health; "" for none."""
        if not self.entries or time.monotonic() >= self.shown_until:
            return ""
        return f"the ledger {self._path} lacked {self.entries} entries at the start: what they owed controllers is lost"


class OwedToRemoved:
    """What waits for controllers that are not configured: it waits unseen, and goes in the end."""

    def __init__(self, agent_log: AgentLog, result_memory: float) -> None:
        """``result_memory``: seconds after which it goes."""
        self.problem = ""
        """What waits, in words."""
        self._said = agent_log.on_change()
        self._result_memory = result_memory

    def look(self, waiting: Mapping[str, Waiting], known: Collection[str]) -> None:
        """``known``: the controllers that are configured."""
        owed = {key: waits.results for key, waits in waiting.items() if key not in known and waits.results}
        self.problem = "; ".join(
            f"{number} results wait for controller '{key}', which is not configured" for key, number in owed.items()
        )
        if self.problem:
            remedy = f"name it again within main.result_memory ({self._result_memory:g} s), or they are dropped"
            self._said.warning(f"{self.problem}: {remedy}")
        else:
            self._said.resolved("nothing waits any more for a controller that is not configured")
