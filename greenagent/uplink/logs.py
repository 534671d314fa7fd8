"""Posts the log lines one controller wants, in order, from behind its cursor in the store (protocol 7.1)."""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Protocol

import gevent

from greenagent.uplink.backoff import Backoff
from greenagent.uplink.delivery import PROBE_PAUSE, ListDelivery, SetAside, Trouble
from greenagent.uplink.figures import UplinkFigures
from greenagent.uplink.health import ControllerHealth
from greenagent.uplink.http import HttpClient
from greenagent.uplink.sender import Sender
from greenagent.values.errors import GreenagentError
from greenagent.values.message import Record

BATCH_PAUSE = 0.02
"""Seconds between batches: a backlog of hours is drained without starving polls and jobs."""
ENCODE_SLICE = 100
"""Records turned into JSON before others get their turn."""


class LogStore(Protocol):
    """The log store as an uploader sees it. ``pair``: the store's name for AC logger and controller."""

    def wait_due(self, pair: Any, batch_size: int, flush_int: float) -> None:
        """Returns once a batch is due: enough lines wait, or one of them has waited ``flush_int`` seconds."""
        ...

    def read_marked(self, pair: Any, limit: int) -> list[Record]:
        """The next lines behind the pair's cursor, by ``seq``; may return fewer to bound memory."""
        ...

    def advance(self, pair: Any, seq: int) -> None:
        """Moves the cursor past ``seq``; returns once that is stored."""
        ...


class LogUploader(Sender):
    """Uploads for one pair of AC logger and controller; one post at a time, so order is kept."""

    def __init__(
        self,
        pair: Any,
        batch_size: int,
        flush_int: float,
        client: HttpClient,
        store: LogStore,
        health: ControllerHealth,
        set_aside: SetAside,
        figures: UplinkFigures | None = None,
        *,
        backoff: Backoff | None = None,
        batch_pause: float = BATCH_PAUSE,
        probe_pause: float = PROBE_PAUSE,
    ) -> None:
        """``batch_size`` in lines; ``flush_int`` and the pauses in seconds."""
        super().__init__(f"logs ({pair})", client, health, backoff)
        self.figures = figures or UplinkFigures()
        self._pair = pair
        self._batch_size = batch_size
        self._flush_int = flush_int
        self._store = store
        self._batch_pause = batch_pause
        self._delivery = ListDelivery(client, "log", health, set_aside, self._pause, probe_pause)

    def _wait_for_work(self) -> None:
        self._store.wait_due(self._pair, self._batch_size, self._flush_int)

    def _send_some(self) -> bool:
        try:
            records = self._store.read_marked(self._pair, self._batch_size)
        except (GreenagentError, sqlite3.Error) as error:
            # Whatever the databases are like: the agent lives, and everything stays where it is.
            self.figures.log_errors += 1
            raise Trouble(f"nothing can be sent: {error}") from error
        if not records:
            return False
        try:
            complete = self._delivery.deliver(_encode(records), lambda count: self._advance(records, count))
        except Trouble:
            self.figures.log_errors += 1
            raise
        finally:
            self._count()
        self._success()
        self._pause(self._batch_pause)
        # What is left over waits until it is due, unless there is no more time for that.
        return self._stopping.is_set() or not complete

    def _advance(self, records: list[Record], count: int) -> None:
        self._store.advance(self._pair, records[count - 1].seq)

    def _count(self) -> None:
        counts = self._delivery.take_counts()
        self.figures.log_batches_sent += counts.bodies
        self.figures.log_lines_sent += counts.records
        self.figures.set_aside += counts.set_aside
        if counts.bodies:
            self._health.accepted()


def _encode(records: list[Record]) -> list[bytes]:
    """JSON texts, made in slices: a thousand at once would stall the hub for milliseconds."""
    texts = []
    for number, record in enumerate(records, 1):
        texts.append(json.dumps(record.to_wire(), separators=(",", ":")).encode())
        if number % ENCODE_SLICE == 0:
            gevent.sleep(0)
    return texts
