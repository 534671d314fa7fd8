"""Parts that tests of uploads and polls build: real clients, stores that live in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import gevent
from gevent.event import Event

from greenagent.uplink.clients import HttpClients
from greenagent.uplink.health import Backoff, ControllerHealth, UplinkMetrics
from greenagent.uplink.http import HttpClient
from greenagent.uplink.poller import Poller
from greenagent.uplink.tls import ControllerTls
from greenagent.values.command import decode_command
from greenagent.values.message import Record
from greenagent.values.result import PendingBody
from tests.support.agent_logs import RecordedLog


class Sink:
    """Collects what a poller takes, where an admission would run it."""

    def __init__(self, commands: list[Any], refused: list[Any]) -> None:
        self._commands = commands
        self._refused = refused

    def accept(self, commands: Sequence[Any], controller: str) -> None:
        self._commands.extend(commands)

    def refuse(self, error: Any, controller: str) -> None:
        self._refused.append(error)

    def acknowledges(self, controller: str) -> None:
        """Nothing is run here, nor run again."""


class Uplink:
    """Everything one controller needs, with short times; lines that were said are in ``said``."""

    def __init__(
        self, url: str, security: Any = None, key: str = "main", *, is_sink: bool = False, **options: Any
    ) -> None:
        self.key = key
        self.agent_log = RecordedLog()
        self.tls = ControllerTls(key, url, security)
        self.metrics = UplinkMetrics()
        self.health = ControllerHealth(key, url, self.agent_log, is_sink=is_sink)
        self._clients = HttpClients(url, self.tls, 1, 10, **options)

    @property
    def said(self) -> list[str]:
        return self.agent_log.lines

    def client(self) -> HttpClient:
        return self._clients.open()

    def end(self, client: HttpClient) -> None:
        self._clients.end(client)

    def poller(self, **changes: Any) -> tuple[Poller, SimpleNamespace]:
        """A poller and the lists its commands and refusals go to."""
        got = SimpleNamespace(commands=[], refused=[])
        parts: dict[str, Any] = {
            "roles": lambda: ("web", "db"),
            "free_slots": lambda: 7,
            "read": lambda body, controller: decode_command(body),
            "sink": Sink(got.commands, got.refused),
            "health": self.health,
            "metrics": self.metrics,
            "backoff": quick_backoff(),
            "poll_timeout": 30.0,
        }
        return Poller(self.key, self.client(), **{**parts, **changes}), got


def quick_backoff() -> Backoff:
    return Backoff(first=0.01, longest=0.05)


@contextmanager
def running(part: Any) -> Iterator[Any]:
    """Runs a poller or sender in a greenlet; stops it at the end and re-raises what killed it."""
    greenlet = gevent.spawn(part.run)
    try:
        yield greenlet
    finally:
        part.stop()
        greenlet.join(60)
        alive = not greenlet.dead
        greenlet.kill()
    assert not alive, "it did not stop"
    if greenlet.exception is not None:
        raise greenlet.exception


@contextmanager
def watching(uplink: Uplink) -> Iterator[None]:
    """Runs the service that looks at the certificate files."""
    greenlet = gevent.spawn(uplink.tls.watch, uplink.agent_log, 0.05)
    try:
        yield
    finally:
        greenlet.kill()


class MemoryOutbox:
    """An outbox in memory, as the ledger keeps it on disk."""

    def __init__(self) -> None:
        self.rows: dict[int, PendingBody] = {}
        self.aside: list[tuple[PendingBody, int, str]] = []
        self.delivered_calls: list[list[int]] = []
        self.is_waited_for = False
        self._added = Event()
        self._next = 1

    def add(self, job: str, body: bytes, path: str = "result") -> int:
        row, self._next = self._next, self._next + 1
        self.rows[row] = PendingBody(row, job, body, path)
        self._added.set()
        return row

    def pending(self, controller: str, limit: int, after: int = 0, path: str = "result") -> list[PendingBody]:
        self._added.clear()
        return [self.rows[row] for row in sorted(self.rows) if row > after][:limit]

    def delivered(self, controller: str, rows: list[int], path: str = "result") -> None:
        self.delivered_calls.append(rows)
        for row in rows:
            del self.rows[row]

    def make_dead_letter(self, controller: str, row: int, status: int, answer: str) -> bool:
        self.aside.append((self.rows.pop(row), status, answer))
        return False

    def wait(self, controller: str, timeout: float, path: str = "result") -> None:
        self.is_waited_for = True
        try:
            self._added.wait(timeout)
        finally:
            self.is_waited_for = False


class MemoryLines:
    """The lines that wait for a controller, in memory."""

    def __init__(self, name: str = "ac/main") -> None:
        self.name = name
        self.records: list[Record] = []
        self.cursor = 0
        self.advances: list[int] = []
        self.is_waited_for = False
        self._due = Event()

    def add(self, *texts: str) -> None:
        for text in texts:
            seq = len(self.records) + 1
            self.records.append(Record(seq, seq, "job", "d", "n", 1700000000.5, 2, text))

    def flush(self) -> None:
        """A batch is due, whatever its size."""
        self._due.set()

    def wait_due(self, batch_size: int, flush_int: float) -> None:
        self.is_waited_for = True
        try:
            self._due.wait()
        finally:
            self.is_waited_for = False
        self._due.clear()

    def read(self, limit: int) -> list[Record]:
        return [record for record in self.records if record.seq > self.cursor][:limit]

    def advance(self, seq: int) -> None:
        assert seq > self.cursor, "the cursor goes forward only"
        self.cursor = seq
        self.advances.append(seq)
        if self.cursor < len(self.records):
            self._due.set()


class Aside:
    """Collects what is set aside."""

    def __init__(self) -> None:
        self.records: list[tuple[str, str, bytes, int, str]] = []

    def __call__(self, controller: str, path: str, body: bytes, status: int, answer: str) -> None:
        self.records.append((controller, path, body, status, answer))
