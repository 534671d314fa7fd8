"""The agent: builds every part from the settings, starts them, and stops them in order.

Nothing here decides anything about a job, a line or a request: that is behind the doors of the rooms.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from gevent.lock import Semaphore

from greenagent.agent.beginnings import end_orphans, make_log_store, make_orphan_reaper
from greenagent.agent.connections import Connections
from greenagent.agent.ending import DRAIN, EXIT, LAST_KILL, REBOOT, RESTART, EndRequests, end_at_once
from greenagent.agent.oversight import Oversight
from greenagent.agent.status import Parts
from greenagent.agent.upgrade import check_new_image, hold_signals, open_state, release_signals
from greenagent.agent.watchdog import Thresholds
from greenagent.jobs.admission import Admission
from greenagent.jobs.catalogue import fill_catalogue
from greenagent.jobs.handover import FrozenJob, HandedOver
from greenagent.jobs.job import Identity, Job, Reason
from greenagent.jobs.launcher import Catalogue, Launcher
from greenagent.jobs.loggers import job_routes, own_routes
from greenagent.jobs.monitors import JobMonitor
from greenagent.jobs.recovery import Recovery
from greenagent.jobs.startup import StartupTasks, warn_of
from greenagent.logs.joblog import JobLog
from greenagent.process.spawn import Spawner
from greenagent.runtime.agent_log import AgentLog, LineOutput
from greenagent.runtime.greenlets import Supervisor, log_hub_errors
from greenagent.runtime.native import start_hub_threads
from greenagent.settings.models import Settings
from greenagent.settings.reload import changes, merge
from greenagent.spool.history import HistoryFile
from greenagent.spool.spool import Spool
from greenagent.statistics.collector import Statistics
from greenagent.statistics.meter import Meter
from greenagent.statistics.outbox import StatisticsOutbox
from greenagent.statistics.own import AgentMetrics
from greenagent.uplink.sender import UNDER_WAY
from greenagent.values.errors import GreenagentError


class Agent:
    """One agent, from its settings to its last flushed line."""

    def __init__(self, settings: Settings, agent_log: AgentLog, thresholds: Thresholds | None = None) -> None:
        self.settings = settings
        self.agent_log = agent_log
        self.identity = Identity(settings.main.gid, settings.main.nid)
        self.requests = EndRequests()
        self.failure = ""
        self.began = time.monotonic()
        self.supervisor = Supervisor(agent_log, self._give_up)
        self.metrics = AgentMetrics()
        self.oversight = Oversight(self.supervisor, agent_log, self._give_up, self.metrics, thresholds)
        self._job_logs: WeakKeyDictionary[Job, JobLog] = WeakKeyDictionary()
        self._is_replaced = False
        self._reloading = Semaphore()

    # -- start

    def start(self, taken_over: HandedOver | None = None) -> None:
        """Takes the locks, recovers what an earlier life left, and starts everything. Raises GreenagentError.

        ``taken_over``: what the image of the agent that this one replaces handed over.
        """
        log_hub_errors(self.agent_log)
        start_hub_threads()
        main = self.settings.main
        self.spool = Spool(main.ledger_file, self.agent_log, result_memory=main.result_memory)
        self.spool.start()
        self.console = LineOutput(1, "console")
        self.store = make_log_store(self.settings, self.agent_log, self.console)
        try:
            self.store.start()
        except BaseException:
            self.spool.stop()
            raise
        self._own_log = self.store.open_job("agent", "", "", own_routes(self.settings), "")
        self.agent_log.attach(self._own_log.append_now)
        self.history = HistoryFile(main.history_file, self.agent_log)
        self.spawner = Spawner(self.agent_log)
        self.spawner.start()
        if taken_over is None:
            end_orphans(self.spool, self.agent_log, main.kill_grace)
        self.meter = Meter(self.settings.stats.meter_interval)
        self.statistics_outbox = StatisticsOutbox(
            self.spool,
            self.settings.stats.controllers,
            self.settings.stats.max_backlog,
            self.agent_log,
            self.metrics,
        )
        self.statistics = Statistics(
            self.identity.gid,
            self.identity.nid,
            self.settings.stats.key_layout,
            self.settings.stats.interval,
            self.statistics_outbox,
            self.metrics,
        )
        catalogue = Catalogue()
        self.launcher = Launcher(
            lambda: self.settings,
            self.identity,
            self.spool,
            self.spawner.spawn,
            self.supervisor,
            self._open_log,
            self._open_monitor,
            catalogue,
            self.spawner.children,
        )
        self.admission = Admission(
            lambda: self.settings,
            self.identity,
            self.spool,
            self.history,
            self.launcher,
            self.supervisor,
            self.agent_log,
        )
        fill_catalogue(
            catalogue,
            jobs=self.admission,
            store=self.store if self.settings.database_logger is not None else None,
            meter=self.meter,
            settings=lambda: self.settings,
            restart=lambda: self.requests.ask(RESTART),
            reboot=lambda: self.requests.ask(REBOOT),
            fetch_script=self._fetch_script,
        )
        self.connections = Connections(
            lambda: self.settings,
            self.supervisor,
            self.agent_log,
            self.spool,
            self.store,
            self.statistics_outbox,
            self.admission,
        )
        self.connections.register_pairs()
        self._start_services(taken_over)
        self._start_oversight()
        if taken_over is not None:
            self.statistics.preset(taken_over.gauges)
            self.admission.resume(taken_over.jobs)
        self._recover(taken_over)
        warn_of(self.settings.startup, self.identity, self.agent_log.warning)
        self.startup = StartupTasks(self.admission, self.identity, self.supervisor, self.agent_log)
        self.startup.start(self.settings.startup, taken_over.startup if taken_over is not None else None)
        self.connections.update()
        self.oversight.ready()
        self.agent_log.info(
            f"greenagent {self.identity.gid}:{self.identity.nid} is ready, "
            f"polling {', '.join(self.settings.polled_controllers) or 'nobody'}"
        )
        if taken_over is not None and taken_over.request:
            self.requests.ask(taken_over.request)

    def _start_services(self, taken_over: HandedOver | None) -> None:
        self.orphan_reaper = make_orphan_reaper(self.spawner.children, self.agent_log, self.spool.instance, taken_over)
        self.supervisor.service("orphan reaper", self.orphan_reaper.run)
        self.supervisor.service("meter", self.meter.run, heartbeat=self.meter.heartbeat)
        self.supervisor.service("statistics", self.statistics.run, heartbeat=self.statistics.heartbeat)
        self.supervisor.service("ledger upkeep", self.spool.keep_up, lambda: list(self.settings.controllers))

    def _start_oversight(self) -> None:
        parts = Parts(
            settings=lambda: self.settings,
            identity=self.identity,
            supervisor=self.supervisor,
            admission=self.admission,
            connections=self.connections,
            store=self.store,
            spool=self.spool,
            history=self.history,
            spawner=self.spawner,
            statistics=self.statistics_outbox,
            meter=self.meter,
            stall=self.oversight.stall,
        )
        self.oversight.start(parts, self.statistics, self.began)

    def _recover(self, taken_over: HandedOver | None) -> None:
        recovery = Recovery(
            self.spool,
            self.history,
            self.admission,
            self.identity,
            self.settings.controllers,
            self.settings.stats.interval,
            self.agent_log,
        )
        recovery.run({job.row for job in taken_over.jobs} if taken_over is not None else None)

    def _fetch_script(self, controller: str, digest: str) -> bytes:
        link = self.connections.links.get(controller)
        if link is None:
            raise GreenagentError(f"controller {controller} is not configured any more")
        return link.fetch_script(digest)

    def _open_log(self, job: Job) -> Any:
        arguments = job.command.arguments
        routes = job_routes(self.settings, self.connections.bits, job)
        label = f"{job.command.cmd} {arguments.name}".rstrip()
        log = self.store.open_job(
            job.id, arguments.domain, arguments.name, routes, label, self.settings.main.max_log_per_job
        )
        self._job_logs[job] = log
        return log

    def _open_monitor(self, job: Job, say: Callable[[str], None]) -> JobMonitor:
        under = self.supervisor if self.settings.stats.local_intake else None
        return JobMonitor(job, self.statistics, self.meter, say, under)

    # -- live reload

    def reload(self, new: Settings) -> None:
        """Applies what it can of other settings without touching running jobs; names what needs a restart."""
        with self._reloading:  # it waits for old connections: two at once would mix, and remember the older settings
            self._reload(new)

    def _reload(self, new: Settings) -> None:
        if self._is_replaced or self.connections.is_closed:
            return  # the new image, or the next start, reads the file anyway
        plan = changes(self.settings, new)
        self.settings = merge(self.settings, new)
        self.connections.update()
        for job, log in list(self._job_logs.items()):
            log.routes = job_routes(self.settings, self.connections.bits, job)
        self.admission.line.slots = self.settings.main.max_jobs
        self.admission.start_next()
        self.meter.interval = self.settings.stats.meter_interval
        self.statistics.reconfigure(self.settings.stats.interval)
        for text in plan.applied:
            self.agent_log.info(f"reloaded: {text}")
        for text in plan.needs_restart:
            self.agent_log.warning(f"not applied, needs a restart: {text}")
        if plan.nothing:
            self.agent_log.info("reloaded: nothing has changed")

    # -- the end

    def _give_up(self, reason: str) -> None:
        self.failure = reason
        main = self.settings.main
        self.oversight.end_within(main.kill_grace + main.pipe_drain + main.drain_timeout)
        self.requests.ask(EXIT)

    def hand_over(self) -> tuple[HandedOver, int] | None:
        """Freezes the running jobs and closes everything: returns the state for the new image, and its descriptor.

        None, with everything going on here, when there can be no replacement: that is said.
        """
        problem = self.spool.problem or check_new_image(self.spawner, self.spool.path)
        if problem is None:
            hold_signals()
            problem = "it is to end" if self.requests.is_to_end else None
        try:
            descriptor = open_state() if problem is None else -1
        except OSError as error:
            problem = f"there is no memory for the state of its jobs: {error.strerror}"
        if problem is not None:
            self.agent_log.error(f"not replaced, the agent goes on as it is: {problem}")
            self.requests.call_off_replacement()
            release_signals()
            return None
        # No way back from here on. Jobs that stop reading and go on here after all were tried: each part that can
        # block in between (a log on a hung disk, say) then needs a way back of its own, and two jobs may read one pipe.
        self._is_replaced = True
        main = self.settings.main
        self.connections.stop_polling()
        frozen = self._freeze_jobs(main.kill_grace + main.pipe_drain + LAST_KILL)
        detached = self.spawner.children.detached.state()
        state = HandedOver(frozen, self.startup.state(), {}, self.statistics.gauges(), detached)
        state.ledger_file = self.spool.path.absolute()
        state.locks = {str(lock.path): lock.duplicate() for lock in (*self.spool.locks, *self.store.locks)}
        self._close(0, UNDER_WAY)
        state.request = self.requests.asked_meanwhile
        return state, descriptor

    def _freeze_jobs(self, seconds: float) -> list[FrozenJob]:
        """One that does not stop in time is ended; the new image finds it cut off and reports that."""
        frozen, stuck = self.admission.freeze(seconds)
        for job in stuck:
            self.agent_log.error(f"job {job.id} did not stop within {seconds:g} s for the replacement: it is ended")
        end_at_once(stuck)
        return frozen

    def stop(self, how: str = EXIT) -> None:
        """Ends the jobs, brings what they said to disk and, for ``drain_timeout``, to the controllers.

        ``DRAIN`` lets the current runs end by themselves before, for ``drain_wait`` seconds (0: for ever).
        """
        main = self.settings.main
        if self.failure:
            self.agent_log.error(f"giving up: {self.failure}")
        if how == DRAIN:
            self._drain()
        self.agent_log.info("stopping")
        self.connections.stop_polling()
        running = self.admission.stop()
        self.requests.wait_for([job.ended for job in running], main.kill_grace + main.pipe_drain + 5)
        end_at_once([job for job in running if not job.ended.is_set()])
        self.orphan_reaper.end_all()
        self._close(main.drain_timeout)
        self.spawner.stop()

    def _close(self, drain_timeout: float, under_way: float = 0.0) -> None:
        """Brings everything to disk and, for so many seconds, to the controllers; then closes it all.

        ``under_way``: seconds for requests that have begun, where nothing new is to be sent.
        """
        self._flush_logs()
        self.statistics.flush_all()  # now that all is stored or counted as lost
        self.requests.wait_for(self.connections.drain(drain_timeout, under_way), drain_timeout + under_way + 2)
        self.connections.close()
        self.agent_log.detach(self._own_log.append_now)
        self.oversight.stop()
        self.supervisor.kill_all()
        self.store.stop()
        self.spool.stop()
        self.console.close()

    def _flush_logs(self) -> None:
        try:
            self.store.flush()
        except GreenagentError as error:
            self.agent_log.error(f"the last lines are lost: {error}")

    def _drain(self) -> None:
        self.connections.stop_polling()
        running = self.admission.stop(Reason.DRAIN)
        jobs = "1 job runs" if len(running) == 1 else f"{len(running)} jobs run"
        self.agent_log.info(f"draining: {jobs}, no more is taken")
        self.requests.wait_for([job.ended for job in running], self.settings.main.drain_wait or None)
        self.requests.wait_again()  # a SIGTERM meanwhile ended the draining, not the grace of the jobs
