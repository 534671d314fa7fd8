"""Everything that talks to one controller or sink, started and stopped together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gevent
from gevent.event import Event

from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.greenlets import Heartbeat, Supervisor
from greenagent.settings.destinations import ControllerSettings, Sink
from greenagent.uplink.answer import TransportError
from greenagent.uplink.changes import RESULTS
from greenagent.uplink.clients import HttpClients
from greenagent.uplink.encoding import FOR_CONTROLLERS, Encoding
from greenagent.uplink.health import ControllerHealth, UplinkMetrics
from greenagent.uplink.http import HttpClient
from greenagent.uplink.open_text import OpenTextReporter, OpenTexts
from greenagent.uplink.poller import EVENT_TIMEOUT, FREE_SLOTS, SHUTDOWN_EVENT, CommandSink, Poller, ReadCommand
from greenagent.uplink.sources import (
    DeadLetters,
    LogSource,
    Outbox,
    PendingLines,
    ResultSource,
    Source,
    StatisticsSource,
)
from greenagent.uplink.tls import ControllerTls
from greenagent.uplink.uploader import Uploader
from greenagent.uplink.waiting_jobs import WaitingJobs, WaitingReporter
from greenagent.values.errors import GreenagentError

SCRIPT_TIMEOUT = 30.0


class LogPair(NamedTuple):
    """One AC logger that sends to this controller, or the sink: the store's name for both, and its batches."""

    name: str
    batch_size: int
    flush_int: float


class Link:
    """What has an uploader for each kind of what it gets."""

    def __init__(
        self,
        destination: ControllerSettings | Sink,
        url: str,
        identity: tuple[int, int],
        supervisor: Supervisor,
        agent_log: AgentLog,
        encoding: Encoding,
    ) -> None:
        """``url``: what its paths stand behind; ``identity``: gid and nid of the agent."""
        self._what = "controller" if isinstance(destination, ControllerSettings) else "sink"
        is_sink = self._what == "sink"
        self.key = destination.key
        self.metrics = UplinkMetrics()
        self.health = ControllerHealth(self.key, destination.url, agent_log, is_sink=is_sink)
        self.services: list[str] = []
        """The names of what must run for it, as the supervisor knows them."""
        self._supervisor = supervisor
        self._tls = ControllerTls(self.key, destination.url, destination.security, what=self._what)
        self._uploaders: list[Uploader] = []
        self._clients = HttpClients(url, self._tls, *identity, content_type=encoding.content_type)
        self._encoding = encoding
        self._helpers = [
            supervisor.service(f"certificates of {self._what} {self.key}", self._tls.watch, agent_log),
        ]

    def upload_logs(
        self, pair: LogPair, lines: PendingLines, dead_letters: DeadLetters, formers: Sequence[tuple[int, str]] = ()
    ) -> None:
        """Starts uploading the lines that one logger or the sink wants sent here; ``formers`` as for ``LogSource``."""
        batches, encoding = (pair.batch_size, pair.flush_int), self._encoding.lines
        source = LogSource(self.key, lines, *batches, dead_letters, self.metrics, formers=formers, encoding=encoding)
        self._upload(source)

    def upload_statistics(self, outbox: Outbox) -> None:
        """Starts uploading the statistics that wait for it."""
        self._upload(StatisticsSource(self.key, outbox, self.metrics, encoding=self._encoding.statistics))

    def stop_polling(self) -> None:
        """Takes no more commands; one that has begun to arrive is accepted yet."""

    @property
    def has_taken_all(self) -> Event | None:
        """Set once no command comes any more, after ``stop_polling``; None where none is asked for."""
        return None

    def drain(self, seconds: float, under_way: float = 0.0) -> list[Any]:
        """Lets every uploader send what waits, for at most ``seconds``; returns greenlets to join.

        ``under_way``: as for ``Uploader.stop``; without it nobody goes on in our place, which is said.
        """
        return [gevent.spawn(uploader.stop, seconds, under_way) for uploader in self._uploaders]

    def close(self) -> None:
        """Ends everything at once."""
        for helper in self._helpers:
            self._supervisor.end(helper)
        self._clients.close()

    def _upload(self, source: Source, connect: Callable[[], HttpClient] | None = None) -> None:
        uploader = Uploader(source, connect or self._open, self.health)
        self._uploaders.append(uploader)
        self._serve(f"{source.part} for {self._what} {self.key}", uploader.run, uploader.heartbeat)

    def _open(self) -> HttpClient:
        """A client for one more source."""
        return self._clients.open()

    def _serve(self, name: str, run: Callable[[], None], heartbeat: Heartbeat) -> None:
        self.services.append(name)
        self._supervisor.service(name, run, heartbeat=heartbeat)


