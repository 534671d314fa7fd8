"""``greenagent-ctl run``: posts a command, shows what it prints as it prints it, exits as the job did."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Final

from greenagent.cli.common import EXIT_INTERRUPTED, ago
from greenagent.cli.ctl.client import ENDED, UNKNOWN, Client, ControllerError, job_path
from greenagent.cli.ctl.exit_codes import FAILED, exit_code
from greenagent.cli.ctl.follow import Follower
from greenagent.cli.ctl.originals import originals_among
from greenagent.cli.ctl.output import PROGRAM, LiveOutput, agent_name, as_argument, node_logs, note, outcome
from greenagent.cli.ctl.run_options import command_of, has_stdin
from greenagent.cli.ctl.waiting import tell_waiting
from greenagent.values import levels, states

MAX_NAMED: Final = 20
"""Agents of a fan-out that are named in one line."""


def run(client: Client, options: argparse.Namespace) -> int:
    """Posts the command and follows the job to its end; returns the exit code."""
    command = command_of(options)
    if not options.detach and command.get("nid") and originals_among(client, [command]):
        command["args"].setdefault("loglevels_db", "*")  # it gives but the lines that are in its log
    if options.data is None and has_stdin():
        note("the job does not get our stdin: --data - passes it on")
    answer = client.post("jobs", command)
    for warning in answer.get("warnings", ()):  # controllers of 0.1 tell of none
        note(f"warning: {warning}")
    away: list[dict[str, Any]] = answer.get("away", [])
    if away:
        note(f"away and left out: {_names_of_away(away)}")
    job_id = answer["id"]
    if options.detach:
        print(json.dumps(answer) if options.json else job_id)
        return 0
    output = LiveOutput(prefix=options.fanout, quiet=options.json, bare=options.no_prefix)
    follower = Follower(client, job_id, output, explain=lambda: tell_waiting(client, job_id))
    try:
        job = _follow(client, follower, answer)
    except OSError as error:  # our output, the reader of which has gone: the job does not depend on it
        note(f"job {job_id} goes on; end it with: greenagent-ctl kill {as_argument(job_id)}")
        setattr(error, "exit_code", FAILED)  # noqa: B010  OSError has no such attribute of its own
        raise
    if job is None:
        note(f"job {job_id} goes on")
        return EXIT_INTERRUPTED
    lost = 0
    if options.json:
        print(json.dumps(job))
    elif _show_end(follower, output, job):
        lost = FAILED
    codes = {agent_name(result): exit_code(result) for result in job["results"]}
    if options.fanout and not options.json and any(result["nid"] for result in job["results"]):
        note(_summary(codes, len(away)))
    if away and options.require_all:
        return max(FAILED, *codes.values())
    return max(codes.values(), default=FAILED) or lost


def _show_end(follower: Follower, output: LiveOutput, job: dict[str, Any]) -> bool:
    """What there is to be shown of a job that has ended, its live lines having been shown; True if some is missing."""
    follower.read_originals(job)
    if follower.lost:
        note(
            f"{follower.lost} lines are missing above, the controller keeps only so many; on the agent's machine they"
            f" are shown by: {node_logs(job['id'])}"
        )
    missing = [_show_rest(result, output) for result in job["results"]]
    return any(missing)


def _names_of_away(away: list[dict[str, Any]]) -> str:
    names = [f"{agent_name(one)} (last contact {ago(one['last_contact'])})" for one in away[:MAX_NAMED]]
    return ", ".join(names) + (f" and {len(away) - MAX_NAMED} more" if away[MAX_NAMED:] else "")


def _summary(codes: dict[str, int], away: int) -> str:
    """How it went on the agents of a fan-out, in one line."""
    failed = [name for name, code in codes.items() if code]
    text = f"{len(codes)} agents: {len(codes) - len(failed)} ok"
    if failed:
        text += f", {len(failed)} failed: {' '.join(failed[:MAX_NAMED])}"
        text += f" and {len(failed) - MAX_NAMED} more" if failed[MAX_NAMED:] else ""
    return f"{text}, {away} away" if away else text


def _follow(client: Client, follower: Follower, answer: dict[str, Any]) -> dict[str, Any] | None:
    """The finished job; None when it was left alone."""
    while True:
        try:
            return follower.follow()
        except ControllerError as error:
            if error.status != UNKNOWN:
                raise
            where = ", ".join(map(agent_name, answer["agents"])) or "an agent"
            raise ControllerError(
                f"the controller was restarted and has forgotten the job {answer['id']};"
                f" it may still run on {where} (start the controller with --state)"
            ) from error
        except KeyboardInterrupt:
            can_ask = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
            if can_ask and not _wants_kill(answer["id"]):
                return None
            _kill(client, answer["id"])


def _wants_kill(job_id: str) -> bool:
    """Asks until the answer is understood; nothing but a clear yes kills."""
    while True:
        question = f"\n{PROGRAM}: [k]ill job {job_id}, or [l]eave it running? (default: l) "
        print(question, end="", file=sys.stderr, flush=True)
        try:
            answer = sys.stdin.readline().strip().lower()
        except (KeyboardInterrupt, ValueError):
            return False
        if answer in ("k", "kill"):
            return True
        if answer in ("", "l", "leave"):
            return False


def _kill(client: Client, job_id: str) -> None:
    try:
        client.post(f"{job_path(job_id)}/kill", {})
    except ControllerError as error:
        if error.status != ENDED:  # it has ended already
            raise


def _show_rest(result: dict[str, Any], output: LiveOutput) -> int:
    """What a result holds that has not been shown as lines; returns how many lines are not shown."""
    missing = output.complete(result)
    data = result.get("data") or ""
    state = result.get("state")
    if data and (result.get("level") in levels.RESULTS or state == states.SUCCESS):
        # Line feeds alone end a line: JSON has other separators in it.
        output.show(result, levels.STDOUT, data.removesuffix("\n").split("\n"))
    elif state != states.SUCCESS and (data or state != states.ERROR or result.get("exit_code") is None):
        output.note(result, outcome(result))
    return missing
