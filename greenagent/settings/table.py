"""The one table of settings: everything else in this room, and the page for people, derives from it."""

from __future__ import annotations

from typing import Final

from greenagent.settings import checks
from greenagent.settings.declaration import REQUIRED, Section, Setting
from greenagent.settings.kinds import FLAG, LEVELS, PATH, SECONDS, TABLE, TEXT, TEXT_TABLE, TEXTS, WHOLE

_SECONDS = "seconds"
_BYTES = "bytes"

MAIN: Final = Section(
    "main",
    "Who this agent is, and how it runs and ends jobs.",
    (
        Setting("gid", WHOLE, REQUIRED, "Grid id of this agent.", check=checks.at_least(1)),
        Setting("nid", WHOLE, REQUIRED, "Node id of this agent, unique in its grid.", check=checks.at_least(1)),
        Setting(
            "max_jobs",
            WHOLE,
            100,
            "How many external processes may run at once. Jobs over the limit wait.",
            "jobs",
            checks.at_least(1),
            live=True,
        ),
        Setting(
            "message_id_file",
            PATH,
            "./.mid",
            "Where the last reserved message id is kept.",
            check=checks.given,
            originals=("message_ID_file",),
        ),
        Setting(
            "history_file",
            PATH,
            "./.history",
            "The jobs to run again at start (max_time = -1), readable by people.",
            check=checks.given,
        ),
        Setting(
            "roles",
            TEXTS,
            [],
            "What this agent can do; commands for a role reach agents that have it. Changes count with the next poll.",
            check=checks.words,
            live=True,
        ),
        Setting(
            "ledger_file",
            PATH,
            "",
            "The database of jobs and of results not yet delivered. Empty: the history file's name with .db added.",
        ),
        Setting(
            "kill_grace",
            SECONDS,
            5,
            "How long a job may take to end after TERM before KILL is sent.",
            _SECONDS,
            checks.at_least(0),
        ),
        Setting(
            "pipe_drain",
            SECONDS,
            2,
            "How long output is still read after a job's process has ended.",
            _SECONDS,
            checks.at_least(0),
        ),
        Setting(
            "drain_timeout",
            SECONDS,
            10,
            "How long the agent delivers to controllers when it is stopped.",
            _SECONDS,
            checks.at_least(0),
        ),
        Setting(
            "drain_wait",
            SECONDS,
            0,
            "How long SIGUSR1 lets jobs finish before they are ended. 0: for ever.",
            _SECONDS,
            checks.at_least(0),
        ),
        Setting(
            "max_line",
            WHOLE,
            1048576,
            "Longer lines of output are cut into several messages.",
            _BYTES,
            checks.at_least(1024),
        ),
        Setting(
            "result_memory",
            SECONDS,
            86400,
            "How long results are kept to answer a command that arrives again.",
            _SECONDS,
            checks.at_least(0),
        ),
        Setting(
            "max_log_per_job",
            WHOLE,
            0,
            "Past so much output a job's lines are counted instead of stored. 0: no cap.",
            _BYTES,
            checks.at_least(0),
        ),
        Setting("allow_reboot", FLAG, False, "Whether controllers may reboot this machine."),
        Setting("scripts_dir", PATH, "./scripts", "The folder of jumpscripts (domain/name.py).", check=checks.given),
        Setting("script_python", TEXT, "", "The Python that runs jumpscripts. Empty: the agent's own."),
    ),
    ignored=(("include", "folders of partial configurations are not supported, put everything in this file"),),
)

CONTROLLER: Final = Section(
    "controllers.<key>",
    "A controller. Other sections call it by its key.",
    (Setting("url", TEXT, REQUIRED, "Base URL, http or https; it may carry a path.", "", checks.http_url, live=True),),
)

SECURITY: Final = Section(
    "controllers.<key>.security",
    "TLS towards this controller. Files are PEM; an empty text counts as not given.",
    (
        Setting("client_certificate", PATH, "", "The agent's certificate, with its chain.", live=True),
        Setting(
            "client_certificate_key", PATH, "", "The private key of that certificate, without password.", live=True
        ),
        Setting("certificate_authority", PATH, "", "An authority to trust beside the system's.", live=True),
    ),
)

EXTENSION: Final = Section(
    "extensions.<name>",
    "A command of your own: its name, and the program it runs. The heading [extension.<name>] is accepted too.",
    (
        Setting("binary", TEXT, REQUIRED, "The program: a path, or a name found in PATH.", "", checks.given, live=True),
        Setting("cwd", TEXT, "", "The folder it runs in. Empty: the agent's.", live=True),
        Setting(
            "args",
            TEXTS,
            [],
            "Its arguments, {key} filled in from the run arguments; the caller's args follow.",
            live=True,
        ),
        Setting("env", TEXT_TABLE, {}, "Environment variables for it.", live=True),
        Setting("allow_parent", FLAG, False, "Whether a value may climb out of cwd with '..'.", live=True),
        Setting("leave_children", FLAG, False, "Whether children it leaves behind after SUCCESS go on.", live=True),
    ),
)

CHANNEL: Final = Section(
    "channel",
    "Where commands come from.",
    (Setting("cmds", TEXTS, [], "Keys of the controllers to poll. Empty: all.", live=True),),
)

_LEVELS_SETTING = Setting(
    "levels", LEVELS, [], 'Which message levels it takes, such as [2, 7] or "1-9". Empty: all.', live=True
)

SMALLEST_DATABASE: Final = 256 * 1024
"""Bytes: in less, the empty tables with their write-ahead log leave no room for lines."""

