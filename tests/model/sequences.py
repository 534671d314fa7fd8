"""Random sequences of everything that can happen to jobs, against a real agent and the reference model."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

from tests.model.reference import Model, ModelJob
from tests.support.agents import AgentProcess, configuration
from tests.support.job_lives import tagged_processes, words
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

SLOTS = 3
KINDS = ("quick", "gated", "gated", "failing", "recurring", "remembered")
STEPS = {
    "run": 8,
    "open": 3,
    "kill": 3,
    "kill nobody": 1,
    "kill all": 1,
    "deliver a live one again": 2,
    "deliver an ended one again": 2,
    "another under a live id": 2,
    "another under an ended id": 1,
    "SIGTERM": 2,
    "kill -9": 2,
    "restart": 1,
}


class Sequence:
    """One random sequence in a folder of its own; ``trace`` says what was done, for people."""

    def __init__(self, choices: random.Random, folder: Path, controller: RecordingController) -> None:
        """``choices`` decides what a step does, until ``step`` brings others."""
        self.trace: list[str] = []
        self._random = choices
        self._folder = folder
        self._controller = controller
        self._journal = folder / "journal"
        self._model = Model(SLOTS)
        self._commands: dict[str, dict[str, Any]] = {}
        self._asked = 0
        self._agent = self._new_agent()

    def run(self, steps: int) -> None:
        """Does so many steps, compares after each, and at last ends everything. Raises AssertionError."""
        try:
            self.begin()
            names, weights = tuple(STEPS), tuple(STEPS.values())
            for _ in range(steps):
                self.step(self._random.choices(names, weights)[0], self._random)
            self.finish()
        finally:
            self.end()

    def begin(self) -> None:
        self._agent.start()

    def step(self, name: str, choices: random.Random) -> None:
        """One step, and the comparison after it. Raises AssertionError."""
        self._random = choices
        self._step(name)
        self._compare()

    def end(self) -> None:
        """Leaves nothing behind, however it went."""
        self._agent.clean_up()

    def _step(self, name: str) -> None:
        live, ended = self._model.live(), [job for job in self._model.jobs if not self._model.find(job.id)]
        if name == "run":
            self._run(f"j{len(self._model.jobs)}")
        elif name == "open":
            gated = [job for job in self._model.live("gated", "remembered") if job.state == "running"]
            if gated:
                job = self._random.choice(gated)
                self.trace.append(f"open {job.id}")
                self._gate(job.id).touch()
                self._model.open_gate(job)
        elif name == "kill" and live:
            job = self._random.choice(live)
            self.trace.append(f"kill {job.id}")
            self._ask("kill", "SUCCESS", {"id": job.id})
            self._model.kill(job)
        elif name == "kill nobody":
            self.trace.append(name)
            self._ask("kill", "ERROR", {"id": ended[-1].id if ended else "nobody"})
        elif name == "kill all":
            self.trace.append(name)
            self._ask("killall", "SUCCESS")
            self._model.kill_all()
        elif name == "deliver a live one again" and live:
            job = self._random.choice(live)
            self.trace.append(f"again {job.id}")
            self._controller.push(self._commands[job.id])
        elif name == "deliver an ended one again" and ended:
            job = self._random.choice(ended)
            self.trace.append(f"again {job.id}, which has ended")
            self._controller.push(self._commands[job.id])
            self._model.answer(job.id, self._last_own(job.id))
        elif name == "another under a live id" and live:
            job = self._random.choice(live)
            self.trace.append(f"another {job.id}")
            self._controller.push({**self._commands[job.id], "tags": "another"})
            self._model.answer(job.id, "DUPILICATE_ID")
        elif name == "another under an ended id" and ended:
            self._run(self._random.choice(ended).id)
        elif name in ("SIGTERM", "kill -9"):
            self.trace.append(name)
            if name == "SIGTERM":
                assert self._agent.stop() == 0
            else:
                self._agent.kill()
            self._agent = self._new_agent().start()
            self._model.restart_agent(crash=name == "kill -9")
        elif name == "restart":
            self.trace.append(name)
            self._ask("restart", "SUCCESS")  # in place: the jobs go on
        # Commands are handed out one by one: once this is answered, those before it were taken.
        self._ask("ping", "SUCCESS")

    def _run(self, job_id: str) -> None:
        job = ModelJob(
            job_id, self._random.choice(KINDS), self._random.choice(("", "", "q", "r")), self._random.choice((0, 3))
        )
        number = len(self._model.jobs)
        self.trace.append(f"run {job.id}: {job.kind} {job.queue or '-'} {job.code}")
        gate = self._gate(job.id)
        gate.unlink(missing_ok=True)
        waiting = f"while [ ! -e {gate} ]; do sleep 0.05; done"
        ends = {"quick": f"exit {job.code}", "failing": "exit 1", "recurring": "exit 0"}
        arguments: dict[str, Any] = {
            "name": "sh",
            "args": ["-c", f": {number}; echo {job.id} >> {self._journal}; {ends.get(job.kind, waiting)}"],
        }
        arguments |= {
            "failing": {"max_restart": 1},
            "recurring": {"recurring_period": 100_000},
            "remembered": {"max_time": -1},
        }.get(job.kind, {})
        if job.queue:
            arguments["queue"] = job.queue
        self._commands[job.id] = {"id": job.id, "gid": 1, "nid": 10, "cmd": "execute", "args": arguments, "data": ""}
        self._controller.push(self._commands[job.id])
        self._model.run(job)

    def _compare(self) -> None:
        """Waits until the agent is where the model is: the same runs, the same results, all of them settled."""

        def seen() -> tuple[dict[str, int], dict[str, list[str]]]:
            results: dict[str, list[str]] = {}
            for result in self._controller.results:
                if result["id"] in self._commands:
                    results.setdefault(result["id"], []).append(result["state"])
            return dict(Counter(words(self._journal))), results

        def is_at_rest() -> bool:
            return self._unsettled() == 0 and self._paused() == self._model.paused

        expected = (self._model.starts, self._model.results)
        try:
            wait_until(lambda: seen() == expected and is_at_rest(), 15, "the model's state", 0.01)
        except AssertionError:
            raise AssertionError(
                f"seen {seen()}, {self._unsettled()} unsettled, {self._paused()} paused; the model says {expected}"
            ) from None

    def finish(self) -> None:
        """Ends what lives; then nothing may be left: no job, no process, no result."""
        self.trace.append("finish")
        while live := self._model.live():
            self._ask("kill", "SUCCESS", {"id": live[0].id})
            self._model.kill(live[0])
            self._compare()
        assert json.loads((self._folder / "history").read_text() if (self._folder / "history").exists() else "[]") == []
        wait_until(lambda: tagged_processes(self._folder) == [], what="no process is left")
        assert self._agent.stop() == 0
        self._compare()
        assert self._count("SELECT count(*) FROM job WHERE state != 'ended'") == 0, "no job is lost"
        assert "Traceback" not in self._agent.stderr, self._agent.stderr

    def _last_own(self, job_id: str) -> str:
        return [state for state in self._model.results[job_id] if state != "DUPILICATE_ID"][-1]

    def _ask(self, cmd: str, state: str, data: Any = None) -> None:
        self._asked += 1
        job_id = f"{cmd}-{self._asked}"
        text = json.dumps(data) if data is not None else ""
        self._controller.push({"id": job_id, "gid": 1, "nid": 10, "cmd": cmd, "args": {}, "data": text})
        result = self._controller.wait_for_result(job_id, 20)
        assert result["state"] == state, result

    def _gate(self, job_id: str) -> Path:
        return self._folder / f"gate-{job_id}"

    def _unsettled(self) -> int:
        """Results the agent would send again after a crash: 0 before the next step, so that each comes once."""
        return self._count(
            "SELECT count(*) FROM outcome WHERE path != 'stats' AND delivered IS NULL AND refused IS NULL"
        )

    def _paused(self) -> int:
        """Jobs between two runs: a crash now cuts none of them off."""
        return self._count("SELECT count(*) FROM job WHERE state != 'ended' AND due IS NOT NULL")

    def _count(self, query: str) -> int:
        connection = sqlite3.connect(self._folder / "history.db", timeout=60)
        try:
            return int(connection.execute(query).fetchone()[0])
        finally:
            connection.close()

    def _new_agent(self) -> AgentProcess:
        text = configuration(self._folder, {"main": self._controller.url}, max_jobs=SLOTS, kill_grace=5)
        return AgentProcess(self._folder, text)


def run_sequence(seed: int, folder: Path, steps: int) -> str:
    """Runs one sequence; "" when all was well, else what was not, with what led to it."""
    folder.mkdir(parents=True)
    with RecordingController() as controller:
        sequence = Sequence(random.Random(seed), folder, controller)
        try:
            sequence.run(steps)
        except AssertionError as error:
            said = (folder / "stderr").read_text() if (folder / "stderr").exists() else ""
            done = "\n  ".join(sequence.trace)
            return f"seed {seed}: {error}\n  {done}\nthe agent said:\n{said}"
        return ""
