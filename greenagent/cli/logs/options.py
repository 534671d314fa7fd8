"""Where the logs are, and how the options of ``greenagent-logs`` are read."""

from __future__ import annotations

import argparse
import os
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

from greenagent.cli.common import (
    EXIT_FAILED,
    NO_CONFIG,
    WHO_MAY,
    add_config,
    configuration_file,
    print_error,
)
from greenagent.cli.lines import regex
from greenagent.cli.logs.jobs import SORTS, read_states
from greenagent.logs.folder import LogFolder
from greenagent.values.errors import GreenagentError


class LogPlace(NamedTuple):
    """The log folder that was asked for, and what its configuration told: the ledger, and ``origin``, its own name."""

    folder: LogFolder
    spool: Path | None
    origin: str

    def need_databases(self) -> None:
        """Raises GreenagentError where there is nothing to read: an empty answer would not say why."""
        if not self.folder.databases() and not any(self.folder.path.glob("damaged-*.sqlite")):
            raise GreenagentError(f"there is no log database in {self.folder.path.absolute()}{self.origin}")


class Unread:
    """Warns of log databases that cannot be read, once each, so that the others are still shown."""

    def __init__(self) -> None:
        self._paths: set[Path] = set()

    def __call__(self, path: Path, error: sqlite3.Error) -> None:
        if path not in self._paths:
            self._paths.add(path)
            may_not = os.path.exists(path) and not os.access(path, os.R_OK)
            why = f"Permission denied: {WHO_MAY}" if may_not else str(error)
            print_error("greenagent-logs", f"warning: {path.absolute()} cannot be read: {why}")

    @property
    def exit_code(self) -> int:
        return EXIT_FAILED if self._paths else 0


def add_place(parser: argparse.ArgumentParser) -> None:
    """The two ways to say where the logs are."""
    place = parser.add_argument_group("where the logs are")
    add_config(place)
    place.add_argument(
        "--dir", metavar="DIR", action=Once, help="a folder of log databases, also a copied one; no agent is needed"
    )


class Once(argparse.Action):
    """An option that is not to be given twice: the first would be passed over in silence."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option_string} is given twice: one at a time")
        setattr(namespace, self.dest, values)


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """What else may be asked of jobs."""
    group = parser.add_argument_group("with --jobs")
    group.add_argument("--state", type=read_states, metavar="LIST", action="append", help="failed, or error,timeout")
    group.add_argument("--command", type=regex, default="", metavar="REGEX", help="whose command line matches")
    group.add_argument("--sort", choices=SORTS, help="the largest last (default start)")


def check_job_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Checks them."""
    options.state = frozenset().union(*options.state or ())
    if not options.jobs and (options.state or options.command or options.sort):
        parser.error("--state, --command and --sort are for --jobs")


def find_place(parser: argparse.ArgumentParser, options: argparse.Namespace) -> LogPlace:
    """Resolves ``-c`` or ``--dir``. Raises GreenagentError."""
    if options.dir is None:
        options.config = configuration_file(options.config)
    settings = load_configuration(options.config) if options.config is not None else None
    origin = ""
    if options.dir is not None:
        path = Path(options.dir)
    elif settings is None:
        parser.error(f"name a folder with --dir DIR, or the agent's configuration with {NO_CONFIG}")
    elif settings.database_logger is None and not getattr(options, "jobs", False):
        hint = "but what ran (--jobs)" if hasattr(options, "jobs") else ""
        raise GreenagentError(f"{options.config} has no logger of type DB: there is nothing to read {hint}".rstrip())
    else:
        path = Path(settings.log_folder)
        what = "log_dir" if settings.database_logger is not None else "ledger's folder of logs"
        origin = f", the {what} of {options.config}"
    if not path.is_dir():
        raise GreenagentError(f"there is no folder {path.absolute()}{origin}: name another with --dir DIR")
    return LogPlace(LogFolder(path), settings.main.ledger_file if settings is not None else None, origin)


def load_configuration(path: str) -> Any:
    """A configuration file's settings, the environment over them as the agent has it. Raises GreenagentError."""
    # Imported only here: reading a folder needs no configuration and starts faster without.
    from greenagent.settings import SettingsError, load_settings

    try:
        return load_settings(path, os.environ, files=False, reads_only=True).settings
    except SettingsError as error:
        *others, last = error.problems
        raise SettingsError([*others, f"{last} (or name the folder with --dir DIR)"]) from error
