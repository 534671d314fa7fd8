"""The settings as the rest of the agent sees them: checked, complete, immutable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from greenagent.values.levels import LevelSet


def ledger_beside(history_file: Path) -> Path:
    """Where the ledger is when nobody names another place (design, section 3)."""
    return history_file.with_name(history_file.name + ".db")


@dataclass(frozen=True, slots=True)
class MainSettings:
    """Section ``main``. Times in seconds, ``max_line`` and ``max_log_per_job`` in bytes (0 = no cap)."""

    gid: int
    nid: int
    max_jobs: int
    message_id_file: Path
    history_file: Path
    roles: tuple[str, ...]
    ledger_file: Path
    kill_grace: float
    pipe_drain: float
    drain_timeout: float
    drain_wait: float
    max_line: int
    result_memory: float
    max_log_per_job: int
    allow_reboot: bool
    scripts_dir: Path
    script_python: str


@dataclass(frozen=True, slots=True)
class SecuritySettings:
    """Section ``controllers.<key>.security``: PEM files, or None where not given."""

    client_certificate: Path | None = None
    client_certificate_key: Path | None = None
    certificate_authority: Path | None = None


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """One controller: the key other sections call it by, and its base URL without a slash at the end."""

    key: str
    url: str
    security: SecuritySettings = field(default_factory=SecuritySettings)


@dataclass(frozen=True, slots=True)
class ExtensionSettings:
    """One extension: a command name that runs a program (protocol 10)."""

    name: str
    binary: str
    cwd: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    allow_parent: bool = False
    leave_children: bool = False


@dataclass(frozen=True, slots=True)
class ChannelSettings:
    """Section ``channel``: the controllers to poll as written; empty means all."""

    cmds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DatabaseLogger:
    """A logger of type DB. Sizes in bytes, ``max_age`` in seconds, 0 = no limit; levels None = all."""

    name: str
    log_dir: Path
    levels: LevelSet | None
    max_db_size: int
    max_dbs: int
    max_age: float
    min_free: int


@dataclass(frozen=True, slots=True)
class ControllerLogger:
    """A logger of type AC: ``controllers`` are the resolved keys, levels None = all."""

    name: str
    flush_int: float
    batch_size: int
    controllers: tuple[str, ...]
    levels: LevelSet | None


@dataclass(frozen=True, slots=True)
class ConsoleLogger:
    """A logger of type console; levels None = all."""

    name: str
    levels: LevelSet | None


Logger = DatabaseLogger | ControllerLogger | ConsoleLogger


@dataclass(frozen=True, slots=True)
class StatsSettings:
    """Section ``stats``. Intervals in seconds, ``max_backlog`` in bytes, controllers resolved."""

    interval: int
    controllers: tuple[str, ...]
    meter_interval: float
    key_layout: str
    local_intake: bool
    max_backlog: int


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Section ``metrics``: ``listen`` is HOST:PORT, or empty for off."""

    listen: str


@dataclass(frozen=True, slots=True)
class StartupTask:
    """One task run at the agent's start (protocol 11); ``args`` are run arguments as written."""

    id: str
    name: str
    args: dict[str, Any] = field(default_factory=dict)
    data: str = ""
    after: tuple[str, ...] = ()
    must_exit: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the agent is told. ``origins`` maps ``section.key`` to default, file, environment or flag."""

    main: MainSettings
    controllers: dict[str, ControllerSettings]
    extensions: dict[str, ExtensionSettings]
    channel: ChannelSettings
    loggers: tuple[Logger, ...]
    stats: StatsSettings
    metrics: MetricsSettings
    startup: tuple[StartupTask, ...]
    path: Path
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def polled_controllers(self) -> tuple[str, ...]:
        """The keys of the controllers to poll, in the order of the file."""
        return self.channel.cmds or tuple(self.controllers)

    @property
    def database_logger(self) -> DatabaseLogger | None:
        """The one DB logger, if there is one."""
        return next((logger for logger in self.loggers if isinstance(logger, DatabaseLogger)), None)

    @property
    def controller_loggers(self) -> tuple[ControllerLogger, ...]:
        """The loggers of type AC."""
        return tuple(logger for logger in self.loggers if isinstance(logger, ControllerLogger))

    @property
    def console_loggers(self) -> tuple[ConsoleLogger, ...]:
        """The loggers of type console."""
        return tuple(logger for logger in self.loggers if isinstance(logger, ConsoleLogger))