class ControllerLink(Link):
    """One controller: its poller, and an uploader each for results, log pairs and statistics."""

    def __init__(
        self, controller: ControllerSettings, gid: int, nid: int, supervisor: Supervisor, agent_log: AgentLog
    ) -> None:
        super().__init__(controller, controller.url, (gid, nid), supervisor, agent_log, FOR_CONTROLLERS)
        self.poller: Poller | None = None

    def poll(
        self,
        roles: Callable[[], Sequence[str]],
        free_slots: Callable[[], int],
        read: ReadCommand,
        sink: CommandSink,
    ) -> None:
        """Starts asking for commands."""
        self.poller = Poller(
            self.key,
            self._clients.open(),
            roles=roles,
            free_slots=free_slots,
            read=read,
            sink=sink,
            health=self.health,
            metrics=self.metrics,
        )
        self._serve(f"poller of controller {self.key}", self.poller.run, self.poller.heartbeat)

    def upload_results(self, outbox: Outbox, free_slots: Callable[[], int]) -> None:
        """Starts delivering the results that wait for this controller; each tells how many slots are free by then."""

        def connect() -> HttpClient:
            client = self._clients.open()
            client.more_headers = lambda: {FREE_SLOTS: str(max(0, free_slots()))}
            return client

        source = ResultSource(self.key, outbox, self.metrics, takes_lists=lambda: RESULTS in self.health.takes)
        self._upload(source, connect)

    def show_open_text(self, texts: OpenTexts, marks: int) -> None:
        """Starts telling it what jobs have begun to print; ``marks`` as for ``OpenTextReporter``."""
        reporter = OpenTextReporter(texts, marks, self._clients.open(), self.health)
        name = f"open text for controller {self.key}"
        self._helpers.append(self._supervisor.service(name, reporter.run))

    def show_waiting(self, jobs: WaitingJobs) -> None:
        """Starts telling it which of its jobs wait for their turn."""
        reporter = WaitingReporter(jobs, self.key, self._clients.open(), self.health)
        name = f"waiting jobs for controller {self.key}"
        self._helpers.append(self._supervisor.service(name, reporter.run))

    def fetch_script(self, digest: str) -> bytes:
        """The text of a script by its hash (protocol 1.2). Raises GreenagentError."""
        client = self._clients.open()
        try:
            answer = client.get("script", [("hash", digest)], timeout=SCRIPT_TIMEOUT)
        finally:
            self._clients.end(client)
        if not answer.ok:
            raise GreenagentError(f"controller {self.key} answers with status {answer.status}: {answer.text}")
        return answer.body

    def stop_polling(self) -> None:
        if self.poller is not None:
            self.poller.stop()

    @property
    def has_taken_all(self) -> Event | None:
        return None if self.poller is None else self.poller.ended

    def drain(self, seconds: float, under_way: float = 0.0) -> list[Any]:
        found = super().drain(seconds, under_way)
        return found if under_way else [*found, gevent.spawn(self._say_goodbye, seconds)]

    def _say_goodbye(self, seconds: float) -> None:
        """A controller of ours shows at once that we have stopped; without it, it finds out after a while."""
        if seconds and self.poller is not None and self.health.takes and not self.health.problem:
            try:
                self._clients.open().post("event", SHUTDOWN_EVENT, min(seconds, EVENT_TIMEOUT))
            except TransportError:
                pass
