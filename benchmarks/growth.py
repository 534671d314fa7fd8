"""What a job and the agent's memory cost with much of something: ended, waiting, recurring and running jobs, archives,
controllers.

``python benchmarks/growth.py [--kinds KIND ...] [--amounts N ...] [--rounds N] [--json FILE] [--draw]``. For each
amount one agent with it and one without live at the same time and get bursts of jobs by turns (see jobs.py); the costs
are told as multiples of what the agent without has. ``--draw`` makes the plot of the figures in
docs/benchmarks/growth.json instead (needs matplotlib, as report.py does).
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from jobs import Agent, Machine, burst
from processes import memory

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "docs" / "benchmarks" / "growth.json"
PANELS = {
    "times what one without has": ("cpu x", "latency x"),
    "KB of memory each": ("memory, KB each",),
    "% of a core more while idle": ("idle, % of a core more",),
}
"""What the plot shows side by side: the figures in each."""
AMOUNTS = {
    "ended jobs": (1_000, 10_000),
    "archives": (100, 1_000),
    "waiting jobs": (1_000, 10_000),
    "recurring jobs": (100, 800),
    "running jobs": (100, 800),
    "controllers": (8, 32),
}
LONG = 1_000_000
"""Seconds."""
AT_ONCE = 500
"""Jobs pushed until their results are awaited."""


def start(machine: Machine, folder: Path | None = None, controllers: int = 1) -> Agent:
    agent = Agent(ROOT, machine, folder, controllers)
    agent.settle()
    return agent


def with_ended(machine: Machine, amount: int) -> Agent:
    agent = start(machine)
    for first in range(0, amount, AT_ONCE):
        jobs = min(AT_ONCE, amount - first)
        for _ in range(jobs):
            agent.push("/bin/true")
        agent.serve(jobs)
    return agent


def with_archives(machine: Machine, amount: int) -> Agent:
    """Copies of a small database, each a second older than the one before."""
    folder = Path(tempfile.mkdtemp(prefix="greenagent-benchmark-"))
    first = start(machine, folder)
    burst(first, machine, 10)
    stop(first)
    [database] = [path for path in (folder / "logs").glob("*.db") if not path.is_symlink()]
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    epoch = int(database.stem)
    for number in range(1, amount + 1):
        shutil.copy2(database, database.with_name(f"{epoch - number}.db"))
    return start(machine, folder)


def with_waiting(machine: Machine, amount: int) -> Agent:
    """In one queue, behind a job that does not end."""
    agent = start(machine)
    agent.push("sleep", str(LONG), queue="long")
    for _ in range(amount):
        agent.push("/bin/true", queue="long")
    agent.settle()
    return agent


def with_recurring(machine: Machine, amount: int) -> Agent:
    agent = start(machine)
    for _ in range(amount):
        agent.push("/bin/false", recurring_period=LONG)  # a run that succeeds without a word has no result
    agent.serve(amount)
    return agent


def with_running(machine: Machine, amount: int) -> Agent:
    agent = start(machine)
    for _ in range(amount):
        agent.push("sleep", str(LONG))
    agent.settle()
    return agent


def with_controllers(machine: Machine, amount: int) -> Agent:
    return start(machine, controllers=amount)


KINDS: dict[str, Callable[[Machine, int], Agent]] = {
    "ended jobs": with_ended,
    "archives": with_archives,
    "waiting jobs": with_waiting,
    "recurring jobs": with_recurring,
    "running jobs": with_running,
    "controllers": with_controllers,
}


def stop(agent: Agent) -> None:
    agent.process.send_signal(signal.SIGTERM)
    while agent.process.poll() is None:
        agent.look()


def measure(kind: str, amount: int, rounds: int) -> dict[str, float]:
    """Costs with so many, as multiples of those without any, medians of the rounds."""
    machine = Machine()
    agents = [start(machine)]
    try:
        agents.append(KINDS[kind](machine, amount))
        for agent in agents:
            burst(agent, machine, 50)
        idle = [agent.cpu for agent in agents]
        began = time.monotonic()
        while time.monotonic() - began < 5:
            for agent in agents:
                agent.look(0.05)
        shares = [(agent.cpu - before) / 5 * 100 for agent, before in zip(agents, idle, strict=True)]
        grown = memory(agents[1].process.pid) - memory(agents[0].process.pid)
        pairs = [[burst(agent, machine, 50) for agent in agents] for _ in range(rounds)]
    finally:
        for agent in agents:
            stop(agent)
    ratio = {key: statistics.median(much[key] / none[key] for none, much in pairs) for key in pairs[0][0]}
    return {
        "cpu x": ratio["cpu ms"],
        "latency x": ratio["latency ms"],
        "memory, MB more": grown,
        "memory, KB each": grown * 1000 / amount,
        "idle, % of a core more": shares[1] - shares[0],
    }


def draw() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found: dict[str, dict[str, dict[str, float]]] = json.loads(FIGURES.read_text())
    rows = [(f"{int(amount):,} {kind}", one) for kind, amounts in found.items() for amount, one in amounts.items()]
    figure, panels = pyplot.subplots(1, len(PANELS), sharey=True, figsize=(11, 4.2))
    places = range(len(rows))
    for axes, (title, keys) in zip(panels, PANELS.items(), strict=True):
        height = 0.8 / len(keys)
        for number, key in enumerate(keys):
            offset = (number - (len(keys) - 1) / 2) * height
            values = [max(0.0, one[key]) for _, one in rows]
            axes.barh(
                [place + offset for place in places],
                values,
                height,
                color=("#34568b", "#3b7a57")[number],
                label={"cpu x": "processor time per job", "latency x": "from push to result"}.get(key),
            )
        axes.set_xlabel(title)
    panels[0].set_yticks(list(places), [name for name, _ in rows])
    panels[0].invert_yaxis()
    panels[0].axvline(1, color="#b03a2e", linewidth=1)
    figure.legend(loc="upper right", fontsize="small")
    panels[1].set_xscale("symlog", linthresh=1)
    figure.suptitle("An agent with much of something, beside one without", x=0.4)
    figure.tight_layout()
    figure.savefig(FIGURES.with_suffix(".png"), dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--amounts", nargs="+", type=int, help="default: two for each kind")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--draw", action="store_true", help=f"only make the plot of {FIGURES.relative_to(ROOT)}")
    options = parser.parse_args()
    if options.draw:
        draw()
        return
    found: dict[str, dict[int, dict[str, float]]] = {}
    for kind in options.kinds:
        for amount in options.amounts or AMOUNTS[kind]:
            figures = found.setdefault(kind, {})[amount] = measure(kind, amount, options.rounds)
            told = ", ".join(f"{key} {value:.2f}" for key, value in figures.items())
            print(f"{amount} {kind}: {told}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
