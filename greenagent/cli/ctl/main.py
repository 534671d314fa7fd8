"""The command line of ``greenagent-ctl``: its options, and the commands they lead to."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any, Final

from greenagent import __version__
from greenagent.cli.common import Parser, VisibleTerminal, count, is_text, positive, run_program, seconds
from greenagent.cli.ctl import kill, logs, show, top
from greenagent.cli.ctl.client import DEFAULT_URL, ENDED, UNKNOWN, Client, ControllerError
from greenagent.cli.ctl.exit_codes import FAILED, NOT_SO
from greenagent.cli.ctl.output import PROGRAM
from greenagent.cli.ctl.run import run
from greenagent.cli.ctl.run_options import add_run_options
from greenagent.cli.ctl.schedule import add_schedule_commands
from greenagent.cli.lines import add_line_options
from greenagent.cli.moments import FORMS, moment

Action = Callable[[Client, argparse.Namespace], int]
CONNECTION: Final = {
    "url": (DEFAULT_URL, "URL", f"the controller (default {DEFAULT_URL})"),
    "ca": ("", "FILE", "trust this authority alone"),
    "cert": ("", "FILE", "client certificate"),
    "key": ("", "FILE", "its key"),
    "token_file": ("", "FILE", "token of the API"),
}
"""What ``Client`` takes: default and help of the options in front of a command's name or behind it."""


