"""Every setting, declared once, in the dataclasses that the rest of the agent sees: checked, complete, immutable.

The docstring of a class with a ``section`` is its text in docs/configuration.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

from greenagent.runtime.agent_log import VERBOSITIES
from greenagent.settings.destinations import SINKS, ControllerSettings, OtlpSink, SecuritySettings, Sink, SinkSecurity
from greenagent.settings.schema import (
    CONTROLLERS,
    FLAG,
    LEVELS,
    PATH,
    REQUIRED,
    SECONDS,
    TABLE,
    TEXT,
    TEXT_TABLE,
    TEXTS,
    WHOLE,
    Section,
    Setting,
    at_least,
    file_name,
    given,
    listen_address,
    literal,
    one_of,
    program,
    setting,
    words,
    zero_or_at_least,
)
from greenagent.values.levels import LevelSet

SMALLEST_DATABASE: Final = 256 * 1024
"""Bytes: in less, the empty tables with their write-ahead log leave no room for lines."""

_LEVELS_HELP = 'Which message levels it takes, such as [2, 7] or "1-9". Empty: all.'


def ledger_beside(history_file: Path) -> Path:
    """Where the ledger is when nobody names another place (design, section 3)."""
    return history_file.with_name(history_file.name + ".db")


@dataclass(frozen=True, slots=True)
class MainSettings:
    """Who this agent is, and how it runs and ends jobs."""

    section: ClassVar = Section(
        "main",
        ignored={
            "include": "folders of partial configurations are not supported, put everything in this file",
            "network": "is not used, the agent waits for its controllers by itself",
        },
    )
    gid: int = setting(WHOLE, REQUIRED, "Grid id of this agent.", at_least(1))
    nid: int = setting(WHOLE, REQUIRED, "Node id of this agent, unique in its grid.", at_least(1))
    max_jobs: int = setting(
        WHOLE,
        100,
        "How many external processes may run at once. Jobs over the limit wait.",
        at_least(1),
        "jobs",
        live=True,
    )
    message_id_file: Path = setting(
        PATH, "./.mid", "Where the last reserved message id is kept.", file_name, originals=("message_ID_file",)
    )
    history_file: Path = setting(
        PATH,
        "./.history",
        "The jobs that outlive the agent (recurring, or max_time = -1), readable by people.",
        file_name,
    )
    roles: tuple[str, ...] = setting(
        TEXTS,
        [],
        "What this agent can do; commands for a role reach agents that have it. Changes count with the next poll.",
        words,
        live=True,
    )
    ledger_file: Path = setting(
        PATH,
        "",
        "The database of jobs and of results not yet delivered. Empty: the history file's name with .db added.",
    )
    kill_grace: float = setting(
        SECONDS, 5, "How long a job may take to end after TERM before KILL is sent.", at_least(0), "seconds"
    )
    pipe_drain: float = setting(
        SECONDS, 2, "How long output is still read after a job's process has ended.", at_least(0), "seconds"
    )
    drain_timeout: float = setting(
        SECONDS, 10, "How long the agent delivers to controllers when it is stopped.", at_least(0), "seconds"
    )
    drain_wait: float = setting(
        SECONDS, 0, "How long SIGUSR1 lets jobs finish before they are ended. 0: for ever.", at_least(0), "seconds"
    )
    max_line: int = setting(
        WHOLE, 1048576, "Longer lines of output are cut into several messages.", at_least(1024), "bytes"
    )
    result_memory: float = setting(
        SECONDS, 86400, "How long results are kept to answer a command that arrives again.", at_least(0), "seconds"
    )
    max_log_per_job: int = setting(
        WHOLE, 0, "Past so much output a job's lines are counted instead of stored. 0: no cap.", at_least(0), "bytes"
    )
    verbosity: str = setting(
        TEXT,
        "info",
        "What the agent says of itself, on stderr and under the job id agent: error, warning, info, or debug (the "
        "beginning and end of every run). Each has what those before it have.",
        one_of(*VERBOSITIES),
        live=True,
    )
    require_tls: bool = setting(FLAG, False, "Whether controllers on other machines must be reached by https.")
    allow_reboot: bool = setting(FLAG, False, "Whether controllers may reboot this machine.")
    scripts_dir: Path = setting(PATH, "./scripts", "The folder of jumpscripts (domain/name.py).", given)
    script_python: str = setting(TEXT, "", "The Python that runs jumpscripts. Empty: the agent's own.", literal)
    env: dict[str, str] = setting(
        TEXT_TABLE,
        {},
        "Environment variables for every job, which inherits none of the agent's. Those of an extension or caller win.",
        live=True,
        secret=True,
    )


@dataclass(frozen=True, slots=True)
class ExtensionSettings:
    """A command of your own: its name, and the program it runs. The heading [extension.<name>] is accepted too."""

    section: ClassVar = Section("extensions.<name>", live=True)
    name: str
    binary: str = setting(TEXT, REQUIRED, "The program: a path, or a name found in PATH.", program, live=True)
    cwd: str = setting(TEXT, "", "The folder it runs in. Empty: the agent's.", literal, live=True)
    args: tuple[str, ...] = setting(
        TEXTS,
        [],
        "Its arguments, {key} filled in from the run arguments; the caller's args follow.",
        live=True,
        secret=True,
    )
    env: dict[str, str] = setting(TEXT_TABLE, {}, "Environment variables for it.", live=True, secret=True)
    allow_parent: bool = setting(
        FLAG,
        False,
        "Whether a value may lead out of cwd, by '..' or as an absolute path, and a caller's variable may decide what "
        "runs (PATH, HOME, LD_*, *_OPTIONS and their like, see security.md).",
        live=True,
    )
    leave_children: bool = setting(
        FLAG,
        False,
        "Whether children it leaves behind after exit code 0 go on; a stop of the systemd unit ends them all the same.",
        live=True,
    )


@dataclass(frozen=True, slots=True)
class ChannelSettings:
    """Where commands come from."""

    section: ClassVar = Section("channel")
    cmds: tuple[str, ...] = setting(CONTROLLERS, [], "Keys of the controllers to poll. Empty: all.", live=True)


@dataclass(frozen=True, slots=True)
class DatabaseLogger:
    """Stores messages in sqlite databases. At most one logger of this type."""

    section: ClassVar = Section(
        "logging.<name>", "DB", ignored={"address": "is not used, log_dir names the folder of the databases"}
    )
    name: str
    log_dir: Path = setting(PATH, "./logs", "The folder of the databases.", given)
    levels: LevelSet | None = setting(LEVELS, [], _LEVELS_HELP, live=True)
    max_db_size: int = setting(
        WHOLE,
        104857600,
        "A database never passes this size, its write-ahead log included, but for a single message that "
        "is larger than about a third of it. 0: no limit.",
        zero_or_at_least(SMALLEST_DATABASE),
        "bytes",
    )
    max_dbs: int = setting(WHOLE, 0, "How many old databases are kept. 0: no limit.", at_least(0), "files")
    max_age: float = setting(SECONDS, 0, "How old they may become. 0: no limit.", at_least(0), "seconds")
    min_free: int = setting(
        WHOLE, 0, "With less free space than this, old databases are deleted. 0: never.", at_least(0), "bytes"
    )


@dataclass(frozen=True, slots=True)
class ControllerLogger:
    """Sends messages to controllers in batches."""

    section: ClassVar = Section("logging.<name>", "AC")
    name: str
    flush_int: float = setting(SECONDS, 300, "A batch goes out this often.", at_least(0.1), "seconds", live=True)
    batch_size: int = setting(WHOLE, 1000, "A batch goes out when it is this long.", at_least(1), "messages")
    controllers: tuple[str, ...] = setting(
        CONTROLLERS, [], "Keys of the controllers to send to. Empty: all.", live=True
    )
    levels: LevelSet | None = setting(LEVELS, [], _LEVELS_HELP, live=True)


@dataclass(frozen=True, slots=True)
class ConsoleLogger:
    """Prints messages on stdout, one line each: `DATE TIME ID# JOB CMD NAME|LEVEL:TEXT`, such as
    `2026-01-31 12:30:00+0100 17# nightly-4 execute date|2:no such file`. ID is the message's, JOB the id of its job,
    CMD the command of that, NAME its run argument `name` (left out where there is none). Newlines and control
    characters within TEXT show as escapes.
    """

    section: ClassVar = Section("logging.<name>", "console")
    name: str
    levels: LevelSet | None = setting(LEVELS, [], _LEVELS_HELP, live=True)


Logger = DatabaseLogger | ControllerLogger | ConsoleLogger


@dataclass(frozen=True, slots=True)
class StatsSettings:
    """Statistics of jobs and of the agent."""

    section: ClassVar = Section(
        "stats",
        ignored={
            "ac": "is not used, give the controllers in [stats] controllers",
            "redis": "is not used, statistics go to controllers",
        },
    )
    interval: int = setting(WHOLE, 60, "How often aggregated values are sent.", at_least(1), "seconds", live=True)
    controllers: tuple[str, ...] = setting(
        CONTROLLERS, [], "Keys of the controllers to send to. Empty: all.", live=True
    )
    meter_interval: float = setting(
        SECONDS, 2, "How often processor and memory use of jobs is read.", at_least(0.1), "seconds", live=True
    )
    key_layout: str = setting(
        TEXT, "seed", "seed: gid.nid.domain.name.key; later: with the command name.", one_of("seed", "later")
    )
    local_intake: bool = setting(FLAG, False, "Whether each job gets a loopback UDP port for statsd lines.")
    max_backlog: int = setting(
        WHOLE,
        67108864,
        "How much is kept for controllers that are away; the oldest is dropped first. 0: no limit.",
        at_least(0),
        "bytes",
    )


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Figures for Prometheus, and the agent's health."""

    section: ClassVar = Section("metrics")
    listen: str = setting(TEXT, "", "HOST:PORT to serve them on. Empty: off.", listen_address)
    host_names: tuple[str, ...] = setting(
        TEXTS,
        [],
        "Names it may be asked by (the Host header), beside addresses, localhost and this machine's own name.",
        words,
    )