DATABASE_LOGGER: Final = Section(
    "logging.<name>",
    "Stores messages in sqlite databases. At most one logger of this type.",
    (
        Setting("log_dir", PATH, "./logs", "The folder of the databases.", check=checks.given),
        _LEVELS_SETTING,
        Setting(
            "max_db_size",
            WHOLE,
            104857600,
            "A database never passes this size, its write-ahead log included, but for a single message that "
            "is larger than about a third of it. 0: no limit.",
            _BYTES,
            checks.zero_or_at_least(SMALLEST_DATABASE),
        ),
        Setting("max_dbs", WHOLE, 0, "How many old databases are kept. 0: no limit.", "files", checks.at_least(0)),
        Setting("max_age", SECONDS, 0, "How old they may become. 0: no limit.", _SECONDS, checks.at_least(0)),
        Setting(
            "min_free",
            WHOLE,
            0,
            "With less free space than this, old databases are deleted. 0: never.",
            _BYTES,
            checks.at_least(0),
        ),
    ),
    variant="DB",
    ignored=(("address", "is not used, log_dir names the folder of the databases"),),
)

CONTROLLER_LOGGER: Final = Section(
    "logging.<name>",
    "Sends messages to controllers in batches.",
    (
        Setting("flush_int", SECONDS, 300, "A batch goes out this often.", _SECONDS, checks.at_least(0.1), live=True),
        Setting("batch_size", WHOLE, 1000, "A batch goes out when it is this long.", "messages", checks.at_least(1)),
        Setting("controllers", TEXTS, [], "Keys of the controllers to send to. Empty: all.", live=True),
        _LEVELS_SETTING,
    ),
    variant="AC",
)

CONSOLE_LOGGER: Final = Section(
    "logging.<name>",
    "Prints messages on stdout, one line each: `DATE TIME ID# CMD NAME|LEVEL:TEXT`, such as "
    "`2026-01-31 12:30:00 17# execute date|2:no such file`. ID is the message's, CMD the command of its job, "
    "NAME its run argument `name` (left out where there is none). Newlines and control characters within TEXT "
    "show as escapes.",
    (_LEVELS_SETTING,),
    variant="console",
)

STATS: Final = Section(
    "stats",
    "Statistics of jobs and of the agent.",
    (
        Setting(
            "interval", WHOLE, 60, "How often aggregated values are sent.", _SECONDS, checks.at_least(1), live=True
        ),
        Setting("controllers", TEXTS, [], "Keys of the controllers to send to. Empty: all.", live=True),
        Setting(
            "meter_interval",
            SECONDS,
            2,
            "How often processor and memory use of jobs is read.",
            _SECONDS,
            checks.at_least(0.1),
            live=True,
        ),
        Setting(
            "key_layout",
            TEXT,
            "seed",
            "seed: gid.nid.domain.name.key; later: with the command name.",
            "",
            checks.one_of("seed", "later"),
        ),
        Setting("local_intake", FLAG, False, "Whether each job gets a loopback UDP port for statsd lines."),
        Setting(
            "max_backlog",
            WHOLE,
            67108864,
            "How much is kept for controllers that are away; the oldest is dropped first. 0: no limit.",
            _BYTES,
            checks.at_least(0),
        ),
    ),
    ignored=(
        ("ac", "is not used, give the controllers in [stats] controllers"),
        ("redis", "is not used, statistics go to controllers"),
    ),
)

METRICS: Final = Section(
    "metrics",
    "Figures for Prometheus, and the agent's health.",
    (Setting("listen", TEXT, "", "HOST:PORT to serve them on. Empty: off.", "", checks.listen_address),),
)

STARTUP: Final = Section(
    "startup.<id>",
    "A job that runs when the agent starts. The heading's name is its job id.",
    (
        Setting("name", TEXT, REQUIRED, "The command: a built-in or an extension.", "", checks.given),
        Setting("args", TABLE, {}, "Its run arguments."),
        Setting("data", TEXT, "", "Text for its standard input."),
        Setting("after", TEXTS, [], "Ids of startup tasks that must have started well before it."),
        Setting("must_exit", FLAG, False, "Whether those that wait for it wait until it has ended with SUCCESS."),
    ),
)

SECTIONS: Final = (
    MAIN,
    CONTROLLER,
    SECURITY,
    EXTENSION,
    CHANNEL,
    DATABASE_LOGGER,
    CONTROLLER_LOGGER,
    CONSOLE_LOGGER,
    STATS,
    METRICS,
    STARTUP,
)
LOGGERS: Final = {section.variant.lower(): section for section in (DATABASE_LOGGER, CONTROLLER_LOGGER, CONSOLE_LOGGER)}

IGNORED_SECTIONS: Final = (("hubble", "is not used, tunnels are not offered"),)
SECTION_NAMES: Final = (*dict.fromkeys(section.pattern.split(".")[0] for section in SECTIONS), "extension")

ENVIRONMENT_PREFIX: Final = "GREENAGENT_"
OTHER_VARIABLES: Final = ("GREENAGENT_JOB", "GREENAGENT_CTL_", "GREENAGENT_CONTROLLER_", "GREENAGENT_HANDOVER")
"""Names and beginnings of variables that are no settings: a job's tag, other programs' options, a handover."""
FLAGS: Final = {"gid": ("main", "gid"), "nid": ("main", "nid"), "roles": ("main", "roles")}
"""Command line flags (without ``--``) that override a setting."""


def variable_name(section: Section, setting: Setting) -> str:
    """The environment variable of a setting in a fixed section."""
    return f"{ENVIRONMENT_PREFIX}{section.pattern}_{setting.name}".upper()
