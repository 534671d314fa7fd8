"""The reading commands of ``greenagent-ctl``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

from greenagent.cli.common import ago, local_time, one_line, print_table, state_and_why, terminal_width
from greenagent.cli.ctl.client import Client, job_path
from greenagent.cli.ctl.ids import of_job
from greenagent.cli.ctl.output import agent_name, agent_state, exit_shown, note
from greenagent.cli.lines import level_name
from greenagent.cli.moments import duration
from greenagent.values import levels, states
from greenagent.values.text import SHORT

SORTS: Final = ("posted", "start", "end", "waited", "took", "exit", "job", "command")
"""By what a controller sorts jobs."""
MAX_LISTED: Final = 1000
"""Jobs that it lists at most."""
_BESIDE_STREAMS: Final = (*range(levels.PUBLIC, levels.CRITICAL), levels.DEBUG)
"""Levels of lines that a result does not show by itself."""
_SHOWN: Final = {
    "domain": "domain",
    "queue": "queue",
    "working_dir": "working folder",
    "max_time": "max_time",
    "max_restart": "max_restart",
    "restart": "restart",
    "recurring_period": "recurring_period",
}
"""Run arguments that ``show`` names, and how."""


def agents(client: Client, options: argparse.Namespace) -> int:
    """The agents as a table."""
    answer = client.get("agents")
    if options.json:
        print(json.dumps(answer))
        return 0
    rows = [
        (
            agent_name(agent),
            agent_state(agent),
            "polling" if agent.get("polling") else ago(agent["last_contact"]),
            "-" if agent["free_slots"] is None else str(agent["free_slots"]),
            str(agent["queued"]),
            agent["version"] or "-",
            ",".join(agent["roles"]) or "-",
        )
        for agent in answer["agents"]
    ]
    print_table(("AGENT", "STATE", "LAST CONTACT", "FREE SLOTS", "QUEUED", "VERSION", "ROLES"), rows)
    return 0


def read_states(text: str) -> frozenset[str]:
    """An option's list of states: ``error,timeout``, ``failed``, or ``waiting`` as tables show it."""
    return states.read_states(text, states.ASKED_FOR)


def jobs(client: Client, options: argparse.Namespace) -> int:
    """The jobs as a table."""
    filters: dict[str, Any] = {"limit": options.limit}
    if not options.all:
        filters["kills"] = 0
    if options.state:
        filters["state"] = ",".join(sorted(frozenset().union(*options.state)))
    for name in ("agent", "schedule", "since", "until", "sort"):
        if (value := getattr(options, name)) is not None:
            filters[name] = value
    if width := 0 if options.json else terminal_width():
        filters["short"] = SHORT
    answer = client.get("jobs", **filters)
    if len(answer["jobs"]) == MAX_LISTED < options.limit:
        note(f"there may be more: a controller lists {MAX_LISTED} jobs at most")
    if options.json:
        print(json.dumps(answer))
        return 0
    heads: tuple[str, ...] = ("ID", "STATE", "AGENTS", "POSTED", "WAITED", "TOOK", "EXIT", "COMMAND")
    rows = [_job_row(job) for job in answer["jobs"]]
    if any(job.get("schedule") for job in answer["jobs"]):
        heads = (*heads[:-1], "SCHEDULE", heads[-1])
        rows = [(*row[:-1], job.get("schedule") or "-", row[-1]) for job, row in zip(answer["jobs"], rows, strict=True)]
    short = [job.get("short") or job["id"] for job in answer["jobs"]]
    print_table(heads, rows, width=width, short=short)
    if not answer["jobs"]:
        sys.stdout.flush()  # what is said on stderr comes after it
        is_narrow = any(getattr(options, name) is not None for name in ("state", "agent", "schedule", "since", "until"))
        note("no job matches" if is_narrow else "the controller knows no job")
    return 0


def show(client: Client, options: argparse.Namespace) -> int:
    """One job."""
    job = of_job(client, options.id, lambda job_id: client.get(job_path(job_id)))
    if options.json:
        print(json.dumps(job))
        return 0
    print(one_line(f"job {job['id']}: {_state(job)}, {job['cmd']} {job['name']}".rstrip()))
    for name, text in _asked(job):
        print(one_line(f"{name}: {text}"))
    posted = "not posted here, or forgotten since; first heard of" if job.get("adopted") else "posted"
    print(f"{posted}: {_moment(job['created'])}, {ago(job['created'])}")
    steps = {(one["gid"], one["nid"]): one for one in job["agents"]}
    for result in job["results"]:
        step = steps.get((result["gid"], result["nid"])) or {}
        who = agent_name(result) if result["nid"] else "no agent:"
        recurs = job.get("recurring") and job["state"] in states.PLACEHOLDERS and states.is_terminal(result["state"])
        state = states.WAITING if step.get("waits") else result["state"]
        print(f"{who} {'last run ' if recurs else ''}{state}{exit_shown(result)}")
        if told := _told(job, step):
            print(f"  {told}")
        if result["state"] in states.PLACEHOLDERS and (away := _away(client, result, result["state"])):
            print(f"  {away}")
        if result.get("data"):
            print(_indented(result["data"], 2))
        texts = dict(zip(("stdout", "stderr"), result.get("streams") or (), strict=False))
        for name, text in {**texts, "critical": result.get("critical")}.items():
            if text:
                print(f"  {name}:")
                print(_indented(text, 4))
        if other := _other_lines(result):
            print(f"  other lines, shown by logs: {other}")
    return 0


