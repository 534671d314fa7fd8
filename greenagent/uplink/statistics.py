"""Posts statistics objects to one controller (protocol 8.4)."""

from __future__ import annotations

from greenagent.uplink.backoff import Backoff
from greenagent.uplink.delivery import PROBE_PAUSE, ListDelivery, SetAside, Trouble
from greenagent.uplink.figures import UplinkFigures
from greenagent.uplink.health import ControllerHealth
from greenagent.uplink.http import HttpClient
from greenagent.uplink.results import WAIT, Outbox
from greenagent.uplink.sender import Sender

PATH = "stats"
BATCH_SIZE = 1000
"""Objects in one POST (protocol 8.4)."""
BATCH_PAUSE = 0.02


class StatisticsUploader(Sender):
    """Sends what the outbox holds of statistics for one controller, oldest first."""

    def __init__(
        self,
        key: str,
        client: HttpClient,
        outbox: Outbox,
        health: ControllerHealth,
        set_aside: SetAside,
        figures: UplinkFigures | None = None,
        *,
        backoff: Backoff | None = None,
        batch_size: int = BATCH_SIZE,
        batch_pause: float = BATCH_PAUSE,
        probe_pause: float = PROBE_PAUSE,
    ) -> None:
        """``batch_size`` in objects; the pauses in seconds."""
        super().__init__("statistics", client, health, backoff)
        self.key = key
        self.figures = figures or UplinkFigures()
        self._outbox = outbox
        self._batch_size = batch_size
        self._batch_pause = batch_pause
        self._delivery = ListDelivery(client, PATH, health, set_aside, self._pause, probe_pause)

    def _wait_for_work(self) -> None:
        self._outbox.wait(self.key, WAIT, PATH)

    def _send_some(self) -> bool:
        waiting = self._outbox.pending(self.key, self._batch_size, 0, PATH)
        if not waiting:
            return False
        settled = 0

        def done(count: int) -> None:
            nonlocal settled
            self._outbox.delivered(self.key, [one.row for one in waiting[settled:count]], PATH)
            settled = count

        try:
            # Each body is a list of one, as it would be posted alone.
            self._delivery.deliver([one.body[1:-1] for one in waiting], done)
        except Trouble:
            self.figures.statistics_errors += 1
            raise
        finally:
            counts = self._delivery.take_counts()
            self.figures.statistics_sent += counts.records
            self.figures.set_aside += counts.set_aside
        self._success()
        self._pause(self._batch_pause)
        return True
