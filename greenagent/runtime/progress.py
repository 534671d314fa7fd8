"""By when a service says it will be back: how a watchdog tells stuck from busy."""

from __future__ import annotations

import time


class Progress:
    """Kept up to date by a service, read by the watchdog; both on the hub."""

    def __init__(self) -> None:
        self.doing = ""
        """What the service said it would do, in words."""
        self._due: float | None = None

    def within(self, seconds: float, doing: str) -> None:
        """``doing`` will be over in so many seconds at the latest; longer means that it is stuck."""
        self._due = time.monotonic() + seconds
        self.doing = doing

    def idle(self) -> None:
        """Waits for something that may never come: nobody need worry."""
        self._due = None
        self.doing = ""

    def follow(self, other: Progress) -> None:
        """Waits for what ``other`` does: that says by when."""
        self._due = other._due
        self.doing = other.doing

    def postpone(self, seconds: float) -> None:
        """The whole process stood still so long."""
        if self._due is not None:
            self._due += seconds

    @property
    def overdue(self) -> float:
        """Seconds past the promised time; 0 when all is well."""
        return 0.0 if self._due is None else max(0.0, time.monotonic() - self._due)
