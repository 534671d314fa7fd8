"""Which logger wants which messages of a job (protocol 6.1, 7; design, section 5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from greenagent.jobs.job import Job
from greenagent.logs.routes import Routes
from greenagent.settings.models import ControllerLogger, Settings
from greenagent.spool.records import FROM_STARTUP
from greenagent.values.levels import LevelSet


def pair_name(logger: str, controller: str) -> str:
    """What the log store calls an AC logger together with one of its controllers."""
    return f"{logger}/{controller}"


def pairs(settings: Settings) -> Iterable[tuple[ControllerLogger, str]]:
    """Every AC logger with each of its controllers."""
    for logger in settings.controller_loggers:
        for controller in logger.controllers:
            yield logger, controller


def job_routes(settings: Settings, bits: Mapping[str, int], job: Job) -> Routes:
    """Where the messages of a job go; ``bits`` are those of the store's upload pairs.

    A job's ``loglevels_db`` and ``loglevels_ac`` replace the levels of the loggers they are named
    after. Lines of startup tasks are not uploaded.
    """
    arguments = job.command.arguments
    database = settings.database_logger
    wanted: list[tuple[int, LevelSet | None]] = []
    if job.kind != FROM_STARTUP:
        for logger, controller in pairs(settings):
            bit = bits.get(pair_name(logger.name, controller))
            if bit is not None:
                wanted.append((bit, arguments.loglevels_ac or logger.levels))
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
