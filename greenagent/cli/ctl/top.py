"""``greenagent-ctl top``: what agents and jobs use, from the statistics the controller received."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from typing import Any, Final

from greenagent.cli.common import print_table, terminal_width
from greenagent.cli.ctl.client import Client
from greenagent.cli.ctl.output import agent_name, agent_state
from greenagent.cli.ctl.series import JOB_FIGURES, OWN, OWN_FIGURES, Point, RunningJobs, series_of, series_of_original
from greenagent.values.text import SHORT

MAX_AGE: Final = 180.0
"""Seconds after which figures of a series without running jobs are not shown any more."""
DEFAULT_INTERVAL: Final = 60.0
"""Seconds between the figures of a series, where only one has come yet (the agent's default)."""
DELIVERY_TIME: Final = 10.0
"""Seconds figures may take from the end of their interval to here."""


def top(client: Client, options: argparse.Namespace) -> int:
    """Shows it, once or until interrupted."""
    live = sys.stdout.isatty() and not options.once and not options.json
    while True:
        width = 0 if options.json else terminal_width()
        asked = {"short": SHORT} if width else {}
        running = client.get("jobs", state="RUNNING", **asked)["jobs"]
        shown = picture(client.get("agents")["agents"], client.get("stats")["agents"], running, time.time())
        if options.json:
            print(json.dumps(shown), flush=True)
        else:
            if live:
                print("\x1b[H\x1b[2J", end="", file=sys.__stdout__)
            _show(shown, {job["id"]: job.get("short") or job["id"] for job in running}, width)
        if options.once or not (live or options.json):
            return 0
        time.sleep(max(0.2, options.interval))


def picture(
    agents: Iterable[dict[str, Any]],
    statistics: Iterable[dict[str, Any]],
    running: Iterable[dict[str, Any]],
    now: float,
) -> dict[str, Any]:
    """Agents and their series of jobs. Figures that were not received are null; ``age`` is in seconds."""
    figures = {agent_name(one): one["figures"] for one in statistics}
    agents = list(agents)
    # Controllers of 0.1 do not tell which are originals.
    originals = {agent_name(agent) for agent in agents if agent.get("original")}
    jobs = RunningJobs(running, originals)
    shown: dict[str, Any] = {"agents": [], "jobs": []}
    for agent in agents:
        identity = {"gid": agent["gid"], "nid": agent["nid"]}
        own: dict[str, Point] = {}
        rates = []
        sent = figures.get(name := agent_name(agent), {})
        series = series_of_original(name, sent, jobs) if name in originals else series_of(sent)
        for key, found in sorted(series.items()):
            if key[1:] == OWN and name not in originals:
                own = found
                continue
            ids = jobs.of(name, key)
            age = _age(found, now)
            if ids or age <= MAX_AGE:
                job = {**identity, **key._asdict(), "ids": ids, "age": age, **_current(found, age)}
                shown["jobs"].append(job)
                if ids and job["lines_per_second"] is not None:
                    rates.append(job["lines_per_second"])
        values: dict[str, Any] = {one: own[one].value if one in own else None for one in OWN_FIGURES.values()}
        values["lines_per_second"] = sum(rates) if rates else (0.0 if own else None)
        age_of_own = _age(own, now) if own else None
        state = {"live": agent["live"], "stopped": bool(agent.get("stopped"))}
        shown["agents"].append({**identity, **state, "age": age_of_own, **values})
    return shown


def _age(found: dict[str, Point], now: float) -> float:
    return round(now - max(point.stamp for point in found.values()), 1)


def _current(found: dict[str, Point], age: float) -> dict[str, float | None]:
    """The figures of a series of jobs, the newest of which is ``age`` seconds old."""
    newest = max(point.stamp for point in found.values())
    # A key that was not sent again with the others is not true any more.
    current = {name: point.value for name, point in found.items() if point.stamp == newest}
    values = {name: current.get(name) for name in JOB_FIGURES}
    interval = max(point.interval for point in found.values()) or DEFAULT_INTERVAL
    if age > 2 * interval + DELIVERY_TIME:
        values["lines_per_second"] = None  # a rate of long ago says nothing about now
    return values


def _show(shown: dict[str, Any], short: dict[str, str], width: int) -> None:
    """``short``: what is shown of the ids; ``width``: of the terminal, 0 where it is none."""
    print_table(
        ("AGENT", "STATE", "JOBS", "WAITING", "CPU", "MEMORY", "LINES/S"),
        [
            (
                agent_name(agent),
                agent_state(agent),
                _number(agent["jobs_running"]),
                _number(agent["jobs_waiting"]),
                _number(agent["cpu"], "%"),
                _size(agent["rss"]),
                _number(agent["lines_per_second"]),
            )
            for agent in shown["agents"]
        ],
    )
    if not shown["jobs"]:
        return
    print()
    print_table(
        ("AGENT", "JOB", "CPU", "MEMORY", "LINES/S", "FIGURES' AGE", "RUNNING"),
        [
            (
                agent_name(job),
                " ".join(part for part in (job["cmd"], job["domain"], job["name"]) if part),
                _number(job["cpu"], "%"),
                _size(job["rss"]),
                _number(job["lines_per_second"]),
                f"{job['age']:.0f}s",
                ",".join(short[one] for one in job["ids"]) or "-",
            )
            for job in shown["jobs"]
        ],
        width=width,
    )


def _number(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:.1f}{unit}" if value != int(value) else f"{value:.0f}{unit}"


def _size(value: float | None) -> str:
    if value is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
