"""The links to all controllers, kept in step with the settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from greenagent.jobs.admission import Admission
from greenagent.jobs.loggers import pair_name, pairs
from greenagent.logs.store import LogStore
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.greenlets import Supervisor
from greenagent.settings.models import ControllerSettings, Settings
from greenagent.spool.spool import Spool
from greenagent.statistics.outbox import StatisticsOutbox
from greenagent.uplink.link import Link, LogPair
from greenagent.uplink.sender import UNDER_WAY


class SettingsSource(Protocol):
    def __call__(self) -> Settings: ...


class Plan(NamedTuple):
    """What a link to one controller consists of; a link whose plan changes is made anew."""

    controller: ControllerSettings
    polled: bool
    pairs: tuple[LogPair, ...]
    statistics: bool


def plans(settings: Settings) -> dict[str, Plan]:
    """The plan of every controller."""
    found: dict[str, list[LogPair]] = {key: [] for key in settings.controllers}
    for logger, key in pairs(settings):
        found[key].append(LogPair(pair_name(logger.name, key), logger.batch_size, logger.flush_int))
    return {
        key: Plan(controller, key in settings.polled_controllers, tuple(found[key]), key in settings.stats.controllers)
        for key, controller in settings.controllers.items()
    }


class Connections:
    """Makes, replaces and ends links."""

    def __init__(
        self,
        settings: SettingsSource,
        supervisor: Supervisor,
        agent_log: AgentLog,
        spool: Spool,
        store: LogStore,
        statistics: StatisticsOutbox,
        admission: Admission,
    ) -> None:
        self.links: dict[str, Link] = {}
        self.bits: dict[str, int] = {}
        self._settings = settings
        self._supervisor = supervisor
        self._agent_log = agent_log
        self._spool = spool
        self._store = store
        self._statistics = statistics
        self._admission = admission
        self._plans: dict[str, Plan] = {}
        self._takes_commands = True
        self.is_closed = False

    def register_pairs(self) -> None:
        """Tells the store who wants lines; to be done before any job logs."""
        settings = self._settings()
        self.bits = self._store.register_pairs(
            [pair_name(logger.name, controller) for logger, controller in pairs(settings)]
        )

    def update(self) -> None:
        """Brings the links in step with the settings; untouched ones go on undisturbed.

        After ``stop_polling`` new ones deliver what waits and take no commands; after ``drain`` there are none.
        """
        wanted = plans(self._settings())
        for key in list(self.links):
            if wanted.get(key) != self._plans.get(key):
                link = self.links.pop(key)
                link.stop_polling()
                for greenlet in link.drain(0, UNDER_WAY):
                    greenlet.join()
                link.close()
        if self.is_closed:
            return  # by now, or before
        # Only now: an upload that was under way moves its cursor, which a pair or queue that is gone has no more.
        self.register_pairs()
        self._statistics.set_controllers(self._settings().stats.controllers)
        for key, plan in wanted.items():
            if key not in self.links:
                self.links[key] = self._connect(plan)
        self._plans = wanted

    def stop_polling(self) -> None:
        """Takes no more commands, also from controllers that the settings name later."""
        self._takes_commands = False
        for link in self.links.values():
            link.stop_polling()

    def drain(self, seconds: float, under_way: float = 0.0) -> Iterator[Any]:
        """Lets everything that waits go out, for so many seconds at most; yields greenlets to join.

        ``under_way``: as for ``Sender.stop``.
        """
        self.is_closed = True
        for link in self.links.values():
            yield from link.drain(seconds, under_way)

    def close(self) -> None:
        for link in self.links.values():
            link.close()

    def _connect(self, plan: Plan) -> Link:
        main = self._settings().main
        link = Link(plan.controller, main.gid, main.nid, self._supervisor, self._agent_log)
        link.send_results(self._spool)
        for pair in plan.pairs:
            link.send_logs(pair, self._store, self._spool.keep_aside)
        if plan.statistics:
            link.send_statistics(self._spool, self._spool.keep_aside)
        if plan.polled and self._takes_commands:
            link.poll(lambda: self._settings().main.roles, lambda: self._admission.line.free, self._admission)
        return link
