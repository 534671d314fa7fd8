"""Everything that talks to one controller, started and stopped together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import gevent

from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.greenlets import Supervisor
from greenagent.runtime.heartbeat import Heartbeat
from greenagent.settings.models import ControllerSettings
from greenagent.uplink.delivery import SetAside
from greenagent.uplink.figures import UplinkFigures
from greenagent.uplink.health import ControllerHealth
from greenagent.uplink.http import HttpClient
from greenagent.uplink.logs import LogStore, LogUploader
from greenagent.uplink.poller import Poller
from greenagent.uplink.results import Outbox, ResultSender
from greenagent.uplink.sender import Sender
from greenagent.uplink.statistics import StatisticsUploader
from greenagent.uplink.tls import ControllerTls
from greenagent.values.command import Command
from greenagent.values.errors import CommandError, GreenagentError

SCRIPT_TIMEOUT = 30.0


class LogPair(NamedTuple):
    """One AC logger that sends to this controller: the store's name for both, and its batches."""

    name: str
    batch_size: int
    flush_int: float


class Entrance(Protocol):
    """Where commands go: the admission of jobs."""

    def accept(self, command: Command, controller: str) -> None: ...

    def refuse(self, error: CommandError, controller: str) -> None: ...


class Link:
    """One controller: poller, result sender, log uploaders and statistics uploader, each with its own connection."""

    def __init__(
        self,
        controller: ControllerSettings,
        gid: int,
        nid: int,
        supervisor: Supervisor,
        agent_log: AgentLog,
    ) -> None:
        self.key = controller.key
        self.figures = UplinkFigures()
        self.health = ControllerHealth(controller.key, controller.url, agent_log)
        self.poller: Poller | None = None
        self.services: list[str] = []
        """The names of what must run for this controller, as the supervisor knows them."""
        self._controller = controller
        self._identity = (gid, nid)
        self._supervisor = supervisor
        self._tls = ControllerTls(controller.key, controller.url, controller.security)
        self._senders: list[Sender] = []
        self._clients: list[HttpClient] = []
        self._watching = supervisor.service(f"certificates of controller {self.key}", self._tls.watch, agent_log)

    def poll(self, roles: Callable[[], Sequence[str]], free_slots: Callable[[], int], entrance: Entrance) -> None:
        """Starts asking for commands."""
        self.poller = Poller(
            self.key,
            self._client(),
            roles=roles,
            free_slots=free_slots,
            accept=entrance.accept,
            refuse=entrance.refuse,
            health=self.health,
            figures=self.figures,
        )
        self._serve(f"poller of controller {self.key}", self.poller.run, self.poller.heartbeat)

    def send_results(self, outbox: Outbox) -> None:
        """Starts delivering the results that wait for this controller."""
        self._start("results", ResultSender(self.key, self._client, outbox, self.health, self.figures))

    def send_logs(self, pair: LogPair, store: LogStore, set_aside: SetAside) -> None:
        """Starts uploading the lines one AC logger wants sent here."""
        uploader = LogUploader(
            pair.name,
            pair.batch_size,
            pair.flush_int,
            self._client(),
            store,
            self.health,
            set_aside,
            self.figures,
        )
        self._start(f"logs {pair.name}", uploader)

    def send_statistics(self, outbox: Outbox, set_aside: SetAside) -> None:
        """Starts uploading the statistics that wait for this controller."""
        uploader = StatisticsUploader(self.key, self._client(), outbox, self.health, set_aside, self.figures)
        self._start("statistics", uploader)

    def fetch_script(self, digest: str) -> bytes:
        """The text of a script by its hash (protocol 1.2). Raises GreenagentError."""
        client = self._client()
        try:
            answer = client.get("script", [("hash", digest)], timeout=SCRIPT_TIMEOUT)
        finally:
            self._clients.remove(client)
            client.close()
        if not answer.ok:
            raise GreenagentError(f"controller {self.key} answers with status {answer.status}: {answer.text}")
        return answer.body

    def stop_polling(self) -> None:
        """Takes no more commands; one that has begun to arrive is accepted yet."""
        if self.poller is not None:
            self.poller.stop()

    def drain(self, seconds: float, under_way: float = 0.0) -> list[Any]:
        """Lets every sender send what waits, for so many seconds at most; returns greenlets to join.

        ``under_way``: as for ``Sender.stop``.
        """
        return [gevent.spawn(sender.stop, seconds, under_way) for sender in self._senders]

    def close(self) -> None:
        """Ends everything at once."""
        self._supervisor.end(self._watching)
        for client in self._clients:
            client.abort()
            client.close()

    def _start(self, part: str, sender: Sender) -> None:
        self._senders.append(sender)
        self._serve(f"{part} for controller {self.key}", sender.run, sender.heartbeat)

    def _serve(self, name: str, run: Callable[[], None], heartbeat: Heartbeat) -> None:
        self.services.append(name)
        self._supervisor.service(name, run, heartbeat=heartbeat)

    def _client(self) -> HttpClient:
        client = HttpClient(self.key, self._controller.url, self._tls, *self._identity)
        self._clients.append(client)
        return client
