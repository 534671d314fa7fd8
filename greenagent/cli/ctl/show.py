"""The reading commands of ``greenagent-ctl``."""

from __future__ import annotations

import argparse
import json
from typing import Any

from greenagent.cli.common import UsageError, ago, one_line, print_table
from greenagent.cli.ctl.client import Client, job_path
from greenagent.cli.ctl.output import agent_name
from greenagent.values import states


def agents(client: Client, options: argparse.Namespace) -> int:
    """The agents as a table."""
    answer = client.get("agents")
    if options.json:
        print(json.dumps(answer))
        return 0
    rows = [
        (
            agent_name(agent),
            "live" if agent["live"] else "away",
            ago(agent["last_contact"]),
            "-" if agent["free_slots"] is None else str(agent["free_slots"]),
            str(agent["queued"]),
            agent["version"] or "-",
            ",".join(agent["roles"]) or "-",
        )
        for agent in answer["agents"]
    ]
    print_table(("AGENT", "STATE", "LAST CONTACT", "FREE SLOTS", "QUEUED", "VERSION", "ROLES"), rows)
    return 0


def jobs(client: Client, options: argparse.Namespace) -> int:
    """The jobs as a table."""
    filters: dict[str, Any] = {"limit": options.limit}
    if not options.all:
        filters["kills"] = 0
    if options.state is not None:
        known = sorted(states.PLACEHOLDERS | states.TERMINAL)
        if options.state.upper() not in known:
            raise UsageError(f"--state {options.state!r} is none of {', '.join(known)}")
        filters["state"] = options.state
    if options.agent:
        filters["agent"] = options.agent
    if options.since is not None:
        filters["since"] = options.since
    answer = client.get("jobs", **filters)
    if options.json:
        print(json.dumps(answer))
        return 0
    rows = [
        (
            job["id"],
            job["state"],
            _where(job),
            f"{job['cmd']} {job['name']}".strip(),
            ago(job["created"]),
            _lasted(job),
        )
        for job in answer["jobs"]
    ]
    print_table(("ID", "STATE", "AGENTS", "COMMAND", "SINCE", "TOOK"), rows)
    return 0


def show(client: Client, options: argparse.Namespace) -> int:
    """One job."""
    job = client.get(job_path(options.id))
    if options.json:
        print(json.dumps(job))
        return 0
    print(one_line(f"job {job['id']}: {job['state']}, {job['cmd']} {job['name']}".rstrip()))
    print(f"posted {ago(job['created'])}" + (f", took {_lasted(job)}" if job["finished"] else ""))
    for result in job["results"]:
        print(f"{agent_name(result)} {result['state']}{_code(result)}")
        if result.get("data"):
            print(_indented(result["data"], 2))
        texts = dict(zip(("stdout", "stderr"), result.get("streams") or (), strict=False))
        for name, text in {**texts, "critical": result.get("critical")}.items():
            if text:
                print(f"  {name}:")
                print(_indented(text, 4))
    return 0


def _where(job: dict[str, Any]) -> str:
    found = [agent_name(one) for one in job["agents"] if one["nid"]]
    if not found:
        return "+".join(job["roles"]) or "-"
    return ",".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _lasted(job: dict[str, Any]) -> str:
    return f"{max(0.0, job['finished'] - job['created']):.1f} s" if job["finished"] else "-"


def _code(result: dict[str, Any]) -> str:
    if result.get("exit_code") is not None:
        return f", exit code {result['exit_code']}"
    return f", {result['signal']}" if result.get("signal") else ""


def _indented(text: str, by: int) -> str:
    return "\n".join(" " * by + line for line in text.removesuffix("\n").split("\n"))
