"""The series of figures in the statistics that agents sent: whose a figure is, and what it is called here."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any, Final, NamedTuple

from greenagent.cli.ctl.output import agent_name
from greenagent.values import states

OWN_FIGURES: Final = {
    "agent_cpu_percent": "cpu",
    "agent_resident_bytes": "rss",
    "jobs_running": "jobs_running",
    "jobs_waiting": "jobs_waiting",
    "log_lines_dropped": "log_lines_dropped",
    "hub_stall_seconds": "hub_stall_seconds",
}
"""Keys an agent sends of itself in the series ``OWN``, and what the figures are called here."""
JOB_FIGURES: Final = {name: name for name in ("cpu", "rss", "lines_per_second")}
OWN: Final = ("greenagent", "agent")
MAX_STAMP: Final = 1e11
"""Seconds since 1970; a stamp further away is none, and may be too large to be reckoned with."""

_FIRST_ORIGINAL: Final = {name: name for name in ("cpu", "rss")}
"""Keys of the first generation of originals, which stand behind ``gid.nid.domain.name`` (protocol 8.3)."""
_LATER_ORIGINAL: Final = {"_cpu_": "cpu", "_rss_": "rss"}
"""Keys of the later ones, which stand behind ``gid.nid.cmd.domain.name``."""
_NOT_GIVEN: Final = "unknown"
"""What the last of the originals writes where a job has no domain or name."""


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


Series = dict[SeriesKey, dict[str, Point]]
"""The figures of each series by the names they have here."""


class RunningJobs:
    """The ids of running jobs by agent and by what names their series."""

    def __init__(self, jobs: Iterable[dict[str, Any]], originals: Container[str]) -> None:
        """``originals``: the names of those agents."""
        self._ids: dict[tuple[str, str, str], list[str]] = {}
        """By agent, domain and name, the last two as the agent sends them."""
        self._dotted: dict[tuple[str, str], tuple[str, str]] = {}
        """Domain and name of the jobs of originals by agent and both in one."""
        for job in jobs:
            for one in job["agents"]:
                if one["state"] != states.RUNNING:
                    continue
                agent, domain, name = agent_name(one), job["domain"], job["name"]
                if agent not in originals:
                    self._add(agent, domain.replace(".", "_"), name.replace(".", "_"), job["id"])
                    continue
                for sent in {(domain, name), (domain or _NOT_GIVEN, name or _NOT_GIVEN)}:
                    self._add(agent, *sent, job["id"])
                    self._dotted[agent, ".".join(sent)] = sent

    def _add(self, agent: str, domain: str, name: str, job_id: str) -> None:
        self._ids.setdefault((agent, domain, name), []).append(job_id)

    def of(self, agent: str, key: SeriesKey) -> list[str]:
        """The ids of an agent's jobs that make up a series, in order."""
        return sorted(self._ids.get((agent, key.domain, key.name), ()))

    def split(self, agent: str, dotted: str) -> tuple[str, ...]:
        """Domain and name in a text of an original that has both: those of a running job if there is such a one."""
        return self._dotted.get((agent, dotted)) or tuple(dotted.split("."))


def series_of(figures: dict[str, dict[str, float]]) -> Series:
    """What one of our agents sent. A full key is ``gid.nid.[cmd.]domain.name.key``.

    The agent's own series tells the layout: jobs cannot use that name.
    """
    split = [(key.split("."), one) for key, one in figures.items()]
    has_cmd = any(len(parts) == 6 and parts[2:5] == ["agent", *OWN] for parts, _ in split)
    series: Series = {}
    for parts, one in split:
        if len(parts) == 5 + has_cmd:
            *_, domain, name, figure = parts
            names = OWN_FIGURES if (domain, name) == OWN else JOB_FIGURES
            _add(series, SeriesKey(parts[2] if has_cmd else "", domain, name), names.get(figure), one)
    return series


def series_of_original(agent: str, figures: dict[str, dict[str, float]], running: RunningJobs) -> Series:
    """What an original agent sent: of jobs alone.

    It writes dots in a domain or name as they are. Where they are none of a running job it cannot be told what is
    which, nor whether it is a key that a job sent: such a figure is left out.
    """
    series: Series = {}
    for key, one in figures.items():
        prefix, _, figure = key.rpartition(".")
        is_later = figure in _LATER_ORIGINAL
        parts = prefix.split(".", 3 if is_later else 2)[2:]  # without the gid and nid
        if len(parts) < 1 + is_later:
            continue
        cmd, dotted = parts[0] if is_later else "", parts[-1]
        named = running.split(agent, dotted)
        if len(named) == 2:
            names = _LATER_ORIGINAL if is_later else _FIRST_ORIGINAL
            _add(series, SeriesKey(cmd, *named), names.get(figure), one)
    return series


def _add(series: Series, key: SeriesKey, name: str | None, figure: dict[str, float]) -> None:
    if name is not None and abs(figure["timestamp"]) <= MAX_STAMP:
        point = Point(figure["timestamp"], figure["value"], figure.get("interval") or 0.0)
        series.setdefault(key, {})[name] = point
