"""Measures what docs/benchmarks.md tells and draws its plots.

``python benchmarks/report.py measure`` runs log_lines.py and agent.py and keeps their figures in
docs/benchmarks/figures.json; ``python benchmarks/report.py draw`` makes the PNG files from it (needs
matplotlib, which nothing else here does).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "benchmarks"
FIGURES = FOLDER / "figures.json"

TARGETS = {
    "whole agent, 1": 2.0,
    "whole agent, 20": 1.2,
    "plain, 1": 2.0,
    "json, 1": 1.2,
    "level, 1": 0.7,
    "levels, 1": 0.7,
    "coloured, 1": 0.8,
    "plain, 20": 1.2,
}
"""Ratios to bare sqlite that the design asks for, by kind of line and number of jobs."""


def run(script: str, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *words], env=environment, stdout=subprocess.PIPE, check=True
    )
    return done.stdout.decode()


def measure() -> None:
    lines = [json.loads(line) for line in run("log_lines.py", "--json").splitlines()]
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        print(run("agent.py", "--json", file.name), end="")
        agent = json.loads(Path(file.name).read_text())
    FOLDER.mkdir(parents=True, exist_ok=True)
    FIGURES.write_text(json.dumps({"log lines": lines, "agent": agent}, indent=1) + "\n")


def draw() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figures = json.loads(FIGURES.read_text())
    whole = [
        {"kind": "whole agent", "jobs": jobs, "ratio": figures["agent"][f"lines {jobs}"]["ratio"]} for jobs in (1, 20)
    ]
    draw_lines(pyplot, [*whole, *figures["log lines"]])
    draw_agent(pyplot, figures["agent"])


def draw_lines(pyplot: Any, lines: list[dict[str, Any]]) -> None:
    """Lines per second into the log database, as multiples of bare sqlite, beside the targets."""
    names = [f"{case['kind']}, {case['jobs']}" for case in lines]
    figure, axes = pyplot.subplots(figsize=(9, 3.8))
    places = range(len(names))
    axes.bar(places, [case["ratio"] for case in lines], color="#3b7a57", label="measured")
    for place, name in zip(places, names, strict=True):
        if name in TARGETS:
            axes.hlines(TARGETS[name], place - 0.4, place + 0.4, color="#b03a2e", linewidth=2)
    axes.hlines([], 0, 0, color="#b03a2e", linewidth=2, label="target (at least)")
    axes.set_xticks(list(places), [name.replace(", ", "\n") + " job(s)" for name in names])
    axes.set_ylabel("x bare sqlite")
    axes.set_title("Lines per second from pipe to log database")
    axes.set_ylim(0, max(case["ratio"] for case in lines) * 1.15)
    axes.legend(loc="upper right")
    figure.tight_layout()
    figure.savefig(FOLDER / "log_lines.png", dpi=110)


def draw_agent(pyplot: Any, agent: dict[str, dict[str, float]]) -> None:
    """How late the agent answers: a job from push to result, and a ping while jobs print at full speed."""
    rows = [
        ("job, median", agent["latency"]["median ms"]),
        ("job, p95", agent["latency"]["p95 ms"]),
        ("ping, 1 chatty job, median", agent["load 1"]["ping median ms"]),
        ("ping, 1 chatty job, p99", agent["load 1"]["ping p99 ms"]),
        ("ping, 20 chatty jobs, median", agent["load 20"]["ping median ms"]),
        ("ping, 20 chatty jobs, p99", agent["load 20"]["ping p99 ms"]),
    ]
    figure, axes = pyplot.subplots(figsize=(8, 3.2))
    axes.barh([name for name, _ in rows][::-1], [value for _, value in rows][::-1], color="#34568b")
    axes.set_xlabel("ms from the push of a command to its result")
    axes.set_title("Latency over HTTP on loopback")
    figure.tight_layout()
    figure.savefig(FOLDER / "latency.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "draw"])
    {"measure": measure, "draw": draw}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
