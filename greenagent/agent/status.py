"""How the agent does: its own metrics, its health in one line, and a picture for people."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from greenagent import __version__
from greenagent.agent.connections import Connections
from greenagent.jobs.admission import Admission
from greenagent.jobs.context import JobContext
from greenagent.jobs.job import Job, JobQueue
from greenagent.logs.store import LogStore
from greenagent.logs.write.cursors import split_pair_name
from greenagent.runtime.files import working_folder
from greenagent.runtime.native import NativePool, NativeWorker
from greenagent.runtime.state_files import StateFiles
from greenagent.spool.schema import Waiting
from greenagent.statistics.outbox import StatisticsOutbox
from greenagent.statistics.own import AgentMetrics, EventLoopLag
from greenagent.uplink.health import UplinkMetrics
from greenagent.uplink.link import ControllerLink, Link
from greenagent.values import states

MAX_JOBS_SHOWN: Final = 1000
"""Jobs listed by ``status``; the numbers count all of them."""

_SINK_COUNTERS: Final = (
    "log_batches_sent",
    "log_lines_sent",
    "log_errors",
    "statistics_sent",
    "statistics_errors",
    "set_aside",
    "rejected",
)
_CONTROLLER_COUNTERS: Final = tuple(name for name in UplinkMetrics.__dataclass_fields__ if name != "rejected")


class Parts(NamedTuple):
    """What is looked at."""

    context: JobContext
    admission: Admission
    connections: Connections
    store: LogStore
    statistics: StatisticsOutbox
    state_files: StateFiles
    lag: EventLoopLag


class AgentStatus:
    """Reads the parts and changes none of them."""

    def __init__(self, parts: Parts, metrics: AgentMetrics, began: float) -> None:
        """``began``: monotonic time of the agent's start."""
        self._parts = parts
        self._context = parts.context
        self._metrics = metrics
        self._began = began
        self._began_wall = round(time.time() - (time.monotonic() - began))
        self._links: dict[str, Link] = {}
        self._outbox: dict[str, Waiting] = {}
        self._outbox_read = -1.0
        self.pool = NativePool(1)
        """For what may wait for a disk."""
        self.is_ready = False
        """True once everything is started."""
        self._add_metrics()

    def close(self) -> None:
        """Ends its thread."""
        self.pool.close()

    # -- metrics

    def _add_metrics(self) -> None:
        parts, context, metrics = self._parts, self._context, self._metrics
        metrics.gauge("agent_cpu_percent", lambda: context.meter.own_usage().cpu)
        metrics.gauge("agent_resident_bytes", lambda: context.meter.own_usage().rss)
        metrics.gauge("agent_threads", lambda: context.meter.own_usage().threads)
        metrics.gauge("agent_descriptors", lambda: context.meter.own_usage().fds)
        metrics.gauge("hub_stall_seconds", lambda: parts.lag.recent)
        metrics.gauge("hub_stall_worst_seconds", lambda: parts.lag.worst_ever)
        metrics.gauge("statistics_backlog_bytes", self._statistics_bytes)
        queue: JobQueue = parts.admission.queue
        metrics.gauge("uptime_seconds", lambda: time.monotonic() - self._began)
        metrics.gauge("agent_greenlets", lambda: context.supervisor.running)
        metrics.gauge("jobs_running", lambda: queue.running)
        metrics.gauge("jobs_waiting", lambda: queue.waiting)
        for state in sorted(states.TERMINAL):
            metrics.counter("jobs_done", partial(parts.admission.done.__getitem__, state), state=state)
        metrics.counter("log_lines", lambda: parts.store.metrics.lines)
        metrics.counter("log_bytes", lambda: parts.store.metrics.bytes)
        metrics.counter("log_batches", lambda: parts.store.metrics.batches)
        metrics.counter("log_lines_dropped", lambda: parts.store.metrics.dropped)
        metrics.counter("ledger_entries_lost", lambda: context.spool.loss.entries)
        metrics.gauge("log_queue_bytes", lambda: parts.store.metrics.waiting)

    def follow(self) -> None:
        """Registers the metrics of controllers that came, and removes those of controllers that left."""
        links = dict(self._parts.connections.links)
        for key, link in self._links.items():
            if links.get(key) is not link:
                self._metrics.forget(controller=key)
        for key, link in links.items():
            if self._links.get(key) is not link:
                self._add_link(key, link)
        self._links = links

    def _add_link(self, key: str, link: Link) -> None:
        """Sinks stand among the controllers: they share one set of names."""
        metrics = self._metrics
        is_controller = isinstance(link, ControllerLink)
        metrics.gauge("statistics_waiting", lambda: self._waiting(key).statistics, controller=key)
        for name in _CONTROLLER_COUNTERS if is_controller else _SINK_COUNTERS:
            metrics.counter(name, partial(getattr, link.metrics, name), controller=key)
        metrics.gauge("controller_trouble", lambda: int(bool(link.health.problem)), controller=key)
        if is_controller:
            metrics.gauge("last_contact_seconds", lambda: _seconds_since(link.health.last_contact), controller=key)
            metrics.gauge("results_waiting", lambda: self._waiting(key).results, controller=key)
        for pair in self._pairs_of(key):
            logger, _ = split_pair_name(pair)
            metrics.gauge("log_lines_waiting", partial(self._lines_waiting, pair), controller=key, logger=logger)

    def _pairs_of(self, key: str) -> list[str]:
        return [pair for pair in self._context.routing.bits if split_pair_name(pair)[1] == key]

    def _lines_waiting(self, pair: str) -> int | None:
        return self._parts.store.pending(pair).waiting if pair in self._context.routing.bits else None

    def _waiting(self, key: str) -> Waiting:
        return self._outbox_waiting().get(key, Waiting())

    def _statistics_bytes(self) -> int:
        return sum(waiting.statistics_bytes for waiting in self._outbox_waiting().values())

    def _outbox_waiting(self) -> dict[str, Waiting]:
        """Asked once a second at most, however many metrics are made of it."""
        if time.monotonic() - self._outbox_read > 1 or self._outbox_read < 0:
            self._outbox_read = time.monotonic()
            self._outbox = self._context.spool.waiting()
        return self._outbox

    # -- health

    def threads(self) -> list[NativeWorker[Any]]:
        """The native threads without which nothing works."""
        found = (self._parts.store.intake.thread, self._context.spool.database.thread)
        return [thread for thread in found if thread is not None]

    def health(self) -> str | None:
        """None when all that must live does, else what does not, all of it in one line. Never waits."""
        if self._parts.admission.stopping or not self.is_ready:
            return "the agent is stopping" if self.is_ready else "the agent is starting"
        return "; ".join(self._faults()) or None

    def _faults(self) -> Iterator[str]:
        """What does not do what it must. One full disk may be the cause of several."""
        parts, context = self._parts, self._context
        for thread in self.threads():
            if not thread.is_alive:
                yield f"the thread '{thread.name}' has died: {thread.failure}"
            elif thread.busy_since is not None and time.monotonic() - thread.busy_since > 60:
                yield f"the thread '{thread.name}' is stuck"
        expected = [name for link in parts.connections.links.values() for name in link.services]
        for name in dict.fromkeys([*expected, *context.supervisor.services]):
            service = context.supervisor.services.get(name)
            if service is None or not service.is_running:
                reason = f": {service.last_error}" if service is not None and service.last_error else ""
                yield f"{name} is not running{reason}"
            elif service.heartbeat.overdue:
                yield f"{name} is stuck ({service.heartbeat.activity})"
        if not context.spool.is_writable:
            yield f"the ledger {context.spool.path} cannot be written"
        yield from filter(None, (context.spool.owed_to_removed.problem, context.spool.loss.problem))
        if not context.history.is_writable:
            yield f"the history {context.history.path} cannot be written"
        if parts.store.problem:
            yield parts.store.problem
        yield from parts.state_files.problems
        try:
            os.getcwd()
        except FileNotFoundError:
            text = "relative names of files and programs lead nowhere until the agent is restarted in one that is there"
            yield f"the folder that the agent was started in, {working_folder()}, was removed: {text}"
        if context.spawner.problem:
            yield f"no program can be started: {context.spawner.problem}"

    # -- for people

    def status(self) -> dict[str, Any]:
        """Everything worth knowing, as JSON can tell it. Times are seconds, stamps since 1970."""
        parts, context = self._parts, self._context
        problem = self.health()
        own = context.meter.own_usage()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "gid": context.identity.gid,
            "nid": context.identity.nid,
            "roles": list(context.settings().main.roles),
            "uptime": round(time.monotonic() - self._began, 3),
            "healthy": problem is None,
            "problem": problem,
            "jobs": self._jobs(),
            "controllers": {key: self._controller(key, link) for key, link in self._controllers()},
            "sinks": {key: self._destination(key, link, _SINK_COUNTERS) for key, link in self._sinks()},
            "logs": self._logs(),
            "ledger": {
                "file": str(context.spool.path),
                "writable": context.spool.is_writable,
                "owed_to_removed": context.spool.owed_to_removed.problem,
                "lost": context.spool.loss.entries,
                "free_bytes": self._free(context.spool.path),
            },
            "statistics": {"waiting_bytes": self._statistics_bytes(), "dropped": parts.statistics.dropped},
            "hub": {"stall": round(parts.lag.recent, 4), "worst_stall": round(parts.lag.worst_ever, 4)},
            "process": {
                "cpu": own.cpu,
                "rss": own.rss,
                "threads": own.threads,
                "greenlets": context.supervisor.running,
                "descriptors": own.fds,
            },
        }

    def brief(self) -> dict[str, Any]:
        """What ``greenagent --status`` shows; nothing in it changes while nothing happens."""
        admission = self._parts.admission
        waiting = self._context.spool.waiting()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "gid": self._context.identity.gid,
            "nid": self._context.identity.nid,
            "began": self._began_wall,
            "problem": self.health(),
            "jobs": {
                "running": admission.queue.running,
                "waiting": admission.queue.waiting,
                "done": dict(admission.done),
            },
            "controllers": {
                key: {
                    "polling": link.poller.state if link.poller is not None else "not polled",
                    "last_contact": link.health.last_contact_wall and round(link.health.last_contact_wall),
                    "problem": link.health.problem or None,
                    "results": waiting.get(key, Waiting()).results,
                    "lines": self._lines(key),
                }
                for key, link in self._controllers()
            },
            "sinks": {
                key: {
                    "problem": link.health.problem or None,
                    "lines": self._lines(key),
                    "statistics": waiting.get(key, Waiting()).statistics,
                }
                for key, link in self._sinks()
            },
        }

    def _jobs(self) -> dict[str, Any]:
        admission = self._parts.admission
        jobs = sorted(admission.live.values(), key=lambda job: job.accepted)
        return {
            "running": admission.queue.running,
            "waiting": admission.queue.waiting,
            "done": dict(admission.done),
            "lines_read": self._metrics.total("lines_read"),
            "bytes_read": self._metrics.total("bytes_read"),
            "live": [_describe(job) for job in jobs[:MAX_JOBS_SHOWN]],
        }

    def _controllers(self) -> list[tuple[str, ControllerLink]]:
        links = self._parts.connections.links.items()
        return [(key, link) for key, link in links if isinstance(link, ControllerLink)]

    def _sinks(self) -> list[tuple[str, Link]]:
        links = self._parts.connections.links.items()
        return [(key, link) for key, link in links if not isinstance(link, ControllerLink)]

    def _lines(self, key: str) -> int:
        """How many wait for a controller or sink."""
        return sum(self._parts.store.pending(pair).waiting for pair in self._pairs_of(key))

    def _controller(self, key: str, link: ControllerLink) -> dict[str, Any]:
        return {
            "polling": link.poller.state if link.poller is not None else "not polled",
            "last_contact": link.health.last_contact_wall,
            **self._destination(key, link, _CONTROLLER_COUNTERS),
            "results_waiting": self._waiting(key).results,
        }

    def _destination(self, key: str, link: Link, counters: tuple[str, ...]) -> dict[str, Any]:
        parts = self._parts
        return {
            "problem": link.health.problem or None,
            **{name: getattr(link.metrics, name) for name in counters},
            "log_lines_waiting": {pair: parts.store.pending(pair).waiting for pair in self._pairs_of(key)},
            "statistics_waiting": self._waiting(key).statistics,
        }

    def _logs(self) -> dict[str, Any]:
        store = self._parts.store
        return {
            "folder": str(store.folder.path),
            "writable": store.is_writable,
            "free_bytes": self._free(store.folder.path),
            **store.metrics._asdict(),
        }

    def _free(self, path: Path) -> int | None:
        """Bytes free for us on the file system; asked in a thread, since a network disk may be away."""
        try:
            found = self.pool.run(os.statvfs, path)
        except OSError:
            return None
        return found.f_bavail * found.f_frsize


def _describe(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "cmd": job.command.cmd,
        "controller": job.controller,
        "state": job.stage.value,
        "since": round(job.since, 3),
        "run": job.run,
        "due": None if job.due is None else round(job.due, 3),
        "pid": job.child.pid if job.child is not None else None,
    }


def _seconds_since(stamp: float | None) -> float | None:
    """The age of a monotonic stamp; None without one."""
    return None if stamp is None else time.monotonic() - stamp
