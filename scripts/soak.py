"""What scripts/soak does: a mixed load, and figures of the agent that must stay flat after the warm-up."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from rig import TERMINAL, Recorder, Rig, free_port, shell

WARM_UP = 0.3
"""The part of the run that is warm-up."""
ALLOWED = {"rss_mb": (1.10, 4.0), "descriptors": (1.0, 12.0), "threads": (1.0, 3.0), "greenlets": (1.0, 15.0)}
"""What the median at the end may be above that after the warm-up, both while no job is there: factor and addition."""
RESTING = 7
"""Samples that are taken while no job is there."""
LONGEST_REST = 60.0
"""Seconds in which all jobs have to end once none is pushed any more."""
MORE = """
[metrics]
listen = "127.0.0.1:{port}"
"""


class Soak:
    """Load and samples."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._seconds = seconds
        self._port = free_port()
        self._recorder = Recorder(random.Random(1), trouble=0.05, keep=False)
        self._rig = Rig(
            folder, self._recorder, max_jobs=20, max_db_size=4 * 1024 * 1024, more=MORE.format(port=self._port)
        )
        self._number = 0
        self._ended = 0
        """All jobs up to this one have ended."""
        self._samples: list[dict[str, float]] = []
        self._rests: list[list[dict[str, float]]] = []

    def run(self) -> bool:
        """Prints the samples as a table; True when all of it stayed flat."""
        rig = self._rig
        try:
            rig.start_controller()
            rig.start_agent()
            rig.await_agent()
            began = time.monotonic()
            next_sample = began
            while (now := time.monotonic()) < began + self._seconds:
                self._push()
                if not self._rests and now >= began + self._seconds * WARM_UP:
                    self._rest(began)
                if now >= next_sample:
                    next_sample = now + max(0.5, self._seconds / 60)
                    self._sample(now - began)
                time.sleep(0.05)
            self._rest(began)
            fine = rig.end(rig.agent) == 0
        finally:
            rig.close()
            self._recorder.close()
        if not fine or "Traceback" in rig.said("agent.log"):
            print(f"the agent did not end well:\n{rig.tail('agent.log')}")
            return False
        return self._judge()

    def _push(self) -> None:
        self._number += 1
        name = f"soak-{self._number}"
        kinds: list[dict[str, Any]] = [
            shell(name, "true"),
            shell(name, "echo wrong >&2; exit 3"),
            shell(name, "seq 1 2000", loglevels_ac="*"),
            shell(name, "echo 10::soak.count:1'|'c; sleep 0.5", domain="soak"),
            shell(name, "sleep 30", max_time=1),
            shell(name, "setsid sleep 100 & exit 0"),
            {"id": name, "cmd": "get_processes_stats", "args": {}},
        ]
        self._rig.submit(kinds[self._number % len(kinds)])

    def _rest(self, began: float) -> None:
        """Samples without load: with it, a machine that is slow just now would have more jobs at a time."""
        until = time.monotonic() + LONGEST_REST
        while self._ended < self._number and time.monotonic() < until:
            if self._rig.job(f"soak-{self._ended + 1}")["state"] in TERMINAL:
                self._ended += 1
            else:
                time.sleep(0.05)
        for _ in range(RESTING):
            time.sleep(0.1)
            self._sample(time.monotonic() - began)
        self._rests.append(self._samples[-RESTING:])

    def _sample(self, at: float) -> None:
        agent = self._rig.agent
        assert agent is not None
        folder = Path(f"/proc/{agent.pid}")
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
        sample = {
            "seconds": at,
            "jobs": float(self._number),
            "rss_mb": int(status["VmRSS"].split()[0]) / 1024,
            "descriptors": float(len(os.listdir(folder / "fd"))),
            "threads": float(status["Threads"]),
        }
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/status", timeout=60) as answer:
            sample["greenlets"] = float(json.load(answer)["process"]["greenlets"])
        self._samples.append(sample)

    def _judge(self) -> bool:
        shown = self._samples[:: max(1, len(self._samples) // 12)]
        keys = list(self._samples[-1])
        print("".join(f"{key:>12}" for key in keys))
        for sample in shown:
            print("".join(f"{sample[key]:>12.1f}" for key in keys))
        fine = True
        for key, (factor, more) in ALLOWED.items():
            first, last = _median(self._rests[0], key), _median(self._rests[-1], key)
            rises = last > first * factor + more
            fine = fine and not rises
            print(f"{key}: {first:.1f} after the warm-up, {last:.1f} at the end: {'IT RISES' if rises else 'flat'}")
        return fine


def _median(samples: list[dict[str, float]], key: str) -> float:
    values = sorted(sample[key] for sample in samples)
    return values[len(values) // 2]


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs a mixed load; exits 1 if the agent's figures rise.")
    parser.add_argument("--minutes", type=float, default=10)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        return 0 if Soak(folder, options.minutes * 60).run() else 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