@dataclass(frozen=True, slots=True)
class StartupTask:
    """A job that runs when the agent starts. The heading's name is its job id. No controller asked for it: its lines
    stay on the node, where greenagent-logs shows them."""

    section: ClassVar = Section("startup.<id>")
    id: str
    name: str = setting(TEXT, REQUIRED, "The command, as of a controller: `execute`, `bash`, an extension, ...", given)
    args: dict[str, Any] = setting(TABLE, {}, "Its run arguments.", secret=True)
    data: str = setting(TEXT, "", "Text for its standard input.", secret=True)
    after: tuple[str, ...] = setting(TEXTS, [], "Ids of startup tasks that must have started well before it.")
    must_exit: bool = setting(FLAG, False, "Whether those that wait for it wait until it has ended with SUCCESS.")


LOGGERS: Final = (DatabaseLogger, ControllerLogger, ConsoleLogger)
LOGGER_TYPE: Final = Setting(
    TEXT, REQUIRED, "DB, AC or console.", one_of(*(model.section.variant for model in LOGGERS), any_case=True)
)
MODELS: Final = (
    MainSettings,
    ControllerSettings,
    SecuritySettings,
    *SINKS,
    SinkSecurity,
    ExtensionSettings,
    ChannelSettings,
    *LOGGERS,
    StatsSettings,
    MetricsSettings,
    StartupTask,
)
"""Every dataclass with a section, in the order of the page."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the agent is told. Lists of controllers are resolved: never empty for "all".

    ``origins`` maps ``section.key`` to default, file, environment or flag.
    """

    main: MainSettings
    controllers: dict[str, ControllerSettings]
    sinks: dict[str, Sink]
    extensions: dict[str, ExtensionSettings]
    channel: ChannelSettings
    loggers: tuple[Logger, ...]
    stats: StatsSettings
    metrics: MetricsSettings
    startup: tuple[StartupTask, ...]
    path: Path
    origins: Mapping[str, str] = field(default_factory=dict)

    def sections(self) -> dict[str, Any]:
        """The dataclasses by their headings, such as ``controllers.main``."""
        return {
            "main": self.main,
            **{f"controllers.{key}": controller for key, controller in self.controllers.items()},
            **{f"sinks.{key}": sink for key, sink in self.sinks.items()},
            **{f"extensions.{name}": extension for name, extension in self.extensions.items()},
            "channel": self.channel,
            **{f"logging.{logger.name}": logger for logger in self.loggers},
            "stats": self.stats,
            "metrics": self.metrics,
            **{f"startup.{task.id}": task for task in self.startup},
        }

    @property
    def destinations(self) -> tuple[str, ...]:
        """The keys of everything that is sent to."""
        return (*self.controllers, *self.sinks)

    @property
    def line_sinks(self) -> dict[str, OtlpSink]:
        """The sinks that get log lines."""
        return {key: sink for key, sink in self.sinks.items() if isinstance(sink, OtlpSink) and sink.takes_lines}

    @property
    def statistics_to(self) -> tuple[str, ...]:
        """The keys of everything that gets statistics."""
        return (*self.stats.controllers, *(key for key, sink in self.sinks.items() if sink.takes_statistics))

    @property
    def database_logger(self) -> DatabaseLogger | None:
        """The one DB logger, if there is one."""
        return next((logger for logger in self.loggers if isinstance(logger, DatabaseLogger)), None)

    @property
    def log_folder(self) -> Path:
        """Where the log databases are; without a DB logger beside the ledger, with what waits and records of runs."""
        logger, ledger = self.database_logger, self.main.ledger_file
        return logger.log_dir if logger is not None else ledger.with_name(ledger.name + ".logs")

    @property
    def controller_loggers(self) -> tuple[ControllerLogger, ...]:
        """The loggers of type AC."""
        return tuple(logger for logger in self.loggers if isinstance(logger, ControllerLogger))

    @property
    def console_loggers(self) -> tuple[ConsoleLogger, ...]:
        """The loggers of type console."""
        return tuple(logger for logger in self.loggers if isinstance(logger, ConsoleLogger))
