"""``greenagent-ctl logs``: the lines of a job that agents have uploaded."""

from __future__ import annotations

import argparse
import json
from typing import Any

from greenagent.cli.common import local_time
from greenagent.cli.ctl.client import Client, ControllerError
from greenagent.cli.ctl.follow import Follower
from greenagent.cli.ctl.originals import is_first
from greenagent.cli.ctl.output import LiveOutput, agent_name, as_argument, note
from greenagent.cli.unfinished import UNFINISHED
from greenagent.values import states


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
            complete = output.tell_of_originals(follower.read_originals())
    finally:
        if follower.lost:
            note(f"{follower.lost} older lines are no longer kept here")
        if output.restarted:
            note("the controller was restarted meanwhile: lines it had until then may be missing above")
        elif not complete:
            whose = "the log of an original agent has not" if output.originals else "the agent has not uploaded"
            note(
                f"{whose} all lines of the job;"
                f" the end of its output is shown by: greenagent-ctl show {as_argument(options.id)}"
            )
    return 0


def _follow(follower: Follower, output: _EveryLine, job_id: str) -> bool:
    """True when all lines have come that the results tell of."""
    try:
        follower.read()
        follower.read_originals()
        job = follower.follow()
        output.tell_of_originals(follower.read_originals(job))
    except ControllerError as error:
        if error.status != 404 or not follower.was_answered:
            raise
        if output.was_away:
            raise ControllerError(
                f"the controller was restarted and has forgotten the job {job_id};"
                " it may still run (start the controller with --state)"
            ) from error
        note(f"the controller has lines of the job {job_id} but does not know it: that it has ended cannot be told")
        return True
    return all(output.is_complete(result) for result in job["results"])


class _EveryLine(LiveOutput):
    """Shows every line with its time, agent and level."""

    def __init__(self, as_json: bool) -> None:
        super().__init__(prefix=False, quiet=True)
        self._as_json = as_json

    def tell_of_originals(self, read: list[dict[str, Any]]) -> bool:
        """True when all lines have been shown that the results of original agents whose logs were read tell of.

        Those of the first generation tell of none: that no line came is said.
        """
        ended = [result for result in read if states.is_terminal(result["state"])]
        for result in ended:
            if is_first(result) and not self.has_lines_of(result):
                note(
                    f"agent {agent_name(result)} is an original one and has no line of this job in its log,"
                    " which keeps the levels that its configuration names"
                )
        return all(map(self.is_complete, ended))

    def note(self, item: dict[str, Any], text: str) -> None:
        note(text)

    def line(self, line: dict[str, Any]) -> None:
        if self._as_json:
            print(json.dumps(line), flush=True)
        else:
            self._print(line, line["data"])
        super().line(line)

    def open_text(self, one: dict[str, Any]) -> None:
        if not self._as_json:
            self._print(one, one["data"] + UNFINISHED)

    @staticmethod
    def _print(line: dict[str, Any], text: str) -> None:
        clock = local_time(line["epoch_ms"] // 1000, "%H:%M:%S", unknown="--:--:--")
        text = text.replace("\n", "\n    ")  # a message must not make lines of another agent
        print(f"{clock} {agent_name(line)} {line['level']:>2} {text}", flush=True)
