"""The command line of ``greenagent``, and how it refuses; imports nothing of the agent."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from greenagent import __version__
from greenagent.cli.common import EXIT_FAILED, NO_CONFIG, Parser, add_config, configuration_file, count, print_error
from greenagent.process.libc import check_platform
from greenagent.values.errors import GreenagentError

PROGRAM: Final = "greenagent"


def build_parser() -> Parser:
    """The command line's own description."""
    parser = Parser(
        prog=PROGRAM, description="Runs jobs for one or more controllers, in the foreground, until SIGTERM."
    )
    add_config(parser)
    parser.add_argument("--check", action="store_true", help="check the configuration, name every problem, and exit")
    parser.add_argument("--print-config", action="store_true", help="show every setting and where it comes from")
    parser.add_argument(
        "--show-secrets", action="store_true", help="with --print-config: also passwords, env, args, data"
    )
    parser.add_argument(
        "--status", action="store_true", help="show how the agent that has its files does; exit code 3: none"
    )
    parser.add_argument("--show-pid", action="store_true", help="show which process has its files; exit code 3: none")
    parser.add_argument("--gid", "-gid", type=count, metavar="N", help="grid id, instead of main.gid")
    parser.add_argument("--nid", "-nid", type=count, metavar="N", help="node id, instead of main.nid")
    parser.add_argument("--roles", "-roles", metavar="A,B", help="roles, instead of main.roles")
    parser.add_argument("--pid-file", type=Path, metavar="FILE", help="written when ready, removed at exit")
    # Asked by a running agent that is about to be replaced by this one.
    parser.add_argument("--handover", metavar="VERSION", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser


def find_configuration(options: argparse.Namespace) -> str:
    """The file to load. Raises GreenagentError where there is none, or where no agent can run on this platform."""
    if (problem := check_platform()) is not None:
        raise GreenagentError(problem)
    if path := configuration_file(options.config):
        return path
    raise GreenagentError(f"no configuration: name one with {NO_CONFIG}")


def flags_of(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that are given as options."""
    return {name: value for name in ("gid", "nid", "roles") if (value := getattr(options, name)) is not None}


def refuse(problems: Iterable[str]) -> int:
    """Says each on a line of its own; returns the exit code."""
    for problem in problems:
        print_error(PROGRAM, problem)
    return EXIT_FAILED
