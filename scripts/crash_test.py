"""What scripts/crash-test does: random kill -9 of agent and controller under load, then an audit.

A round pushes jobs of all kinds, kills one or both at a random instant and starts them again after
a random pause. The audit (crash_audit) holds what is left against the promises. ``--seed`` repeats
the choices of a run, not its exact instants.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from crash_audit import SLACK, Audit, Pushed
from rig import Recorder, Rig, shell

CHUNKS = 20
CHUNK_LINES = 100


class Load:
    """Makes the jobs; each notes its start in a file, so that a second start would show."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self._starts = folder / "starts"
        self._progress = folder / "progress"
        self._starts.touch()
        self._progress.touch()
        self._chance = chance
        self._number = 0

    def next(self) -> Pushed:
        """A job of a random kind."""
        self._number += 1
        kind = self._chance.choice(
            ["short"] * 6 + ["failing", "answer", "built-in", "queued", "long", "daemon", "chatty", "chatty"]
        )
        return getattr(self, f"_{kind.replace('-', '_')}")(f"{kind}-{self._number}")  # type: ignore[no-any-return]

    def remembered(self) -> Pushed:
        """A job that comes back at every start of the agent."""
        return Pushed(self._job("remembered", "sleep 100000", max_time=-1), "remembered")

    def _job(self, job_id: str, script: str, **arguments: Any) -> dict[str, Any]:
        return shell(job_id, f"echo {job_id} >> {self._starts}; {script}", **arguments)

    def _short(self, job_id: str) -> Pushed:
        return Pushed(self._job(job_id, "echo done"), "short")

    def _failing(self, job_id: str) -> Pushed:
        return Pushed(self._job(job_id, "echo wrong >&2; exit 3"), "failing")

    def _answer(self, job_id: str) -> Pushed:
        return Pushed(self._job(job_id, "echo '20::[1, 2]'"), "answer")

    def _built_in(self, job_id: str) -> Pushed:
        command = self._chance.choice(["ping", "get_os_info", "get_processes_stats"])
        return Pushed({"id": job_id, "cmd": command, "args": {}}, "built-in")

    def _queued(self, job_id: str) -> Pushed:
        return Pushed(self._job(job_id, "sleep 0.1", queue="line"), "queued")

    def _long(self, job_id: str) -> Pushed:
        return Pushed(self._job(job_id, f"sleep {self._chance.uniform(1, 4):.1f}"), "long")

    def _daemon(self, job_id: str) -> Pushed:
        return Pushed(self._job(job_id, "setsid sleep 10000 & setsid sh -c 'sleep 10000' & sleep 0.2"), "daemon")

    def _chatty(self, job_id: str) -> Pushed:
        """Numbered lines; after each chunk the job notes elsewhere that and when it was printed."""
        script = (
            f"c=0; while [ $c -lt {CHUNKS} ]; do"
            f" seq $((c * {CHUNK_LINES} + 1)) $((c * {CHUNK_LINES} + {CHUNK_LINES})) &&"
            f" echo {job_id} $c $(date +%s.%N) >> {self._progress};"
            " c=$((c + 1)); sleep 0.05; done"
        )
        uploads = {"loglevels_ac": "*"} if self._chance.random() < 0.6 else {}
        return Pushed(self._job(job_id, script, **uploads), "chatty", CHUNKS, CHUNK_LINES, bool(uploads))


class CrashTest:
    """The rounds."""

    def __init__(self, folder: Path, rounds: int, seed: int, per_round: int, slack: float) -> None:
        self._folder = folder
        self._rounds = rounds
        self._per_round = per_round
        self._slack = slack
        self._chance = random.Random(seed)
        self._load = Load(folder, self._chance)
        self._recorder = Recorder(random.Random(seed + 1), trouble=0.1)
        # Small databases, so that rotation is hit by kills too.
        self.rig = Rig(folder, self._recorder, max_jobs=6, max_db_size=1024 * 1024)
        self._pushed: list[Pushed] = []
        self._kills: list[float] = []
        self._controller_kills = 0

    def run(self) -> bool:
        """All rounds and the audit; True when every promise was kept."""
        rig = self.rig
        try:
            rig.start_controller()
            rig.start_agent()
            rig.await_agent()
            self._push(self._load.remembered())
            for number in range(1, self._rounds + 1):
                self._round()
                if number % 20 == 0 or number == self._rounds:
                    print(
                        f"round {number}: {len(self._pushed)} jobs pushed, {len(self._kills)} kills of the agent,"
                        f" {self._controller_kills} of the controller",
                        flush=True,
                    )
            return self._audit()
        finally:
            rig.close()
            self._recorder.close()

    def _round(self) -> None:
        chance = self._chance
        jobs = [self._load.next() for _ in range(self._per_round)]
        pusher = threading.Thread(target=self._push_all, args=(jobs,))
        pusher.start()
        # Mostly while jobs run, sometimes while the agent still starts.
        time.sleep(chance.uniform(0.3, 2.2) if chance.random() < 0.8 else chance.uniform(0, 0.6))
        what = chance.choices(["agent", "controller", "both", "stop"], [55, 20, 20, 5])[0]
        pauses = [chance.uniform(0, 0.4), chance.uniform(0, 0.4)]
        if what == "stop":
            self.rig.end(self.rig.agent)
            self._kills.append(time.time())
        if what in ("agent", "both"):
            self._kill(self.rig.agent)
            self._kills.append(time.time())
        if what in ("controller", "both"):
            time.sleep(pauses[0] / 4)
            self._kill(self.rig.controller)
            self._controller_kills += 1
        time.sleep(pauses[0])
        if what in ("controller", "both"):
            self.rig.start_controller()
        time.sleep(pauses[1])
        if what != "controller":
            self.rig.start_agent()
        pusher.join()

    def _push_all(self, jobs: list[Pushed]) -> None:
        for job in jobs:
            self._push(job)

    def _push(self, job: Pushed) -> None:
        if not self.rig.submit(job.command):
            raise RuntimeError(f"job {job.id} was refused")
        self._pushed.append(job)

    @staticmethod
    def _kill(process: Any) -> None:
        process.kill()
        process.wait()

    def _audit(self) -> bool:
        if self.rig.agent is not None and self.rig.agent.poll() is not None:
            self.rig.start_agent()
        self.rig.await_agent()
        audit = Audit(self.rig, self._pushed, self._kills, self._recorder, self._slack)
        return audit.run()


def main() -> int:
    parser = argparse.ArgumentParser(description="Kills agent and controller at random instants, then audits.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None, help="repeats the choices of an earlier run")
    parser.add_argument("--jobs", type=int, default=15, metavar="N", help="jobs pushed in each round")
    parser.add_argument(
        "--slack",
        type=float,
        default=SLACK,
        metavar="SECONDS",
        help="for which a busy machine may halt the agent",
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    folder = Path(tempfile.mkdtemp(prefix="crash-test-"))
    print(f"seed {seed}, {options.rounds} rounds in {folder}", flush=True)
    began = time.monotonic()
    fine = CrashTest(folder, options.rounds, seed, options.jobs, options.slack).run()
    print(f"{'every promise was kept' if fine else 'PROMISES WERE BROKEN'} ({time.monotonic() - began:.0f} s)")
    if fine and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"what is left: {folder}")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
