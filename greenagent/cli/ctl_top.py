"""``greenagent-ctl top``: what agents and jobs use, from the statistics the controller received."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from greenagent.cli.ctl_client import Client
from greenagent.cli.ctl_show import print_table

STALE = 180.0
"""Seconds after which figures of a series without running jobs are not shown any more."""

USUAL_INTERVAL = 60.0
"""Seconds between the figures of a series, where only one has come yet (the agent's default)."""
LAST_STAMP = 1e11
"""Seconds since 1970; a stamp further away is none, and may be too large to be reckoned with."""
ON_THE_WAY = 10.0
"""Seconds figures may take from the end of their interval to here."""

_JOB_KEYS = {"cpu": "cpu", "rss": "rss", "lines_per_second": "lines_per_second"}
_OWN = ("greenagent", "agent")
_OWN_KEYS = {
    "agent_cpu_percent": "cpu",
    "agent_resident_bytes": "rss",
    "jobs_running": "jobs_running",
    "jobs_waiting": "jobs_waiting",
    "log_lines_dropped": "log_lines_dropped",
    "hub_stall_seconds": "hub_stall_seconds",
}
_AGENT_FIGURES = (*_OWN_KEYS.values(), "lines_per_second")


Point = tuple[float, float, float]
"""Stamp, value, and seconds since the figure before (0 if there was none)."""


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
                print("\x1b[H\x1b[2J", end="")
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
    figures = {(one["gid"], one["nid"]): one["figures"] for one in statistics}
    ids = _running_ids(running)
    shown: dict[str, Any] = {"agents": [], "jobs": []}
    for agent in agents:
        identity = (agent["gid"], agent["nid"])
        own, series = _sort(figures.get(identity, {}))
        jobs = []
        for key, found in sorted(series.items()):
            stamp = max(stamp for stamp, _, _ in found.values())
            names = sorted(ids.get((*identity, key.domain, key.name), []))
            if not names and now - stamp > STALE:
                continue
            # A key that was not sent again with the others is not true any more.
            values = {
                name: point[1] if (point := found.get(name)) is not None and point[0] == stamp else None
                for name in _JOB_KEYS
            }
            interval = max(interval for _, _, interval in found.values()) or USUAL_INTERVAL
            if now - stamp > 2 * interval + ON_THE_WAY:
                values["lines_per_second"] = None  # a rate of long ago says nothing about now
            jobs.append({**_identity(agent), **key._asdict(), "ids": names, "age": round(now - stamp, 1), **values})
        rates = [job["lines_per_second"] for job in jobs if job["ids"] and job["lines_per_second"] is not None]
        line = {name: own.get(name, (0, None, 0))[1] for name in _AGENT_FIGURES}
        line["lines_per_second"] = sum(rates) if rates else (0.0 if own else None)
        age = round(now - max(stamp for stamp, _, _ in own.values()), 1) if own else None
        shown["agents"].append({**_identity(agent), "live": agent["live"], "age": age, **line})
        shown["jobs"].extend(jobs)
    return shown


def _identity(agent: dict[str, Any]) -> dict[str, Any]:
    return {"gid": agent["gid"], "nid": agent["nid"]}


def _running_ids(jobs: Iterable[dict[str, Any]]) -> dict[tuple[int, int, str, str], list[str]]:
    """The ids of running jobs by agent and by what names their series."""
    found: dict[tuple[int, int, str, str], list[str]] = {}
    for job in jobs:
        for one in job["agents"]:
            if one["state"] == "RUNNING":
                key = (one["gid"], one["nid"], job["domain"].replace(".", "_"), job["name"].replace(".", "_"))
                found.setdefault(key, []).append(job["id"])
    return found


def _sort(
    figures: dict[str, dict[str, float]],
) -> tuple[dict[str, Point], dict[SeriesKey, dict[str, Point]]]:
    """An agent's own figures and those of its series.

    A full key is ``gid.nid.[cmd.]domain.name.key``. Its own figures tell the layout: jobs cannot
    use that name.
    """
    split = [(key.split("."), one) for key, one in figures.items()]
    has_cmd = any(parts[3:5] == list(_OWN) and parts[2] == "agent" for parts, _ in split if len(parts) == 6)
    own: dict[str, Point] = {}
    series: dict[SeriesKey, dict[str, Point]] = {}
    for parts, one in split:
        if len(parts) != 5 + has_cmd or abs(one["timestamp"]) > LAST_STAMP:
            continue
        key = SeriesKey(parts[2] if has_cmd else "", parts[-3], parts[-2])
        point = (one["timestamp"], one["value"], one.get("interval") or 0.0)
        if (key.domain, key.name) == _OWN:
            if parts[-1] in _OWN_KEYS:
                own[_OWN_KEYS[parts[-1]]] = point
        elif parts[-1] in _JOB_KEYS:
            series.setdefault(key, {})[_JOB_KEYS[parts[-1]]] = point
    return own, series


def _show(shown: dict[str, Any]) -> None:
    print_table(
        ("AGENT", "STATE", "JOBS", "WAITING", "CPU", "MEMORY", "LINES/S"),
        [
            (
                f"{agent['gid']}:{agent['nid']}",
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
                f"{job['gid']}:{job['nid']}",
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
