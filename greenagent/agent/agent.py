"""The agent: builds every part from the settings, starts them, and stops them in order.

Nothing here decides anything about a job, a line or a request: that is behind the doors of the rooms.
"""

from __future__ import annotations

import time
from functools import partial

from gevent.lock import Semaphore

from greenagent import __version__, builtins
from greenagent.agent.bootstrap import (
    complete_runs,
    end_orphans,
    find_original,
    leave_copied,
    leave_name,
    make_log_store,
    say_lost,
    settle_former,
)
from greenagent.agent.command_reader import CommandReader
from greenagent.agent.connections import Connections
from greenagent.agent.monitoring import Monitoring
from greenagent.agent.shutdown import (
    DRAIN,
    EXIT,
    LAST_COMMAND,
    LAST_KILL,
    REBOOT,
    RESTART,
    ShutdownRequests,
    end_at_once,
)
from greenagent.agent.status import Parts
from greenagent.agent.upgrade import check_new_image, hold_signals, open_state, release_signals
from greenagent.agent.watchdog import Thresholds
from greenagent.jobs.admission import Admission
from greenagent.jobs.commands import Commands, Scripts
from greenagent.jobs.context import JobContext
from greenagent.jobs.handover import HandedOver, SuspendedJob
from greenagent.jobs.job import Identity, Reason
from greenagent.jobs.routing import Routing, own_routes
from greenagent.jobs.run_records import RunRecords
from greenagent.jobs.startup import StartupTasks, recover, warn_of
from greenagent.process.orphans import OrphanReaper
from greenagent.process.spawn import Spawner
from greenagent.runtime.agent_log import AgentLog, LineOutput
from greenagent.runtime.database import BEGINS
from greenagent.runtime.greenlets import Supervisor, log_hub_errors
from greenagent.runtime.native import start_hub_threads
from greenagent.runtime.state_files import StateFiles
from greenagent.settings.models import Settings
from greenagent.settings.reload import changes, merge
from greenagent.spool.history import HistoryFile
from greenagent.spool.spool import Spool
from greenagent.statistics.collector import Statistics
from greenagent.statistics.meter import Meter
from greenagent.statistics.outbox import StatisticsOutbox
from greenagent.statistics.own import AgentMetrics
from greenagent.uplink.link import ControllerLink
from greenagent.uplink.uploader import UNDER_WAY_TIMEOUT
from greenagent.values.errors import GreenagentError


