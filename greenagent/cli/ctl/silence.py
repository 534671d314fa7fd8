"""What ``greenagent-ctl logs`` says of a job of which no line is here: that it printed none, or why that is."""

from __future__ import annotations

from typing import Any, Final

from greenagent.cli.common import untold
from greenagent.cli.ctl.client import Client
from greenagent.cli.ctl.originals import WITHOUT_LINES
from greenagent.cli.ctl.output import agent_name, as_argument, exit_shown, note, told_lines
from greenagent.cli.ctl.waiting import tell_waiting
from greenagent.values import states
from greenagent.values.result import NOTHING_RAN

MAX_NAMED: Final = 10
"""Agents that are named in one line."""


def tell_silence(client: Client, job: dict[str, Any]) -> set[str]:
    """Says on stderr why there is no line; returns the agents of which that was said."""
    steps = {agent_name(one): one for one in job["agents"]}
    told: dict[str, list[dict[str, Any]]] = {}
    for result in job["results"]:
        if why := _why(job, result, steps.get(agent_name(result), {})):
            told.setdefault(why, []).append(result)
    for why, results in told.items():
        names = [_named(result, len(results) == 1) for result in results if result["nid"]]
        where = f" ({', '.join(names[:MAX_NAMED])}{' and more' if names[MAX_NAMED:] else ''})" if names else ""
        note(f"no lines of job {job['id']}: {why}{where}")
    if any(one["state"] == states.QUEUED for one in job["agents"]):
        tell_waiting(client, job["id"])
    return {agent_name(result) for results in told.values() for result in results}


def _named(result: dict[str, Any], is_alone: bool) -> str:
    ended = is_alone and states.is_terminal(result["state"])
    return f"{agent_name(result)} {result['state']}{exit_shown(result)}" if ended else agent_name(result)


def _why(job: dict[str, Any], result: dict[str, Any], step: dict[str, Any]) -> str:
    """Of one agent; "" where nothing is known."""
    if result["state"] == states.QUEUED:
        return "it has not begun"
    if job["cmd"] in WITHOUT_LINES:
        return f"{job['cmd']} is a built-in command, which has none"
    if result["state"] == states.RUNNING:
        return "it waits for its turn" if step.get("waits") else "it runs, and none has come yet"
    why = untold(step.get("why", ""), step.get("exit"))
    if result.get("delivered") is False:  # one that was handed over and not acknowledged may have run
        return why or f"it ended {result['state']} before it ran"
    if result.get("reason") in NOTHING_RAN:
        return f"it never ran{f': {why}' if why else ''}"
    why = f"; {why}" if why else ""
    lines = told_lines(result)
    has_printed = any(result.get("streams") or ())
    if lines is None:
        return "" if has_printed else f"it printed nothing, as far as its result tells{why}"
    if lines.total:
        return f"all {lines.total} are lost, its agent could not store them" if lines.lost >= lines.total else ""
    if has_printed:
        end = f"the end of its output is shown by: greenagent-ctl show {as_argument(job['id'])}"
        return f'its agent uploads none ([logging] type "AC"); {end}'
    return f"it printed nothing{why}"
