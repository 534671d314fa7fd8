"""``greenagent-ctl run``: posts a command, shows what it prints as it prints it, exits as the job did."""

from __future__ import annotations

import json
import sys
from typing import Any, Final, TextIO

from greenagent.cli.ctl_client import Client, ControllerError, job_path
from greenagent.cli.ctl_follow import Follower
from greenagent.cli.ctl_output import LiveOutput, as_argument, say
from greenagent.values import levels, states

EXIT_FAILED: Final = 1
EXIT_NOT_DELIVERED: Final = 3
EXIT_TIMEOUT: Final = 124
EXIT_LEFT: Final = 130
EXIT_KILLED: Final = 137


def run(client: Client, command: dict[str, Any], *, detach: bool, as_json: bool, prefix: bool) -> int:
    """Posts the command and follows the job to its end; returns the exit code."""
    answer = client.post("jobs", command)
    job_id = answer["id"]
    if detach:
        print(json.dumps(answer) if as_json else job_id)
        return 0
    output = LiveOutput(prefix=prefix, quiet=as_json)
    follower = Follower(client, job_id, output)
    try:
        job = _follow(client, follower, answer)
    except OSError:  # our output, the reader of which has gone: the job does not depend on it
        say(f"job {job_id} goes on; end it with: greenagent-ctl kill {as_argument(job_id)}")
        raise
    if job is None:
        say(f"job {job_id} goes on")
        return EXIT_LEFT
    if as_json:
        print(json.dumps(job))
    else:
        if follower.lost:
            say(
                f"{follower.lost} lines are missing above, the controller keeps only so many;"
                f" all are shown by: greenagent-logs --job {job_id} (on the agent's machine)"
            )
        show_results(job, output, sys.stdout, sys.stderr)
    return max((exit_code(result) for result in job["results"]), default=EXIT_NOT_DELIVERED)


def _follow(client: Client, follower: Follower, answer: dict[str, Any]) -> dict[str, Any] | None:
    """The finished job; None when it was left alone."""
    while True:
        try:
            return follower.follow()
        except ControllerError as error:
            if error.status != 404:
                raise
            where = ", ".join(f"{one['gid']}:{one['nid']}" for one in answer["agents"]) or "an agent"
            raise ControllerError(
                f"the controller was restarted and has forgotten the job {answer['id']};"
                f" it may still run on {where} (start the controller with --state)"
            ) from error
        except KeyboardInterrupt:
            if not ask_what_to_do(client, answer["id"]):
                return None


def ask_what_to_do(client: Client, job_id: str) -> bool:
    """Ctrl-C: kill the job or leave it alone; killed when nobody can be asked. True to go on following."""
    if sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty() and not _wants_kill(job_id):
        return False
    try:
        client.post(f"{job_path(job_id)}/kill", {})
    except ControllerError as error:
        if error.status != 409:
            raise
    return True


def _wants_kill(job_id: str) -> bool:
    """Asks until the answer is understood; nothing but a clear yes kills."""
    while True:
        print(
            f"\ngreenagent-ctl: [k]ill job {job_id}, or [l]eave it running? (default: l) ",
            end="",
            file=sys.stderr,
            flush=True,
        )
        try:
            answer = sys.stdin.readline().strip().lower()
        except (KeyboardInterrupt, ValueError):
            answer = ""
        if answer in ("k", "kill"):
            return True
        if answer in ("", "l", "leave"):
            return False


def show_results(job: dict[str, Any], output: LiveOutput, out: TextIO, err: TextIO) -> None:
    """What the results hold that has not been shown as lines."""
    for result in job["results"]:
        prefix = output.prefix_of(result)
        output.complete(result)
        data = result.get("data") or ""
        state = result.get("state")
        if data and (result.get("level") in levels.RESULTS or state == states.SUCCESS):
            print_block(out, prefix, data)
        elif state != states.SUCCESS and (data or state != states.ERROR or result.get("exit_code") is None):
            print_block(err, prefix, f"greenagent-ctl: {describe(result)}")


def describe(result: dict[str, Any]) -> str:
    """The outcome of a job that did not succeed, in one line."""
    where = f" on {result['gid']}:{result['nid']}" if result["nid"] else ""  # else no agent has had it
    text = f"job {result['id']}{where} ended {result['state']}"
    data = " ".join(str(result.get("data") or "").split())
    if result.get("signal") and not data:
        data = f"by {result['signal']}"
    return f"{text}: {data}" if data else text


def print_block(stream: TextIO, prefix: str, text: str) -> None:
    """Prints text whole lines at a time, each with the prefix. Line feeds alone end a line: JSON has others in it."""
    for line in text.removesuffix("\n").split("\n"):
        print(f"{prefix}{line}", file=stream)
    stream.flush()


def exit_code(result: dict[str, Any]) -> int:
    """The exit code a result stands for (design, section 5)."""
    state = result.get("state")
    if state == states.TIMEOUT:
        return EXIT_TIMEOUT
    if state == states.KILLED:
        return EXIT_KILLED
    if result.get("delivered") is False and state == states.ERROR:
        return EXIT_NOT_DELIVERED
    code = result.get("exit_code")
    if isinstance(code, int) and not isinstance(code, bool) and (code or state == states.SUCCESS):
        return code
    return 0 if state == states.SUCCESS else EXIT_FAILED
