"""``greenagent-ctl top``: what agents and jobs use, from the statistics the controller received."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from greenagent.cli.common import print_table
from greenagent.cli.ctl.client import Client
from greenagent.cli.ctl.output import agent_name

MAX_AGE: Final = 180.0
"""Seconds after which figures of a series without running jobs are not shown any more."""
DEFAULT_INTERVAL: Final = 60.0
"""Seconds between the figures of a series, where only one has come yet (the agent's default)."""
MAX_STAMP: Final = 1e11
"""Seconds since 1970; a stamp further away is none, and may be too large to be reckoned with."""
DELIVERY_TIME: Final = 10.0
"""Seconds figures may take from the end of their interval to here."""

_JOB_FIGURES: Final = {name: name for name in ("cpu", "rss", "lines_per_second")}
_OWN: Final = ("greenagent", "agent")
_OWN_FIGURES: Final = {
    "agent_cpu_percent": "cpu",
    "agent_resident_bytes": "rss",
    "jobs_running": "jobs_running",
    "jobs_waiting": "jobs_waiting",
    "log_lines_dropped": "log_lines_dropped",
    "hub_stall_seconds": "hub_stall_seconds",
}
"""Keys an agent sends of itself in the series ``_OWN``, and what the figures are called here."""


class Point(NamedTuple):
    """One figure; ``interval`` is the seconds since the one before (0 if there was none)."""

    stamp: float
    value: float | None
    interval: float


class SeriesKey(NamedTuple):
    """What an agent sends under one prefix; ``cmd`` is empty in the ``seed`` layout of keys."""

    cmd: str
    domain: str
    name: str


def top(client: Client, options: argparse.Namespace) -> int:
    """Shows it, once or until interrupted."""
    live = sys.stdout.isatty() and not options.once and not options.json
    while True:
        running = client.get("jobs", state="RUNNING")["jobs"]
        shown = picture(client.get("agents")["agents"], client.get("stats")["agents"], running, time.time())
        if options.json:
            print(json.dumps(shown), flush=True)
        else:
            if live:
                print("\x1b[H\x1b[2J", end="", file=sys.__stdout__)
            _show(shown)
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
    ids = _running_ids(running)
    shown: dict[str, Any] = {"agents": [], "jobs": []}
    for agent in agents:
        identity = {"gid": agent["gid"], "nid": agent["nid"]}
        own: dict[str, Point] = {}
        rates = []
        for key, found in sorted(_series(figures.get(agent_name(agent), {})).items()):
            if key[1:] == _OWN:
                own = found
                continue
            names = sorted(ids.get((agent_name(agent), key.domain, key.name), []))
            age = _age(found, now)
            if names or age <= MAX_AGE:
                job = {**identity, **key._asdict(), "ids": names, "age": age, **_current(found, age)}
                shown["jobs"].append(job)
                if names and job["lines_per_second"] is not None:
                    rates.append(job["lines_per_second"])
        values: dict[str, Any] = {name: own[name].value if name in own else None for name in _OWN_FIGURES.values()}
        values["lines_per_second"] = sum(rates) if rates else (0.0 if own else None)
        age_of_own = _age(own, now) if own else None
        shown["agents"].append({**identity, "live": agent["live"], "age": age_of_own, **values})
    return shown


def _age(found: dict[str, Point], now: float) -> float:
    return round(now - max(point.stamp for point in found.values()), 1)


def _current(found: dict[str, Point], age: float) -> dict[str, float | None]:
    """The figures of a series of jobs, the newest of which is ``age`` seconds old."""
    newest = max(point.stamp for point in found.values())
    # A key that was not sent again with the others is not true any more.
    current = {name: point.value for name, point in found.items() if point.stamp == newest}
    values = {name: current.get(name) for name in _JOB_FIGURES}
    interval = max(point.interval for point in found.values()) or DEFAULT_INTERVAL
    if age > 2 * interval + DELIVERY_TIME:
        values["lines_per_second"] = None  # a rate of long ago says nothing about now
    return values


def _running_ids(jobs: Iterable[dict[str, Any]]) -> dict[tuple[str, str, str], list[str]]:
    """The ids of running jobs by agent and by what names their series."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for job in jobs:
        for one in job["agents"]:
            if one["state"] == "RUNNING":
                key = (agent_name(one), job["domain"].replace(".", "_"), job["name"].replace(".", "_"))
                found.setdefault(key, []).append(job["id"])
    return found


def _series(figures: dict[str, dict[str, float]]) -> dict[SeriesKey, dict[str, Point]]:
    """What an agent sent, by series and by the names figures have here.

    A full key is ``gid.nid.[cmd.]domain.name.key``. The agent's own series tells the layout: jobs
    cannot use that name.
    """
    split = [(key.split("."), one) for key, one in figures.items()]
    has_cmd = any(len(parts) == 6 and parts[2:5] == ["agent", *_OWN] for parts, _ in split)
    series: dict[SeriesKey, dict[str, Point]] = {}
    for parts, one in split:
        if len(parts) != 5 + has_cmd or abs(one["timestamp"]) > MAX_STAMP:
            continue
        *_, domain, name, figure = parts
        names = _OWN_FIGURES if (domain, name) == _OWN else _JOB_FIGURES
        if figure in names:
            point = Point(one["timestamp"], one["value"], one.get("interval") or 0.0)
            series.setdefault(SeriesKey(parts[2] if has_cmd else "", domain, name), {})[names[figure]] = point
    return series


def _show(shown: dict[str, Any]) -> None:
    print_table(
        ("AGENT", "STATE", "JOBS", "WAITING", "CPU", "MEMORY", "LINES/S"),
        [
            (
                agent_name(agent),
                "live" if agent["live"] else "away",
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
                ",".join(job["ids"]) or "-",
            )
            for job in shown["jobs"]
        ],
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
