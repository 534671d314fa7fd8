"""Holds what a crash test left behind against the promises (design, section 2)."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from rig import TERMINAL, Recorder, Rig, tagged_processes

SLOWEST_END = 120.0
"""Seconds that everything pushed has to come to its end once nobody is killed any more."""
OLDEST_LOSS = 0.25
"""Seconds: the age up to which output may be lost by a kill (promise 4)."""
SLACK = 0.75
"""Seconds allowed beyond that for the way through the pipe on a busy machine."""
NOTED_LATE = 0.25
"""Seconds for which a chunk may be noted after the kill that it was printed before."""


class Pushed(NamedTuple):
    """A job that was pushed; ``chunks`` of ``chunk_lines`` numbered lines if it is chatty."""

    command: dict[str, Any]
    kind: str
    chunks: int = 0
    chunk_lines: int = 0
    uploads: bool = False

    @property
    def id(self) -> str:
        return str(self.command["id"])


class Line(NamedTuple):
    id: int
    level: int
    data: str


class Audit:
    """Waits until all is over, stops both processes, and looks at everything."""

    def __init__(
        self, rig: Rig, pushed: list[Pushed], kills: list[float], recorder: Recorder, slack: float = SLACK
    ) -> None:
        self._rig = rig
        self._slack = slack
        self._pushed = pushed
        self._kills = sorted(kills)
        self._recorder = recorder
        self._broken: list[str] = []
        self._fates: Counter[str] = Counter()
        self._results: dict[str, dict[str, Any]] = {}
        self._oldest_loss = 0.0
        self._lost_lines = 0

    def run(self) -> bool:
        """Prints what was found; True when nothing was broken."""
        instance = self._instance()
        self._end_remembered(instance)
        self._await_all()
        self._check(
            "no process is left of jobs that are over",
            [f"process {pid} ({tag})" for pid, tag in tagged_processes(instance).items()],
        )
        self._rig.end(self._rig.agent)
        self._check(
            "the agent ends cleanly",
            []
            if self._rig.agent and self._rig.agent.returncode == 0
            else [f"exit code {self._rig.agent.returncode if self._rig.agent else None}"],
        )
        self._rig.end(self._rig.controller)
        self._check_results()
        self._check_databases()
        self._check_lines()
        for log in ("agent.log", "controller.log"):
            tracebacks = self._rig.said(log).count("Traceback")
            self._check(f"no traceback in {log}", [f"{tracebacks} of them"] if tracebacks else [])
        print(
            f"  {len(self._pushed)} jobs: " + ", ".join(f"{count} {what}" for what, count in self._fates.most_common())
        )
        print(f"  {self._lost_lines} lines lost by kills, the oldest printed {self._oldest_loss * 1000:.0f} ms before")
        return not self._broken

    def _check(self, what: str, problems: list[str]) -> None:
        print(f"  {'ok    ' if not problems else 'BROKEN'} {what}")
        for problem in problems[:10]:
            print(f"         {problem}")
        if len(problems) > 10:
            print(f"         and {len(problems) - 10} more")
        self._broken += problems

    def _instance(self) -> str:
        connection = sqlite3.connect(self._rig.folder / "history.db")
        try:
            return str(connection.execute("SELECT value FROM meta WHERE key = 'instance'").fetchone()[0])
        finally:
            connection.close()

    def _end_remembered(self, instance: str) -> None:
        """The remembered job came back at every start, and is there exactly once."""

        def copies() -> list[str]:
            return [
                f"process {pid} ({tag})" for pid, tag in tagged_processes(instance).items() if ":remembered:" in tag
            ]

        until = time.monotonic() + 60
        while not (found := copies()) and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(0.5)
        runs = {text.rpartition(":")[2] for text in found}
        self._check("the remembered job runs exactly once", [] if len(runs) == 1 else found or ["it does not run"])
        self._rig.api("jobs/remembered/kill", {})

    def _await_all(self) -> None:
        open_ones = {job.id for job in self._pushed}
        until = time.monotonic() + SLOWEST_END
        while open_ones:
            for job_id in sorted(open_ones):
                known = self._rig.job(job_id)
                if known["state"] in TERMINAL:
                    self._results[job_id] = known
                    open_ones.discard(job_id)
                elif time.monotonic() > until:
                    break
            if time.monotonic() > until:
                break
            time.sleep(0.1)
        self._check(
            "every job has come to its end",
            [f"job {job_id}: {self._rig.job(job_id)['state']}" for job_id in sorted(open_ones)],
        )

    def _check_results(self) -> None:
        starts = Counter((self._rig.folder / "starts").read_text().split())
        several, wrong = [], []
        for job in self._pushed:
            known = self._results.get(job.id)
            if known is None:
                continue
            [told] = known["agents"]
            result = known["results"][0]
            if told["results"] != 1:
                several.append(f"job {job.id}: {told['results']} results")
            fate = self._fate(job, result)
            self._fates[fate] += 1
            if fate == "unexplained":
                wrong.append(f"job {job.id}: {result['state']} {result.get('data')!r}, started {starts[job.id]} times")
            if job.kind not in ("remembered", "built-in") and result["state"] == "SUCCESS" and starts[job.id] != 1:
                wrong.append(f"job {job.id}: SUCCESS, started {starts[job.id]} times")
        self._check("exactly one result for every job", several)
        self._check("every result is what the job did, or names why it is lost", wrong)
        self._check(
            "no job was started twice",
            [
                f"job {job_id}: {count} starts"
                for job_id, count in starts.items()
                if count > 1 and job_id != "remembered"
            ],
        )

    @staticmethod
    def _fate(job: Pushed, result: dict[str, Any]) -> str:
        state, data = result["state"], str(result.get("data"))
        if "cut off" in data:
            return "cut off by a kill"
        if state == "KILLED":
            return "ended with a stop of the agent"
        if job.kind == "failing":
            return "failed as they should" if state == "ERROR" and data == "exit code 3" else "unexplained"
        return "done" if state == "SUCCESS" else "unexplained"

    def _check_databases(self) -> None:
        problems = []
        databases = [self._rig.folder / "history.db", self._rig.folder / "state.db"]
        for path in databases:
            verdict = _rows(path, "PRAGMA integrity_check")
            if verdict != [("ok",)]:
                problems.append(f"{path.name}: {verdict[:3]}")
        json.loads((self._rig.folder / "history").read_text() or "[]")
        damaged = [path.name for path in self._rig.folder.rglob("*damaged*")]
        self._check(
            "ledger, history and state are intact", problems + [f"set aside as damaged: {name}" for name in damaged]
        )
        from greenagent.logs.folder import LogFolder
        from greenagent.logs.read.verify import verify_folder

        reports = list(verify_folder(LogFolder(self._rig.folder / "logs")))
        self._check(
            f"{len(reports)} log databases verify, ids are unique and rise",
            [f"{report.path.name}: {problem}" for report in reports for problem in report.problems],
        )

    def _check_lines(self) -> None:
        lines = _lines(self._rig.folder / "logs")
        printed: dict[str, dict[int, float]] = defaultdict(dict)
        for text in (self._rig.folder / "progress").read_text().splitlines():
            job_id, chunk, stamp = text.split()
            printed[job_id][int(chunk)] = float(stamp)
        gaps, old, upload = [], [], []
        sent: dict[int, None] = {}
        for record in self._recorder.lines:
            sent.setdefault(int(record["id"]), None)
        for job in self._pushed:
            if job.kind != "chatty":
                continue
            stored = [line for line in lines.get(job.id, []) if line.level == 1]
            numbers = [int(line.data) for line in stored]
            if numbers != list(range(1, len(numbers) + 1)):
                gaps.append(f"job {job.id}: lines are missing or out of order among {len(numbers)}")
            kill = self._kill_after(min(printed[job.id].values(), default=0.0))
            for chunk, stamp in printed[job.id].items():
                missing = (chunk + 1) * job.chunk_lines - max(len(numbers), chunk * job.chunk_lines)
                if missing > 0:
                    age = kill - stamp
                    self._lost_lines += missing
                    self._oldest_loss = max(self._oldest_loss, age)
                    if age > OLDEST_LOSS + self._slack:
                        old.append(f"job {job.id}: chunk {chunk} is missing, printed {age:.3f} s before a kill")
            if job.uploads:
                upload += [f"job {job.id}: line {line.data} was not uploaded" for line in stored if line.id not in sent]
        order = list(sent)
        if order != sorted(order):
            upload.append("lines were uploaded out of order")
        self._check("the lines of every job are there without a gap, up to a kill", gaps)
        self._check(f"what a kill costs is younger than {OLDEST_LOSS + self._slack:g} s", old)
        self._check(f"every line was uploaded at least once, in order ({len(self._recorder.lines)} in all)", upload)

    def _kill_after(self, stamp: float) -> float:
        """The kill that ended a job whose first chunk was noted then; infinite where there is none.

        What was printed before a kill may be noted after it, since ``date`` is a process to be started.
        """
        return next((kill for kill in self._kills if kill >= stamp - NOTED_LATE), float("inf"))


def _rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def _lines(folder: Path) -> dict[str, list[Line]]:
    """The stored lines of every job, in order, over all databases."""
    found: dict[str, list[tuple[int, Line]]] = defaultdict(list)
    for path in folder.glob("*.db"):
        if path.stem.isdigit():
            for seq, number, job_id, level, data in _rows(path, "SELECT seq, id, jobid, level, data FROM logs"):
                found[job_id].append((seq, Line(number, level, data)))
    return {job_id: [line for _, line in sorted(lines)] for job_id, lines in found.items()}
