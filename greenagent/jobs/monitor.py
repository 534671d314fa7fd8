"""What the runner tells about its processes to whoever counts and meters them."""

from __future__ import annotations

from typing import Protocol

from greenagent.process.child import Child


class Monitor(Protocol):
    """Follows one job: its statistics messages and its processes."""

    def message(self, text: str) -> None:
        """Takes the text of a level 10 message."""
        ...

    def output(self, lines: int, size: int) -> None:
        """``size`` bytes came out of the job's pipes and ended ``lines`` messages."""
        ...

    def environment(self) -> dict[str, str]:
        """Variables that the monitor adds for the child."""
        ...

    def started(self, child: Child) -> None: ...

    def ended(self) -> None:
        """The run is over: its processes are gone."""
        ...

    def close(self) -> None:
        """The job is over."""
        ...