def run_command(given: list[str]) -> int:
    """Runs what the arguments ask for; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # Stdout is asked for before anything is sent whose outcome would have no place to go.
    return run_program(PROGRAM, lambda: _act(_parse(given)), failed=FAILED, usage=FAILED)


def _act(options: argparse.Namespace) -> int:
    if not getattr(options, "raw", False):
        VisibleTerminal.guard()
    client = Client(**{name: getattr(options, name) for name in CONNECTION})
    action: Action = options.action
    try:
        return action(client, options)
    except ControllerError as error:
        if error.status in (UNKNOWN, ENDED) and (hasattr(options, "ids") or hasattr(options, "schedule_id")):
            error.exit_code = NOT_SO
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ControllerError(
            f"what answers at {options.url} is no controller, or one of another version ({reason})"
        ) from error


def _parse(given: list[str]) -> argparse.Namespace:
    parser = build_parser()
    if not is_text(*given):
        parser.error("an argument is not valid UTF-8")
    name = parser.first_word(given)
    if given[name : name + 1] == ["help"]:
        given = [*given[name + 1 :], "--help"]
    given, words = _without_words(parser, given)
    options, unknown = parser.parse_known_args(given)
    if options.json and getattr(options, "no_prefix", False):
        parser.error("--json and --no-prefix exclude each other")
    if unknown:
        _command(parser, given)[0].refuse(unknown)
    if hasattr(options, "words"):  # of run, and of what runs later
        options.words = words
    elif hasattr(options, "ids"):  # the one job, in front of -- or behind it, where it may begin with a dash
        ids = [*options.ids, *words]
        if len(ids) != 1:
            parser.error(f"give the id of one job{', not of several' if ids else ''}")
        if not ids[0]:
            parser.error("an empty text is no job's id")
        (options.id,) = ids
    elif words:
        parser.error("nothing may follow -- here")
    return options


def _without_words(parser: CtlParser, given: list[str]) -> tuple[list[str], list[str]]:
    """What argparse is to see, and the words behind it: of ``run`` the command, whose options are none of ours.

    Cut here, since versions of argparse differ in what they do with a second ``--``.
    """
    command, cut = _command(parser, given)
    if command.words_after is not None:
        for _ in range(command.words_after):
            cut = min(len(given), cut + command.first_word(given[cut:]) + 1)
        cut += command.first_word(given[cut:])
    elif "--" in given:
        cut = given.index("--")
    else:
        cut = len(given)
    return given[:cut], given[cut + 1 :] if given[cut : cut + 1] == ["--"] else given[cut:]


def _command(parser: CtlParser, given: list[str]) -> tuple[CtlParser, int]:
    """The command that is named, which may be one of another, and the place behind its name."""
    behind = 0
    while True:
        name = behind + parser.first_word(given[behind:])
        command = parser.commands.get("".join(given[name : name + 1]))
        if command is None:
            return parser, behind
        parser, behind = command, name + 1


class CtlParser(Parser):
    """Wrong arguments, and help that cannot be written, end in exit code 125."""

    usage_code = FAILED
    failed_code = FAILED

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands: dict[str, CtlParser] = {}
        """By name, those of the whole program, or of one of its commands."""
        self.words_after: int | None = None
        """Behind so many words of its own all belongs to the command that is to run."""


def build_parser() -> CtlParser:
    """The command line, options of the connection in front or behind the command's name."""
    parser = CtlParser(
        prog=PROGRAM,
        description="Runs and watches jobs through a controller.",
        epilog="The options of the connection may also be given as GREENAGENT_CTL_URL, _CA, _CERT, _KEY, _TOKEN_FILE."
        " Exit codes of run: the job's own, 124 timeout, 126 cannot be started, 127 not found, 128 and the number of"
        " the signal it died of (137: killed), 130 left running at Ctrl-C, 125 anything else, such as usage or no such"
        " agent. Of the other commands: 1 what was asked for is not so, 125 it could not be carried out.",
    )
    _add_connection(parser, lambda name, default: os.environ.get(f"GREENAGENT_CTL_{name.upper()}", default))
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    add_below = _adding(parser, "COMMAND")

    def add(name: str, action: Action, text: str, of_one_job: bool = False) -> CtlParser:
        command = add_below(name, action, text)
        if of_one_job:  # any number for argparse, which does not see what stands behind --
            command.add_argument(
                "ids", nargs="*", metavar="ID", help="id of the job, behind -- if it begins with a dash"
            )
            command.usage = f"{command.prog} [OPTION ...] [--] ID"
        return command

    def add_raw(command: Parser, of_lines: bool = False) -> Parser:
        command.add_argument("--raw", action="store_true", help="control characters as they are, also on a terminal")
        if of_lines:
            command.add_argument("--no-prefix", action="store_true", help="the texts of the job's lines alone")
        return command

    posted = add("run", run, "run a command on agents and show its output")
    posted.words_after = 0
    add_run_options(add_raw(posted, of_lines=True))
    add("agents", show.agents, "the agents the controller knows")
    jobs = add("jobs", show.jobs, "the jobs the controller knows, newest first")
    jobs.add_argument(
        "--state", type=show.read_states, action="append", metavar="LIST", help="failed, waiting, or error,timeout"
    )
    jobs.add_argument("--agent", metavar="GID:NID", help="only jobs of this agent")
    jobs.add_argument("--schedule", metavar="NAME", help="only runs of this schedule")
    jobs.add_argument("--since", type=moment, metavar="TIME", help=f"only jobs posted since: {FORMS}")
    jobs.add_argument("--until", type=moment, metavar="TIME", help="only jobs posted until then")
    jobs.add_argument("--sort", choices=show.SORTS, help="the largest last, instead of the newest first")
    jobs.add_argument("--all", action="store_true", help="also the kill commands the controller has sent")
    jobs.add_argument("--limit", type=positive, default=100, metavar="N", help="at most N jobs (default 100)")
    add_raw(add("show", show.show, "one job with its results", of_one_job=True))
    lines = add_raw(
        add("logs", logs.logs, "the lines of a job that agents have uploaded", of_one_job=True), of_lines=True
    )
    lines.add_argument("--follow", "-f", action="store_true", help="go on until the job ends")
    lines.add_argument("--tail", type=count, metavar="N", help="the last N of those that are there")
    add_line_options(lines)
    end = add("kill", kill.kill, "end a job and say what became of it", of_one_job=True)
    end.add_argument("--signal", type=kill.signal_name, metavar="NAME", help="send just this signal (name or number)")
    end.add_argument(
        "--wait",
        type=seconds,
        default=kill.DEFAULT_WAIT,
        metavar="SECONDS",
        help=f"for the agents' answers (default {kill.DEFAULT_WAIT:g}; 0: only send it)",
    )
    end.add_argument("--no-wait", dest="wait", action="store_const", const=0.0, help="only send it, as --wait 0")
    add_schedule_commands(_adding(add_below("schedule", None, "what the controller runs by itself"), "ACTION"))
    usage = add("top", top.top, "agents and jobs with what they use, refreshed")
    usage.add_argument("--once", action="store_true", help="show it once and end")
    usage.add_argument("--interval", type=seconds, default=2.0, metavar="SECONDS", help="refresh so often (default 2)")
    return parser


def _adding(parser: CtlParser, metavar: str) -> Callable[..., CtlParser]:
    """What adds a command below ``parser``; one without an action has commands of its own."""
    commands = parser.add_subparsers(metavar=metavar, required=True)

    def add(name: str, action: Action | None, text: str, words_after: int | None = None) -> CtlParser:
        command: CtlParser = commands.add_parser(name, help=text, description=text)
        command.words_after = words_after
        parser.commands[name] = command
        if action is not None:
            _add_connection(command, lambda name, default: argparse.SUPPRESS)  # what stands in front of the name holds
            command.add_argument("--json", action="store_true", help="machine-readable output")
            command.set_defaults(action=action)
        return command

    return add


def _add_connection(parser: Parser, default_of: Callable[[str, str], str]) -> None:
    for name, (default, metavar, text) in CONNECTION.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, default=default_of(name, default), metavar=metavar, help=text)
