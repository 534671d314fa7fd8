"""Which logger wants which messages of a job (protocol 6.1, 7; design, section 5 "Messages and logs")."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from greenagent.jobs.job import Job, Logged
from greenagent.logs.store import LogStore
from greenagent.logs.write.cursors import pair_name
from greenagent.logs.write.job_log import JobLog, Routes
from greenagent.settings.destinations import OtlpSink
from greenagent.settings.models import ControllerLogger, Settings
from greenagent.spool.schema import FROM_STARTUP
from greenagent.values.arguments import RunArguments
from greenagent.values.levels import LevelSet

SINK_LOGGER: Final = "sink"
"""In place of a logger's name in that of a sink's pair. A logger may have it too: no controller has a sink's name."""


class Pair(NamedTuple):
    """Who wants lines: an AC logger for one of its controllers, or a sink for itself."""

    name: str
    """For the store, which keeps its cursor by it."""
    destination: str
    """The key of the controller or sink."""
    wants: ControllerLogger | OtlpSink
    """Its levels and batches."""

    @property
    def is_sink(self) -> bool:
        return isinstance(self.wants, OtlpSink)

    def levels(self, arguments: RunArguments) -> LevelSet | None:
        """Those of a job's lines that are wanted.

        Its ``loglevels_ac`` is for controllers: what a sink gets is for the operator to say, not for a caller.
        """
        return self.wants.levels if self.is_sink else arguments.loglevels_ac or self.wants.levels


def pairs(settings: Settings) -> Iterator[Pair]:
    """Every AC logger with each of its controllers, and every sink that takes lines."""
    for logger in settings.controller_loggers:
        for controller in logger.controllers:
            yield Pair(pair_name(logger.name, controller), controller, logger)
    for key, sink in settings.line_sinks.items():
        yield Pair(pair_name(SINK_LOGGER, key), key, sink)


class Routing:
    """Opens the logs of jobs with their routes, and gives them others when the settings change."""

    def __init__(self, settings: Callable[[], Settings], store: LogStore) -> None:
        self.bits: dict[str, int] = {}
        """Of every upload pair, as the store has it."""
        self._settings = settings
        self._store = store
        self._open: dict[Job, JobLog] = {}

    def register_pairs(self) -> None:
        """Tells the store who wants lines; before any job logs, and when controllers come or go."""
        self.bits = self._store.register_pairs([pair.name for pair in pairs(self._settings())])

    def open(self, job: Job) -> JobLog:
        """A log for the lines of a job, until ``close``."""
        arguments = job.command.arguments
        label = f"{job.id} {job.command.cmd} {arguments.name}".rstrip()
        max_bytes = self._settings().main.max_log_per_job
        log = self._store.open_job(job.id, arguments.domain, arguments.name, self._routes(job), label, max_bytes)
        self._open[job] = log
        return log

    def close(self, job: Job) -> None:
        """The job is over, or goes on in another image; may block while the disk of its log hangs."""
        self._open.pop(job).close()

    def logged(self, job: Job, log: JobLog) -> Logged:
        """How many lines of a job its controller has been sent or will be; what its cap left out is said first."""
        log.say_over()
        names = (pair.name for pair in pairs(self._settings()) if pair.destination == job.controller)
        bits = [self.bits[name] for name in names if name in self.bits]
        lines: Counter[int] = Counter()
        for (marks, level), count in log.marked.items():
            if any(marks & bit for bit in bits):
                lines[level] += count
        return Logged(dict(lines), log.lost)

    def update(self) -> None:
        """Other settings are in force: new lines of jobs that run already follow them."""
        for job, log in list(self._open.items()):
            log.routes = self._routes(job)

    def _routes(self, job: Job) -> Routes:
        """Where the messages of a job go.

        A job's ``loglevels_db`` and ``loglevels_ac`` replace the levels of the loggers they are named
        after. No controller gets lines of startup tasks, since none asked for them; sinks do.
        """
        settings, arguments = self._settings(), job.command.arguments
        database = settings.database_logger
        wanted: list[tuple[int, LevelSet | None]] = []
        for pair in pairs(settings):
            bit = self.bits.get(pair.name)
            if bit is not None and (pair.is_sink or job.kind != FROM_STARTUP):
                wanted.append((bit, pair.levels(arguments)))
        return Routes(
            loglevels=arguments.loglevels,
            keep=database is not None,
            database=arguments.loglevels_db or (database.levels if database is not None else None),
            pairs=wanted,
            consoles=[logger.levels for logger in settings.console_loggers],
            log_flush=arguments.log_flush,
        )


def own_routes(settings: Settings) -> Routes:
    """Where the agent's own diagnostics go besides stderr: the database alone, every level."""
    return Routes(keep=settings.database_logger is not None)
