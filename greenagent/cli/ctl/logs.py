"""``greenagent-ctl logs``: the lines of a job that agents have uploaded."""

from __future__ import annotations

import argparse
import json
from collections import deque
from typing import Any

from greenagent.cli.ctl.client import UNKNOWN, Client, ControllerError
from greenagent.cli.ctl.follow import Follower
from greenagent.cli.ctl.ids import of_job
from greenagent.cli.ctl.originals import is_first
from greenagent.cli.ctl.output import LiveOutput, agent_name, as_argument, node_logs, note, outcome
from greenagent.cli.ctl.silence import MAX_NAMED, tell_silence
from greenagent.cli.ctl.waiting import tell_waiting
from greenagent.cli.lines import LineQuestion, level_name, stamp_text
from greenagent.cli.unfinished import UNFINISHED
from greenagent.values import states


def logs(client: Client, options: argparse.Namespace) -> int:
    """What is there now; with ``--follow`` until the job has ended and its last lines have come."""
    return of_job(client, options.id, lambda job_id: _logs(client, job_id, options))


def _logs(client: Client, job_id: str, options: argparse.Namespace) -> int:
    asked = LineQuestion.of(options)
    output = _EveryLine(asked, options.tail, options.json, options.no_prefix)
    follower = Follower(client, job_id, output, patient=False, explain=lambda: tell_waiting(client, job_id))
    said: set[str] = set()
    """Agents of which it is known, and was said, why lines of theirs are missing."""
    try:
        if options.follow:
            job = _follow(follower, output, job_id)
        else:
            follower.read()
            job = follower.known_job()
            if job is not None:
                follower.await_rest(job)
                read = follower.read_originals(job)
                output.tell_of_originals(read)
                said = output.originals - set(map(agent_name, read))
            output.release()
    finally:
        if follower.lost:
            note(f"{follower.lost} older lines are no longer kept here")
        if output.restarted:
            note("the controller was restarted meanwhile: lines it had until then may be missing above")
    if job is not None and not output.restarted:
        if not (output.has_come or output.originals or follower.lost):
            said |= tell_silence(client, job)
        if missing := [name for name in output.incomplete(job) if name not in said]:
            note(_why(missing, output.originals, job_id))
        if options.follow:
            failed = [one for one in job["results"] if one["state"] != states.SUCCESS and agent_name(one) not in said]
            for result in failed[:MAX_NAMED]:
                note(outcome(result))
            if failed[MAX_NAMED:]:
                note(f"and on {len(failed) - MAX_NAMED} agents more")
    if output.has_come and not output.has_shown and asked.is_narrow:
        note(f"no lines of job {job_id} match the rest of the question")
    return 0


def _why(missing: list[str], originals: set[str], job_id: str) -> str:
    """What to do where lines are not here; ``missing``: of which agents."""
    names = ", ".join(missing[:MAX_NAMED]) + (" and more" if missing[MAX_NAMED:] else "")
    end = f"the end of its output is shown by: greenagent-ctl show {as_argument(job_id)}"
    if originals.issuperset(missing):
        return f"the log of an original agent has not all lines of the job; {end}"
    return (
        f"not all lines of the job are here: {names} has not uploaded them, or they went with an earlier run of the"
        f" controller, which has them in memory; {end}, all of it on {names} by: {node_logs(job_id)}"
    )


def _follow(follower: Follower, output: _EveryLine, job_id: str) -> dict[str, Any] | None:
    """The job, which has ended; None where the controller knows but lines of it."""
    try:
        follower.read()
        if (known := follower.known_job()) is not None:
            follower.read_originals(known)
        else:
            follower.read()  # refused where it was started again in between and has no lines of it either
        output.release()
        if known is None and not (output.restarted or output.was_away):
            lines_alone = f"the controller has lines of the job {job_id} but does not know it"
            note(f"{lines_alone}: that it has ended cannot be told")
            return None
        job = follower.follow()
        output.tell_of_originals(follower.read_originals(job))
    except ControllerError as error:
        if error.status != UNKNOWN or not follower.was_answered:
            raise
        raise ControllerError(
            f"the controller was restarted and has forgotten the job {job_id};"
            " it may still run (start the controller with --state)"
        ) from error
    return job


class _EveryLine(LiveOutput):
    """Shows every line that is asked for, with its time, agent and level."""

    def __init__(self, asked: LineQuestion, tail: int | None, as_json: bool, bare: bool) -> None:
        """``tail``: of the lines until ``release`` the last so many; None is all. ``bare``: the texts alone."""
        super().__init__(prefix=False, quiet=True, bare=bare)
        self._asked = asked
        self._as_json = as_json
        self._held: deque[dict[str, Any]] | None = None if tail is None else deque(maxlen=tail)
        self._held_open: list[dict[str, Any]] = []
        self.has_come = False
        """Whether any line has come, or text that may become one."""
        self.has_shown = False

    def release(self) -> None:
        """Shows the last of the lines that came until now; from now on each is shown as it comes."""
        held, self._held = self._held or (), None
        for line in held:
            self._show_line(line)
        for one in self._held_open:
            self.open_text(one)
        self._held_open.clear()

    def incomplete(self, job: dict[str, Any]) -> list[str]:
        """The agents where the job has ended, and of which not all lines came that they tell of."""
        ended = [one for one in job["results"] if states.is_terminal(one["state"]) and one.get("delivered", True)]
        return [agent_name(one) for one in ended if not (self.is_complete(one) and self._has_any(one))]

    def _has_any(self, result: dict[str, Any]) -> bool:
        """False where no line came though the job printed some."""
        return self.has_lines_of(result) or not any(result.get("streams") or ())

    def tell_of_originals(self, read: list[dict[str, Any]]) -> None:
        """Says of first originals, whose results tell of no lines, that none came."""
        ended = [result for result in read if states.is_terminal(result["state"])]
        for result in ended:
            if is_first(result) and not self.has_lines_of(result):
                note(
                    f"agent {agent_name(result)} is an original one and has no line of this job in its log,"
                    " which keeps the levels that its configuration names"
                )

    def note(self, item: dict[str, Any], text: str) -> None:
        note(text)

    def line(self, line: dict[str, Any]) -> None:
        super().line(line)
        self.has_come = True
        if not self._is_asked_for(line):
            return
        if self._held is not None:
            self._held.append(line)
        else:
            self._show_line(line)

    def open_text(self, one: dict[str, Any]) -> None:
        self.has_come = True
        if self._held is not None:
            self._held_open.append(one)
        elif not self._as_json and self._is_asked_for(one):
            self._print_text(one, one["data"] + UNFINISHED)

    def _is_asked_for(self, line: dict[str, Any]) -> bool:
        return self._asked.takes(line["epoch_ms"], line["level"], line["data"])

    def _show_line(self, line: dict[str, Any]) -> None:
        if self._as_json:
            self.has_shown = True
            print(json.dumps(line), flush=True)
        else:
            self._print_text(line, line["data"])

    def _print_text(self, line: dict[str, Any], text: str) -> None:
        if not self._bare:
            text = text.replace("\n", "\n    ")  # a message must not make lines of another agent
            gap = " " if text and not text.startswith("\n") else ""
            text = f"{stamp_text(line['epoch_ms'])} {agent_name(line)} {level_name(line['level']):<9}{gap}{text}"
        self.has_shown = True
        print(text, flush=True)
