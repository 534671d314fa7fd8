"""Another program holds the ledger locked: jobs and pings go on at once, and it is all written later."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.agents import AgentProcess, StartAgent, assert_well, configuration
from tests.support.commands import built_in, shell
from tests.support.job_lives import states_of, words
from tests.support.metrics import get, listening
from tests.support.ports import reserve_port
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

REFUSED = "history.db cannot be written (database is locked)"
WRITTEN = "history.db can be written again"


@contextmanager
def locked(agent: AgentProcess) -> Iterator[None]:
    """Holds the lock of a writer, as an administrator's tool with an open transaction does."""
    connection = sqlite3.connect(agent.folder / "history.db", isolation_level=None, timeout=60)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def is_settled(found: tuple[str, int, int]) -> bool:
    """Whether a job of ``jobs`` has ended, with results that are all delivered."""
    state, results, undelivered = found
    return state == "ended" and results > 0 and not undelivered


def jobs(agent: AgentProcess) -> dict[str, tuple[str, int, int]]:
    """State, results and undelivered results of each job the ledger knows, by id."""
    connection = sqlite3.connect(agent.folder / "history.db")
    rows = connection.execute(
        "SELECT job.id, job.state, count(outcome.row), count(outcome.row) - count(outcome.delivered) "
        "FROM job LEFT JOIN outcome ON outcome.job = job.row GROUP BY job.row ORDER BY job.row"
    ).fetchall()
    connection.close()
    return {job_id: (state, results, undelivered) for job_id, state, results, undelivered in rows}


