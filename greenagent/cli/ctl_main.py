"""The command line of ``greenagent-ctl``: what it is made of, and what it leads to."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from greenagent import __version__
from greenagent.cli import ctl_kill, ctl_logs, ctl_show, ctl_top
from greenagent.cli.ctl_client import DEFAULT_URL, Client, Connection, ControllerError
from greenagent.cli.ctl_command import add_run_options, command_of
from greenagent.cli.ctl_numbers import positive, seconds
from greenagent.cli.ctl_output import say
from greenagent.cli.ctl_run import EXIT_FAILED, EXIT_NOT_DELIVERED, run
from greenagent.cli.ctl_trust import UsageError
from greenagent.cli.output import OutputParser, is_text

EXIT_USAGE = 2


def run_command(given: list[str]) -> int:
    """Runs what the arguments ask for; returns the exit code."""
    if sys.stdout is None:  # before anything is sent whose outcome has no place to go
        say("cannot write the output: stdout is closed")
        return EXIT_FAILED
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            return _act(given)
        finally:
            sys.stdout.flush()  # here, where its error can still be said
    except BrokenPipeError:
        _give_up_stdout()
        return EXIT_FAILED
    except OSError as error:
        _give_up_stdout()
        say(f"cannot write the output: {error.strerror or error}")
        return EXIT_FAILED


def _give_up_stdout() -> None:
    """What is left in the buffer would fail once more at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _act(given: list[str]) -> int:
    words: list[str] = []
    if "--" in given:  # cut here, since argparse versions differ in what they do with a second "--"
        cut = given.index("--")
        given, words = given[:cut], given[cut + 1 :]
    parser = build_parser()
    if not is_text(*given, *words):
        parser.error("an argument is not valid UTF-8")
    options, unknown = parser.parse_known_args(given)
    if unknown:
        hint = ": put the command behind --" if getattr(options, "words", None) and not words else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    if hasattr(options, "id_given"):
        _take_id(parser, options, words)
    elif words and not hasattr(options, "words"):
        parser.error("nothing may follow -- here")
    elif words:
        options.words = [*options.words, *words]
    try:
        client = Client(Connection(options.url, options.ca, options.cert, options.key, options.token_file))
        action: Callable[[Client, argparse.Namespace], int] = options.action
        return action(client, options)
    except UsageError as error:
        say(str(error))
        return EXIT_USAGE
    except ControllerError as error:
        say(str(error))
        return EXIT_USAGE if error.status in (400, 409, 413) else EXIT_NOT_DELIVERED
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        say(f"what answers at {options.url} is no controller, or one of another version ({reason})")
        return EXIT_NOT_DELIVERED


def _take_id(parser: argparse.ArgumentParser, options: argparse.Namespace, words: list[str]) -> None:
    """The one job, in front of ``--`` or behind it, where it may begin with a dash."""
    ids = [*([options.id_given] if options.id_given is not None else []), *words]
    if len(ids) != 1:
        parser.error(f"give the id of one job{', not of several' if ids else ''}")
    if not ids[0]:
        parser.error("an empty text is no job's id")
    (options.id,) = ids


def _run(client: Client, options: argparse.Namespace) -> int:
    command = command_of(options)
    prefix = bool(command.get("fanout"))
    return run(client, command, detach=options.detach, as_json=options.json, prefix=prefix)


def build_parser() -> argparse.ArgumentParser:
    """The command line, options of the connection in front or behind the command's name."""
    parser = OutputParser(
        prog="greenagent-ctl",
        description="Runs and watches jobs through a controller.",
        epilog="The options of the connection may also be given as GREENAGENT_CTL_URL, _CA, _CERT, _KEY, _TOKEN_FILE."
        " Exit codes: the job's own, 124 timeout, 137 killed, 1 other failures, 2 usage, 3 not delivered.",
        allow_abbrev=False,
    )
    _add_connection(parser, lambda name, default: os.environ.get(f"GREENAGENT_CTL_{name}", default))
    parser.add_argument("--version", action="version", version=f"greenagent-ctl {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, action: Callable[[Client, argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        _add_connection(command, lambda name, default: argparse.SUPPRESS)
        command.add_argument("--json", action="store_true", help="machine-readable output")
        command.set_defaults(action=action)
        return command

    add_run_options(add("run", _run, "run a command on agents and show its output"))
    add("agents", ctl_show.agents, "the agents the controller knows")
    jobs = add("jobs", ctl_show.jobs, "the jobs the controller knows, newest first")
    jobs.add_argument("--state", help="only jobs in this state")
    jobs.add_argument("--agent", metavar="GID:NID", help="only jobs of this agent")
    jobs.add_argument("--since", metavar="WHEN", help="only jobs of the last 30s, 15m, 1h, 2d")
    jobs.add_argument("--all", action="store_true", help="also the kill commands the controller has sent")
    jobs.add_argument("--limit", type=positive, default=100, metavar="N", help="at most N jobs (default 100)")
    show = add("show", ctl_show.show, "one job with its results")
    _add_id(show)
    logs = add("logs", ctl_logs.logs, "the lines of a job that agents have uploaded")
    _add_id(logs)
    logs.add_argument("--follow", action="store_true", help="go on until the job ends")
    kill = add("kill", ctl_kill.kill, "end a job and say what became of it")
    _add_id(kill)
    kill.add_argument("--signal", metavar="NAME", help="send just this signal (name or number)")
    kill.add_argument(
        "--wait",
        type=seconds,
        default=ctl_kill.DEFAULT_WAIT,
        metavar="SECONDS",
        help=f"for the agents' answers (default {ctl_kill.DEFAULT_WAIT:g}; 0: only send it)",
    )
    kill.add_argument("--no-wait", dest="wait", action="store_const", const=0.0, help="only send it, as --wait 0")
    top = add("top", ctl_top.top, "agents and jobs with what they use, refreshed")
    top.add_argument("--once", action="store_true", help="show it once and end")
    top.add_argument("--interval", type=seconds, default=2.0, metavar="SECONDS", help="refresh so often (default 2)")
    return parser


def _add_id(parser: argparse.ArgumentParser) -> None:
    """The id of a job. Optional for the parser alone, which does not see what stands behind ``--``."""
    parser.add_argument("id_given", nargs="?", metavar="ID", help="id of the job, behind -- if it begins with a dash")
    parser.usage = f"{parser.prog} [OPTION ...] [--] ID"


def _add_connection(parser: argparse.ArgumentParser, default: Callable[[str, str], str]) -> None:
    parser.add_argument("--url", default=default("URL", DEFAULT_URL), help=f"the controller (default {DEFAULT_URL})")
    parser.add_argument("--ca", default=default("CA", ""), metavar="FILE", help="trust this authority alone")
    parser.add_argument("--cert", default=default("CERT", ""), metavar="FILE", help="client certificate")
    parser.add_argument("--key", default=default("KEY", ""), metavar="FILE", help="its key")
    parser.add_argument("--token-file", default=default("TOKEN_FILE", ""), metavar="FILE", help="token of the API")
