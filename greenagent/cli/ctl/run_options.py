"""The options of ``greenagent-ctl run`` and the command object they make (protocol 2)."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import stat
import sys
import termios
from array import array
from typing import Any, Final, NoReturn

from greenagent.cli.common import UsageError, count, seconds
from greenagent.values.arguments import REMEMBERED

LOG_FLUSH: Final = 0.1
"""Seconds within which an agent is to send the lines of a job that is looked at."""
DETACHED_FLUSH: Final = 1.0
"""The same of one that may be looked at."""
MAX_DATA: Final = 32 << 20
"""Bytes; a controller takes no larger command."""


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options; the first word that is none, or ``--``, begins the command and its arguments."""
    add_command_options(parser)
    parser.add_argument(
        "--require-all", action="store_true", help="with --fanout: exit code 125 also where an agent is away"
    )
    parser.add_argument("--id", help="id of the job (default a random one)")
    parser.add_argument("--restart", choices=("always",), help="start it again however it ends, until it is killed")
    parser.add_argument(
        "--recurring",
        dest="recurring_period",
        type=count,
        metavar="SECONDS",
        help="run it again this long after its end",
    )
    parser.add_argument("--detach", action="store_true", help="print the id and end at once")


def add_command_options(parser: argparse.ArgumentParser) -> None:
    """Adds those that also make sense for what runs again and again when nobody looks."""
    parser.add_argument("--gid", type=count, default=0, help="grid of the agent")
    parser.add_argument("--nid", type=count, default=0, help="node of the agent")
    parser.add_argument("--role", action="append", default=[], help="any agent that has the role (repeatable: all)")
    parser.add_argument("--fanout", action="store_true", help="all matching agents; every line begins with gid:nid")
    parser.add_argument("--cmd", default="execute", metavar="NAME", help="command or extension (default execute)")
    parser.add_argument(
        "--args-json", default="{}", metavar="JSON", help="run arguments as a JSON object, under the other options"
    )
    parser.add_argument("--domain", help="domain, for logs and statistics")
    parser.add_argument("--name", help="args.name of another command than execute, whose name is the program itself")
    parser.add_argument("--working-dir", metavar="DIR", help="folder on the agent")
    parser.add_argument("--env", action="append", type=_pair, metavar="K=V", help="environment (repeatable)")
    parser.add_argument("--queue", help="serial queue on the agent")
    parser.add_argument("--max-time", type=_time_limit, metavar="SECONDS", help="end it with TIMEOUT; -1 = remembered")
    parser.add_argument("--max-restart", type=count, metavar="N", help="start it again N times while it fails")
    parser.add_argument("--data", metavar="TEXT", help="its standard input, '-' takes our own")
    parser.add_argument(
        "--wait-for-agent", type=seconds, metavar="SECONDS", help="how long to wait for an agent that is not there"
    )
    parser.add_argument(
        "--expires", type=seconds, metavar="SECONDS", help="end it where no agent has started it by then"
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="COMMAND ARG",
        help="what to run, to the end of the line; behind -- if it begins with a dash",
    )


def command_of(options: argparse.Namespace) -> dict[str, Any]:
    """The object to post. Raises UsageError."""
    args = _arguments(options)
    command: dict[str, Any] = {"cmd": options.cmd, "gid": options.gid, "nid": options.nid, "args": args}
    roles = options.role or (["*"] if options.fanout and not options.nid else [])
    if roles and options.nid:
        raise UsageError("give --nid or --role, not both")
    if options.fanout and not roles:
        raise UsageError("--fanout goes with --role, not with --nid")
    if options.require_all and (options.detach or not options.fanout):
        raise UsageError("--require-all goes with --fanout, and not with --detach")
    if not roles and not (options.gid and options.nid):
        where = "--gid and --nid, or --role (a role '*' is any agent)"
        raise UsageError(f"say where to run it, in front of the command: {where}")
    if roles:
        command.update(roles=roles, fanout=options.fanout)
    if options.data == "-":
        options.data = _stdin()
    return command | _given(options, "id", "data", "wait_for_agent", "expires")


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options among these that were given, each a key of its name."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _time_limit(text: str) -> int:
    """``--max-time``: -1, or a whole number."""
    if text == str(REMEMBERED):
        return REMEMBERED
    try:
        return count(text)
    except UsageError:
        raise UsageError(f"{text!r} is not a whole number; -1 is for no limit, and to be remembered") from None


def _pair(text: str) -> str:
    """KEY=VALUE, for an environment."""
    if text.find("=") < 1:
        raise UsageError(f"{text!r} is not KEY=VALUE")
    return text


def has_stdin() -> bool:
    """Whether something waits in a pipe on our stdin: a job does not get it by itself.

    Not in a file, which is as likely the script that we are run by.
    """
    waiting = array("i", [0])
    try:
        if stat.S_ISFIFO(os.fstat(0).st_mode):
            fcntl.ioctl(0, termios.FIONREAD, waiting)
    except OSError:
        return False
    return waiting[0] > 0


def _stdin() -> str:
    if sys.stdin is None:
        raise UsageError("--data -: stdin is closed")
    try:
        data = sys.stdin.buffer.read(MAX_DATA + 1)
        if len(data) > MAX_DATA:  # or what never ends would fill the memory of this machine
            raise UsageError(f"--data -: stdin has more than {MAX_DATA >> 20} MiB: let the job read a file instead")
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = (
            f"byte {error.start + 1} of stdin is no UTF-8 text, and a job's data goes as JSON: encode it, as base64"
        )
        raise UsageError(f"--data -: {reason} does") from error
    except OSError as error:
        raise UsageError(f"--data -: stdin cannot be read: {error.strerror}") from error


def _arguments(options: argparse.Namespace) -> dict[str, Any]:
    """``args`` of the command."""
    if options.cmd == "execute" and options.name is not None:
        raise UsageError(
            "--name goes with --cmd: the command behind -- names the program that execute runs; --domain labels it"
        )
    args = _json_object(options.args_json)
    words = list(options.words)
    if options.cmd == "execute" and "name" not in args:
        if not words:
            raise UsageError("nothing to run: put the command and its arguments behind the options")
        args["name"] = words.pop(0)
    if words:
        args["args"] = words
    args |= _given(options, "env", "name", "domain", "working_dir", "queue")
    args |= _given(options, "max_time", "max_restart", "restart", "recurring_period")
    # What shows lines as they come, to us or to who follows them later.
    return {"loglevels_ac": "*", "log_flush": DETACHED_FLUSH if options.detach else LOG_FLUSH, **args}


def _json_object(text: str) -> dict[str, Any]:
    """The value of ``--args-json``."""

    def refuse_constant(name: str) -> NoReturn:
        raise ValueError(f"there is no number {name} in it")

    try:
        value = json.loads(text, parse_constant=refuse_constant)
    except ValueError as error:
        raise UsageError(f"--args-json is not JSON: {error}") from error
    except RecursionError as error:
        raise UsageError("--args-json is nested too deeply") from error
    if not isinstance(value, dict):
        raise UsageError("--args-json must be a JSON object")
    return value
