"""The links to all controllers and sinks, kept in step with the settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from gevent.event import Event

from greenagent.agent.command_reader import CommandReader
from greenagent.jobs.admission import Admission
from greenagent.jobs.context import JobContext
from greenagent.jobs.routing import pairs
from greenagent.logs.store import LogStore
from greenagent.settings.destinations import ControllerSettings, Sink
from greenagent.settings.models import Settings
from greenagent.statistics.collector import LAYOUT_LATER
from greenagent.statistics.outbox import StatisticsOutbox
from greenagent.uplink.link import ControllerLink, Link, LogPair
from greenagent.uplink.sink_link import SinkLink
from greenagent.uplink.uploader import UNDER_WAY_TIMEOUT


class Plan(NamedTuple):
    """What a link to one controller or sink consists of; a link whose plan changes is made anew."""

    destination: ControllerSettings | Sink
    polled: bool
    pairs: tuple[LogPair, ...]
    statistics: bool


def plans(settings: Settings) -> dict[str, Plan]:
    """The plan of every controller and sink."""
    destinations: dict[str, ControllerSettings | Sink] = {**settings.controllers, **settings.sinks}
    found: dict[str, list[LogPair]] = {key: [] for key in destinations}
    for pair in pairs(settings):
        found[pair.destination].append(LogPair(pair.name, pair.wants.batch_size, pair.wants.flush_int))
    return {
        key: Plan(one, key in settings.channel.cmds, tuple(found[key]), key in settings.statistics_to)
        for key, one in destinations.items()
    }


class Connections:
    """Makes, replaces and ends links."""

    def __init__(
        self,
        context: JobContext,
        admission: Admission,
        store: LogStore,
        statistics: StatisticsOutbox,
        reader: CommandReader,
    ) -> None:
        self.links: dict[str, Link] = {}
        self._context = context
        self._admission = admission
        self._store = store
        self._statistics = statistics
        self._reader = reader
        self._plans: dict[str, Plan] = {}
        self._takes_commands = True
        self.is_closed = False

    def update(self) -> None:
        """Brings the links in step with the settings; untouched ones go on undisturbed.

        After ``stop_polling`` new ones deliver what waits and take no commands; after ``drain`` there are none.
        """
        wanted = plans(self._context.settings())
        for key in list(self.links):
            if wanted.get(key) != self._plans.get(key):
                link = self.links.pop(key)
                link.stop_polling()
                for greenlet in link.drain(0, UNDER_WAY_TIMEOUT):
                    greenlet.join()
                link.close()
        if self.is_closed:
            return  # by now, or before
        # Only now: an upload that was under way moves its cursor, which a pair or queue that is gone has no more.
        self._context.routing.register_pairs()
        self._statistics.set_controllers(self._context.settings().statistics_to)
        for key, plan in wanted.items():
            if key not in self.links:
                self.links[key] = self._connect(plan)
        self._plans = wanted

    def stop_polling(self) -> None:
        """Takes no more commands, also from controllers that the settings name later."""
        self._takes_commands = False
        for link in self.links.values():
            link.stop_polling()

    @property
    def that_take(self) -> list[Event]:
        """After ``stop_polling``: one for each controller, set once a command that had begun to arrive is accepted."""
        return [link.has_taken_all for link in self.links.values() if link.has_taken_all is not None]

    def drain(self, seconds: float, under_way: float = 0.0) -> Iterator[Any]:
        """Delivers what waits, for ``seconds`` at most; yields greenlets to join.

        ``under_way``: as for ``Uploader.stop``.
        """
        self.is_closed = True
        for link in self.links.values():
            yield from link.drain(seconds, under_way)

    def close(self) -> None:
        for link in self.links.values():
            link.close()

    def _connect(self, plan: Plan) -> Link:
        context, main = self._context, self._context.settings().main
        destination, common = plan.destination, (main.gid, main.nid, context.supervisor, context.agent_log)
        if isinstance(destination, ControllerSettings):
            return self._connect_controller(ControllerLink(destination, *common), plan)
        has_command = context.settings().stats.key_layout == LAYOUT_LATER
        link = SinkLink(destination, *common, has_command=has_command)
        link.upload_retried(context.spool)
        self._upload_what_waits(link, plan)
        return link

    def _upload_what_waits(self, link: Link, plan: Plan) -> None:
        spool = self._context.spool
        for pair in plan.pairs:
            link.upload_logs(pair, self._store.pending(pair.name), spool.keep_dead_letter, spool.formers)
        if plan.statistics:
            link.upload_statistics(spool)

    def _connect_controller(self, link: ControllerLink, plan: Plan) -> ControllerLink:
        context = self._context
        link.upload_results(context.spool, lambda: self._admission.queue.free)
        self._upload_what_waits(link, plan)
        if plan.pairs and plan.polled:
            link.show_open_text(self._store.open_texts, sum(self._store.pending(pair.name).bit for pair in plan.pairs))
        if plan.polled:
            link.show_waiting(self._admission.queue)
        if plan.polled and self._takes_commands:
            link.poll(
                lambda: context.settings().main.roles,
                lambda: self._admission.queue.free,
                self._reader.read,
                self._admission,
            )
        return link