def test_jobs_and_pings_go_on_from_memory_and_everything_is_written_afterwards(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    port = reserve_port()
    agent = start_agent(more=listening(port))
    gate, runs = tmp_path / "gate", tmp_path / "runs"
    before = shell("before", f"echo before >> {runs}")
    across = shell("across", f"echo across >> {runs}; while [ ! -e {gate} ]; do sleep 0.02; done; echo 20::1")
    controller.push(before)
    controller.wait_for_result("before")
    controller.push(across)
    wait_until(lambda: words(runs) == ["before", "across"], what="the running job")
    during = shell("during", f"echo during >> {runs}")
    with locked(agent):
        for number in range(6):
            controller.push(built_in(f"p{number}", "ping"))
        controller.push(during)
        for job_id in (*(f"p{number}" for number in range(6)), "during"):
            assert controller.wait_for_result(job_id)["state"] == "SUCCESS"
        gate.touch()
        assert controller.wait_for_result("across")["data"] == "1"
        # Delivered once more: one from the file, which can be read, the other from memory.
        for command in (before, during):
            controller.push(command)
            wait_until(lambda: len(controller.results_of(command["id"])) == 2, what="the same result")  # noqa: B023
        controller.push(shell("during", "echo another"))
        wait_until(lambda: len(controller.results_of("during")) == 3, what="another command of that id")
        assert REFUSED in json.loads(get(port, "/status")[1])["problem"] + " (database is locked)"
        assert get(port, "/healthz")[0] == 503
        agent.await_said(REFUSED)
        assert WRITTEN not in agent.stderr
        assert "during" not in jobs(agent)
    agent.await_said(WRITTEN)
    assert agent.stderr.count(REFUSED) == 1
    wait_until(lambda: get(port, "/healthz") == (200, "ok\n"), what="its health")
    assert words(runs) == ["before", "across", "during"]
    known = ["before", "across", *(f"p{number}" for number in range(6)), "during"]
    wait_until(lambda: jobs(agent).keys() == set(known), what="all jobs written")
    wait_until(lambda: all(is_settled(found) for found in jobs(agent).values()), what="all results settled")
    controller.push(across)
    wait_until(lambda: len(controller.results_of("across")) == 2, what="the stored result again")
    assert words(runs) == ["before", "across", "during"]
    counts = {job_id: len(controller.results_of(job_id)) for job_id in known}
    assert counts == {**dict.fromkeys(known, 1), "before": 2, "across": 2, "during": 3}
    assert_well(agent, controller)


def test_what_was_written_afterwards_holds_through_kill_minus_nine(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    folder, gate, runs = tmp_path / "one", tmp_path / "gate", tmp_path / "runs"
    wait = f"while [ ! -e {gate} ]; do sleep 0.02; done"
    agent = start_agent(folder=folder, max_jobs=2)
    controller.push(shell("ended", f"{wait}; echo 20::1"))
    wait_until(lambda: jobs(agent).get("ended"), what="the first job")
    with locked(agent):
        controller.push(shell("runs", f"echo x >> {runs}; sleep 1000"))
        wait_until(runs.exists, what="the second job")
        gate.touch()
        assert controller.wait_for_result("ended")["state"] == "SUCCESS"
        controller.push(shell("fills", "sleep 1000"))
        controller.push(shell("waits", f"echo y >> {runs}"))
        wait_until(lambda: controller.waiting_commands == 0, what="the commands taken")
    agent.await_said(WRITTEN)
    written = {"ended": ("ended", 1, 0), "runs": ("running", 0, 0), "fills": ("running", 0, 0)}
    written["waits"] = ("waiting", 0, 0)
    wait_until(lambda: jobs(agent) == written, what="all jobs written, and that the result is delivered")
    agent.kill()
    start_agent(folder=folder)
    for job_id, state in (("runs", "ERROR"), ("fills", "ERROR"), ("waits", "SUCCESS")):
        assert controller.wait_for_result(job_id)["state"] == state
    assert (words(runs), states_of(controller, "ended")) == (["x", "y"], ["SUCCESS"])


def test_a_replacement_waits_for_the_ledger_and_keeps_the_jobs_of_that_time(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent()
    gate, up = tmp_path / "gate", tmp_path / "up"
    with locked(agent):
        controller.push(shell("j", f"touch {up}; while [ ! -e {gate} ]; do sleep 0.02; done; echo 20::1"))
        wait_until(up.exists, what="the job")
        os.kill(agent.pid, signal.SIGUSR2)
        wait_until(lambda: "not replaced, the agent goes on as it is: the ledger" in agent.stderr, 30, "the refusal")
        controller.push(built_in("p", "ping"))
        assert controller.wait_for_result("p")["state"] == "SUCCESS"
    wait_until(lambda: WRITTEN in agent.stderr and "j" in jobs(agent), what="the recovery")
    os.kill(agent.pid, signal.SIGUSR2)
    wait_until(lambda: agent.stderr.count("is ready") == 2, 30, "the new image")
    gate.touch()
    assert controller.wait_for_result("j")["data"] == "1"
    wait_until(lambda: jobs(agent)["j"] == ("ended", 1, 0), what="its end in the ledger")
    assert agent.stop() == 0
    assert states_of(controller, "j") == ["SUCCESS"]


def test_a_reload_under_the_lock_applies(controller: RecordingController, start_agent: StartAgent) -> None:
    agent = start_agent()
    with RecordingController() as second, locked(agent):
        agent.config.write_text(configuration(agent.folder, {"main": controller.url, "second": second.url}))
        os.kill(agent.pid, signal.SIGHUP)
        wait_until(lambda: "reloaded: controllers.second added" in agent.stderr, what="the reload")
        for one in (controller, second):
            assert_well(agent, one, f"ping{one.port}")
    assert agent.stop() == 0
    assert "Traceback" not in agent.stderr


def test_an_agent_starts_under_the_lock(controller: RecordingController, start_agent: StartAgent) -> None:
    """It ended in a traceback, though the running agent lives with that lock."""
    agent = start_agent()
    controller.push(shell("before", "true"))
    assert controller.wait_for_result("before")["state"] == "SUCCESS"
    assert agent.stop() == 0
    with locked(agent):
        agent.start()
        controller.push(shell("during", "true"))
        assert controller.wait_for_result("during")["state"] == "SUCCESS"
    wait_until(lambda: jobs(agent).get("during") == ("ended", 1, 0), what="the job written afterwards")
    agent.await_said(WRITTEN)
    assert "Traceback" not in agent.stderr
    assert agent.stderr.count(REFUSED) == 1