class Agent:
    """One agent, from its settings to its last flushed line."""

    def __init__(self, settings: Settings, agent_log: AgentLog, thresholds: Thresholds | None = None) -> None:
        self.settings = settings
        self.agent_log = agent_log
        self.identity = Identity(settings.main.gid, settings.main.nid)
        self.requests = ShutdownRequests()
        self.failure = ""
        self.began = time.monotonic()
        self.supervisor = Supervisor(agent_log, self._give_up)
        self.metrics = AgentMetrics()
        self.state_files = StateFiles(agent_log)
        self.monitoring = Monitoring(self.supervisor, agent_log, self._give_up, self.metrics, thresholds)
        self._is_replaced = False
        self._reloading = Semaphore()

    # -- start

    def start(self, taken_over: HandedOver | None = None) -> None:
        """Takes the locks, recovers what an earlier life left, and starts everything. Raises GreenagentError.

        ``taken_over``: what the image of the agent that this one replaces handed over.
        """

        def settings() -> Settings:
            return self.settings

        log_hub_errors(self.agent_log)
        start_hub_threads()
        main = self.settings.main
        address = f"{self.identity.gid}/{self.identity.nid}"
        self.spool = Spool(main.ledger_file, self.agent_log, result_memory=main.result_memory, address=address)
        self.spool.start()
        had_ids = main.message_id_file.exists()
        self.console = LineOutput(1, "console")
        self.store = make_log_store(self.settings, self.agent_log, self.console, self.spool.cursors)
        try:
            self.store.start()
        except BaseException:
            self.spool.stop()
            raise
        locks = (*self.spool.locks, *self.store.locks)
        self._own_log = self.store.open_job("agent", "", "", own_routes(self.settings), "")
        self.agent_log.attach(self._own_log.append_now)
        say_lost(self.spool, main.message_id_file if had_ids else None, locks, self.agent_log)
        find_original(self.spool)
        if not self.spool.claim.is_others:
            self.store.tell_vanished()
        self.history = HistoryFile(main.history_file, self.agent_log)
        self.spawner = Spawner(self.agent_log)
        self.spawner.start()
        survivors = end_orphans(self.spool, self.agent_log, main.kill_grace, locks) if taken_over is None else {}
        leave_name(locks, self.spool.instance, self.agent_log)
        self.meter = Meter(self.settings.stats.meter_interval)
        self.statistics_outbox = StatisticsOutbox(
            self.spool,
            self.settings.statistics_to,
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
        self.routing = Routing(settings, self.store)
        self.command_reader = CommandReader(self.spawner, self.supervisor)
        scripts = Scripts(settings, self._fetch_script, self.command_reader.read_data)
        self.commands = Commands(settings, scripts.commands)
        context = JobContext(
            settings=settings,
            identity=self.identity,
            agent_log=self.agent_log,
            supervisor=self.supervisor,
            spool=self.spool,
            history=self.history,
            spawner=self.spawner,
            routing=self.routing,
            statistics=self.statistics,
            meter=self.meter,
            commands=self.commands,
            runs=RunRecords(self.store),
        )
        self.admission = Admission(context)
        self.commands.built_ins = builtins.bind(
            builtins.Context(
                settings=settings,
                admission=self.admission,
                meter=self.meter,
                store=self.store if self.settings.database_logger is not None else None,
                restart=lambda: self.requests.ask(RESTART),
                reboot=lambda: self.requests.ask(REBOOT),
            )
        )
        self.connections = Connections(context, self.admission, self.store, self.statistics_outbox, self.command_reader)
        self.routing.register_pairs()
        self._start_services(taken_over)
        parts = Parts(
            context,
            self.admission,
            self.connections,
            self.store,
            self.statistics_outbox,
            self.state_files,
            self.monitoring.lag,
        )
        self.monitoring.start(parts, self.statistics, self.began, must_serve=taken_over is None)
        complete_runs(context, taken_over)
        if taken_over is not None:
            self.statistics.preset(taken_over.gauges)
            self.admission.resume(taken_over.jobs)
        leave_copied(self.spool, self.agent_log)
        former = self.spool.claim.former
        recover(
            context,
            self.admission,
            None if taken_over is None else {job.row for job in taken_over.jobs},
            former=Identity(*map(int, former.split("/"))) if former else None,
            survivors=survivors,
        )
        settle_former(self.spool, self.store.last_seq, self.agent_log)
        warn_of(self.settings.startup, self.identity, self.agent_log.warning)
        self._watch_state()
        self.startup = StartupTasks(context, self.admission)
        self.startup.start(self.settings.startup, taken_over.startup if taken_over is not None else None)
        self.connections.update()
        self.monitoring.ready()
        self.agent_log.info(
            f"greenagent {__version__} {self.identity.gid}:{self.identity.nid} is ready, "
            f"polling {', '.join(self.settings.channel.cmds) or 'nobody'}"
        )
        if taken_over is not None and taken_over.request:
            self.requests.ask(taken_over.request)

    def _start_services(self, taken_over: HandedOver | None) -> None:
        self.orphan_reaper = OrphanReaper(self.spawner.children, self.agent_log, self.spool.instance)
        if taken_over is None:
            self.orphan_reaper.begin()
        else:
            self.orphan_reaper.take_over(taken_over.tags, taken_over.left)
        self.supervisor.service("orphan reaper", self.orphan_reaper.run)
        self.supervisor.service("meter", self.meter.run, heartbeat=self.meter.heartbeat)
        self.supervisor.service("statistics", self.statistics.run, heartbeat=self.statistics.heartbeat)
        self.supervisor.service("ledger upkeep", self.spool.keep_up, lambda: self.settings.destinations)

    def _watch_state(self) -> None:
        for lock in (*self.spool.locks, *self.store.locks):
            self.state_files.watch(lock.path, "the lock", lock.held, lock.renew)
        database = self.spool.database
        for suffix in BEGINS:
            held, is_intact = partial(database.held, suffix), partial(database.is_intact, suffix)
            self.state_files.watch(database.file(suffix), "the ledger", held, self.spool.make_again, is_intact)
        self.state_files.watch(self.history.path, "the history", lambda: self.history.written, self.history.write_again)
        intake = self.store.intake

        def store_ids(_: str) -> None:
            intake.call(partial(intake.ids.store, intake.ids.reserved_to))

        self.state_files.watch(intake.ids.path, "the message id file", lambda: intake.ids.written, store_ids)
        self.supervisor.service("state files", self.state_files.run)

    def _fetch_script(self, controller: str, digest: str) -> bytes:
        link = self.connections.links.get(controller)
        if not isinstance(link, ControllerLink):
            raise GreenagentError(f"controller {controller} is not configured any more")
        return link.fetch_script(digest)

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
        self.routing.update()
        self.admission.queue.slots = self.settings.main.max_jobs
        self.admission.start_next()
        self.meter.interval = self.settings.stats.meter_interval
        self.statistics.reconfigure(self.settings.stats.interval)
        for text in plan.applied:
            self.agent_log.info(f"reloaded: {text}")
        for text in plan.needs_restart:
            self.agent_log.warning(f"not applied, needs a restart: {text}")
        if plan.nothing:
            self.agent_log.info("reloaded: nothing has changed; variables and options stay those of the start")
        self.agent_log.set_verbosity(self.settings.main.verbosity)

    # -- the end

    def _give_up(self, reason: str) -> None:
        self.failure = reason
        main = self.settings.main
        self.monitoring.end_within(main.kill_grace + main.pipe_drain + main.drain_timeout)
        self.requests.ask(EXIT)

    def hand_over(self) -> HandedOver | None:
        """Suspends the running jobs and closes everything; returns the state for the new image.

        None when there can be no replacement: the reason is logged and everything goes on here.
        """
        self.spool.write_back()
        problem = self.spool.problem or check_new_image(self.spawner, self.spool.path, str(self.identity))
        if problem is None:
            hold_signals()
            self.spool.write_back()  # the check took a while
            problem = "it is to end" if self.requests.is_to_end else self.spool.problem
        try:
            state = open_state(self.spool.path, (*self.spool.locks, *self.store.locks)) if problem is None else None
        except OSError as error:
            state, problem = None, f"there is no room for the state of its jobs: {error.strerror}"
        if state is None:
            self.agent_log.error(f"not replaced, the agent goes on as it is: {problem}")
            self.requests.call_off_replacement()
            release_signals()
            return None
        # From here on there is no way back, and none must be added. To go on here after all, admission, startup tasks
        # and connections each needed a second life, and a job that was stuck on a hung log disk came back as two jobs
        # that read the same pipes: its output was split between them.
        self._is_replaced = True
        main = self.settings.main
        self.connections.stop_polling()
        state.jobs = self._suspend_jobs(main.kill_grace + main.pipe_drain + LAST_KILL)
        state.gauges = self.statistics.gauges()  # at once: series without jobs go with the next flush
        self.requests.wait_for(self.connections.that_take, LAST_COMMAND)
        state.startup = self.startup.state()
        state.left = self.spawner.children.detached.state()
        self._close(0, UNDER_WAY_TIMEOUT)
        state.request = self.requests.asked_meanwhile
        return state

    def _suspend_jobs(self, seconds: float) -> list[SuspendedJob]:
        """One that does not stop in time is ended; the new image finds it cut off and reports that."""
        suspended, stuck = self.admission.suspend(seconds)
        for job in stuck:
            self.agent_log.error(f"job {job.id} did not stop within {seconds:g} s for the replacement: it is ended")
        end_at_once(stuck)
        return suspended

    def stop(self, how: str = EXIT) -> None:
        """Ends the jobs, brings their output to disk and, for ``drain_timeout``, to the controllers.

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
        ends = [*(job.ended for job in running), *self.connections.that_take]
        self.requests.wait_for(ends, main.kill_grace + main.pipe_drain + 5)
        end_at_once([job for job in running if not job.ended.is_set()])
        self.orphan_reaper.end_all()
        self._close(main.drain_timeout)
        self.spawner.stop()

    def _close(self, drain_timeout: float, under_way: float = 0.0) -> None:
        """Brings everything to disk and, for ``drain_timeout`` seconds, to the controllers; then closes it all.

        ``under_way``: seconds for requests that have begun, where nothing new is to be sent.
        """
        self._flush_logs()
        self.statistics.flush_all()  # now that all is stored or counted as lost
        self.requests.wait_for(self.connections.drain(drain_timeout, under_way), drain_timeout + under_way + 2)
        self.connections.close()
        self.agent_log.detach(self._own_log.append_now)
        self.monitoring.stop()
        self.supervisor.kill_all()
        self.command_reader.close()
        self.state_files.close()
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
        awaited = [job.ended for job in running if not job.command.arguments.must_always_run]  # those end by no means
        self.requests.wait_for(awaited, self.settings.main.drain_wait or None)
        self.requests.wait_again()  # a SIGTERM meanwhile ended the draining, not the grace of the jobs
