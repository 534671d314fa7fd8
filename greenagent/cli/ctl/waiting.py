"""What a posted job waits for: an agent that is away, a slot, or those before it in its queue."""

from __future__ import annotations

from typing import Any, Final

from greenagent.cli.common import ago
from greenagent.cli.ctl.client import Client, ControllerError, job_path
from greenagent.cli.ctl.output import agent_name, note
from greenagent.values import states

MAX_TOLD: Final = 5
"""Agents of a fan-out of which it is said."""


def tell_waiting(client: Client, job_id: str) -> bool:
    """Says on stderr where a job has not begun, and why; False: all of it runs, or nobody can be asked."""
    try:
        job = client.get(job_path(job_id))
        open_ones = [one for one in job["agents"] if one["state"] in states.PLACEHOLDERS]
        asked: dict[str, Any] = (
            {"agent": agent_name(open_ones[0])} if len(open_ones) == 1 and open_ones[0]["nid"] else {}
        )
        known = {agent_name(one): one for one in client.get("agents", **asked)["agents"]} if open_ones else {}
    except ControllerError:
        return False  # who follows the job deals with that
    reasons = [reason for one in open_ones if (reason := _reason(job, one, known))]
    for reason in reasons[:MAX_TOLD]:
        note(reason)
    if reasons[MAX_TOLD:]:
        note(f"and {len(reasons) - MAX_TOLD} agents more have not begun")
    return bool(reasons)


def _reason(job: dict[str, Any], one: dict[str, Any], known: dict[str, dict[str, Any]]) -> str:
    """Why the job has not begun on an agent; "" where it runs, as far as that is known."""
    name = agent_name(one)
    agent = known.get(name, {})
    if one["state"] == states.RUNNING:
        if not one.get("waits"):  # controllers of 0.1 and original agents do not tell
            return ""
        queue = (job["command"].get("args") or {}).get("queue")
        return f"handed over to {name}, waits there for {f'its queue {queue!r} or ' if queue else ''}a slot"
    if one["nid"]:
        return f"waiting for {name} (last contact {ago(agent.get('last_contact'))})"
    roles = set(job["roles"])
    live = [agent for agent in known.values() if agent["live"] and ("*" in roles or roles <= set(agent["roles"]))]
    return f"waiting for an agent with the role {'+'.join(job['roles'])}{' that has a free slot' if live else ''}"
