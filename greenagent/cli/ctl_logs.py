"""``greenagent-ctl logs``: the lines of a job that agents have uploaded."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from greenagent.cli.ctl_client import Client, ControllerError
from greenagent.cli.ctl_follow import Follower
from greenagent.cli.ctl_output import LiveOutput, as_argument, say


def logs(client: Client, options: argparse.Namespace) -> int:
    """What is there now; with ``--follow`` until the job has ended and its last lines have come."""
    output = _EveryLine(options.json)
    follower = Follower(client, options.id, output, patient=False)
    complete = True
    try:
        if options.follow:
            complete = _follow(follower, output, options.id)
        else:
            follower.read()
    finally:
        if follower.lost:
            say(f"{follower.lost} older lines are no longer kept here")
        if output.restarted:
            say("the controller was restarted meanwhile: lines it had until then may be missing above")
        elif not complete:
            say(
                "the agent has not uploaded all lines of the job;"
                f" the end of its output is shown by: greenagent-ctl show {as_argument(options.id)}"
            )
    return 0


def _follow(follower: Follower, output: LiveOutput, job_id: str) -> bool:
    """True when all lines have come that the results tell of."""
    try:
        follower.read()
        job = follower.follow()
    except ControllerError as error:
        if error.status != 404 or not follower.was_answered:
            raise
        if output.was_away:
            raise ControllerError(
                f"the controller was restarted and has forgotten the job {job_id};"
                " it may still run (start the controller with --state)"
            ) from error
        say(f"the controller has lines of the job {job_id} but does not know it: that it has ended cannot be told")
        return True
    return all(output.is_complete(result) for result in job["results"])


class _EveryLine(LiveOutput):
    """Shows every line with its time, agent and level."""

    def __init__(self, as_json: bool) -> None:
        super().__init__(prefix=False, quiet=True)
        self._as_json = as_json

    def line(self, line: dict[str, Any]) -> None:
        if self._as_json:
            print(json.dumps(line), flush=True)
        else:
            print(f"{_clock(line['epoch'])} {line['gid']}:{line['nid']} {line['level']:>2} {line['data']}", flush=True)
        super().line(line)


def _clock(epoch: float) -> str:
    """The local time of day; of stamps that are none, which any agent may send, no time."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(epoch))
    except (OSError, OverflowError, ValueError):
        return "--:--:--"
