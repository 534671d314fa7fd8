"""How soon ``greenagent-ctl run`` shows a line, and how soon it ends, with a real controller and a real agent.

``python benchmarks/ctl_run.py [--lines N] [--runs N] [--json]``. A job prints the time N times, at intervals that are
chosen at random; each line's delay is from there to its arrival on the stdout of ``greenagent-ctl``. The end's delay
is from just before the job ends to the end of ``greenagent-ctl``, of a job of several lines and of ``true``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
CONFIGURATION = """
[main]
gid = 1
nid = 10
message_id_file = "mid"
history_file = "history"
[controllers.main]
url = "{url}"
[logging.db]
type = "DB"
log_dir = "logs"
[logging.ac]
type = "AC"
levels = [2]
"""
JOB = """
import random, sys, time
chosen = random.Random(int(sys.argv[2]))
for _ in range(int(sys.argv[1])):
    time.sleep(chosen.uniform(0.02, 0.6))
    print(time.time(), flush=True)
print(time.time(), flush=True)
"""


def program(module: str, *words: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"greenagent.cli.{module}", *words]
    return subprocess.Popen(command, text=True, env=ENVIRONMENT, **options)


def run(url: str, *words: str, told: list[float] | None = None) -> tuple[list[float], float]:
    """The delays of the lines of a job that prints the time, and when ``greenagent-ctl`` ended; ``told``: the times."""
    ctl = program("ctl", "--url", url, "run", "--gid", "1", "--nid", "10", *words, stdout=subprocess.PIPE)
    assert ctl.stdout is not None
    delays = []
    for line in ctl.stdout:
        delays.append(time.time() - float(line))
        if told is not None:
            told.append(float(line))
    if ctl.wait():
        sys.exit("greenagent-ctl run failed")
    return delays, time.time()


def measure(lines: int, runs: int) -> dict[str, list[float]]:
    """Seconds: of each line, of each end, and of each whole run of ``true``, from the start of the program."""
    found: dict[str, list[float]] = {"line": [], "end": [], "true": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        controller = program("controller", "--listen", "127.0.0.1:0", stdout=subprocess.PIPE)
        assert controller.stdout is not None
        url = controller.stdout.readline().removeprefix("listening on ").strip()
        (folder / "agent.toml").write_text(CONFIGURATION.format(url=url))
        agent = program("agent", "-c", "agent.toml", cwd=folder, stderr=subprocess.DEVNULL)
        try:
            run(url, "--wait-for-agent", "30", "true")
            for seed in range(runs):
                *delays, end = run_of_lines(url, lines, seed)
                found["line"] += delays
                found["end"].append(end)
                began = time.time()
                found["true"].append(run(url, "true")[1] - began)
        finally:
            agent.terminate()
            agent.wait()
            controller.terminate()
            controller.wait()
    return found


def run_of_lines(url: str, lines: int, seed: int) -> list[float]:
    """The delays of the lines, and that of the end: the last line is printed just before it."""
    told: list[float] = []
    delays, ended = run(url, sys.executable, "-c", JOB, str(lines), str(seed), told=told)
    if len(delays) != lines + 1:
        sys.exit("lines are lost")
    return [*delays, ended - told[-1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=30, help="of each job")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="the delays in seconds")
    options = parser.parse_args()
    found = measure(options.lines, options.runs)
    if options.json:
        print(json.dumps(found))
        return
    names = {
        "line": "a line is shown after",
        "end": "the end is told after",
        "true": "a whole run of true takes",
    }
    for name, text in names.items():
        delays = found[name]
        print(f"{text}: median {statistics.median(delays):.3f} s, worst {max(delays):.3f} s (of {len(delays)})")


if __name__ == "__main__":
    main()