def _other_lines(result: dict[str, Any]) -> str:
    """How many lines there are that are in no stream, by level: they may well tell why it failed."""
    counted = result.get("lines")
    counts = {int(level): count for level, count in (counted if isinstance(counted, dict) else {}).items()}
    told = [f"{counts[level]} {level_name(level)}" for level in sorted(counts) if level in _BESIDE_STREAMS]
    return ", ".join(told)


def _away(client: Client, agent: dict[str, Any], state: str) -> str:
    """What it means for a job that its agent does not poll; "" where it does, or where the job is nobody's yet."""
    found = client.get("agents", agent=agent_name(agent))["agents"] if agent["nid"] else []
    if not found or found[0]["live"]:
        return ""
    contact = found[0]["last_contact"]
    text = "its agent is away" + (f", last heard of {ago(contact)}" if contact else "")
    if state == states.RUNNING and found[0]["original"]:
        text += "; an original agent that was ended never tells what became of its jobs: this stays RUNNING for ever"
    return text


def _where(job: dict[str, Any]) -> str:
    found = [agent_name(one) for one in job["agents"] if one["nid"]]
    if not found:
        return "+".join(job["roles"]) or "-"
    away = f" ({len(job['away'])} away)" if job.get("away") else ""
    return ",".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "") + away


def _job_row(job: dict[str, Any]) -> tuple[str, ...]:
    ran = [one for one in job["agents"] if one.get("started")]
    ended = [  # of one that recurs its last run
        one.get("exit")
        for one in job["agents"]
        if states.is_terminal(one["state"]) or (job.get("recurring") and one.get("started"))
    ]
    exits = dict.fromkeys("-" if code is None else str(code) for code in ended)  # some of a fan-out may have none
    waited = [waited for one in job["agents"] if (waited := _waited(job, one)) is not None]
    took = duration(max((one["took"] for one in ran), default=None))
    if since := [one["running_since"] for one in job["agents"] if one.get("running_since")]:
        # What an agent that is away does nobody knows.
        took = "-" if job.get("silent") else f">{duration(time.time() - min(since))}"
    return (
        job["id"],
        _state(job),
        _where(job),
        "-" if job.get("adopted") else _moment(job["created"]),
        duration(max(waited, default=None)),
        took,
        ",".join(exits) or "-",
        _command(job),
    )


def _state(job: dict[str, Any]) -> str:
    """WAITING is a job that no agent has begun: each that has it says that it waits for its turn there."""
    ones = [one for one in job["agents"] if one["state"] == states.RUNNING]
    waits = job["state"] == states.RUNNING and ones and all(one.get("waits") for one in ones)
    state = states.WAITING if waits else str(job["state"])
    if state in states.TERMINAL:
        why = next(((one["why"], one["exit"]) for one in job["agents"] if one.get("why")), ("", None))
        return state_and_why(state, *why)
    marks = [kind for kind in ("service", "recurring") if job.get(kind)][:1]
    if job.get("silent"):
        marks.append("agent away" if len(job["agents"]) == 1 else f"{len(job['silent'])} agents away")
    return state_and_why(state, "", None, ", ".join(marks))


def _command(job: dict[str, Any]) -> str:
    """A controller of an earlier version tells no line."""
    return job.get("command_line") or f"{job['cmd']} {job['name']}".strip()


def _asked(job: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What else there is to the command, with names; of the environment the names alone: the values may be secret."""
    yield "command", _command(job)
    if job.get("schedule"):
        yield "schedule", job["schedule"]
    command = job.get("command") or {}
    args = command.get("args")
    args = args if isinstance(args, dict) else {}
    yield from ((name, str(args[key])) for key, name in _SHOWN.items() if args.get(key) not in (None, "", 0, False))
    env = args.get("env")
    names = list(env) if isinstance(env, (dict, list)) else []
    if names:
        yield "environment", ", ".join(str(one).partition("=")[0] for one in names)
    if job.get("roles"):
        yield "roles", f"{', '.join(job['roles'])}{' (fanout)' if job.get('fanout') else ''}"
    if job.get("away"):
        yield "away and left out", ", ".join(map(agent_name, job["away"]))


def _waited(job: dict[str, Any], steps: dict[str, Any]) -> float | None:
    """Seconds from the posting to the start, by two clocks; None where it may be but the last of several starts."""
    started: float | None = steps.get("running_since") or steps.get("started")
    if not started or any(job.get(sign) for sign in ("recurring", "restarts", "adopted")):
        return None
    return max(0.0, started - float(job["created"]))


def _told(job: dict[str, Any], steps: dict[str, Any]) -> str:
    """The times of one agent's part."""
    told = []
    if steps.get("handed_over"):
        told.append(f"handed over {_moment(steps['handed_over'])}")
    if steps.get("running_since"):
        told.append(f"runs since about {_moment(steps['running_since'])}")
    elif steps.get("started"):
        waited = _waited(job, steps)
        told.append(
            f"started {_moment(steps['started'])}" + ("" if waited is None else f" (waited {duration(waited)})")
        )
        told.append(f"ended {_moment(steps['started'] + steps['took'])} (took {duration(steps['took'])})")
    if steps.get("waits"):
        told.append("waits for its turn there")
    return ", ".join(told)


def _moment(stamp: float) -> str:
    return local_time(int(stamp))


def _indented(text: str, by: int) -> str:
    return "\n".join(" " * by + line for line in text.removesuffix("\n").split("\n"))
