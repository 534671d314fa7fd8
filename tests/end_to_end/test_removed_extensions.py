"""A job of an extension that was removed is never run as something else: it ends, with the reason."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from tests.support.agents import AgentProcess, StartAgent
from tests.support.commands import built_in, execute, shell
from tests.support.job_lives import states_of, wait_for_words, words
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

GREET = '[extensions.greet]\nbinary = "sh"\nargs = ["-c", "{script}"]\n'


def greet(script: str) -> str:
    return GREET.replace("{script}", script)


def remove(agent: AgentProcess) -> None:
    """Takes the extension out of the configuration, and tells the agent."""
    agent.config.write_text(agent.config.read_text().replace("[extensions.greet]", "[extensions.other]"))
    os.kill(agent.pid, signal.SIGHUP)
    wait_until(lambda: "extensions.greet removed" in agent.stderr, what="the reload")


def assert_names_it(result: dict[str, Any]) -> None:
    assert (result["state"], result["exit_code"], result["signal"]) == ("UNKNOWN_CMD", None, None)
    assert "extension 'greet'" in result["data"]


def test_a_waiting_job_of_a_removed_extension_is_not_run_as_execute(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent(max_jobs=1, more=greet("exit 0"))
    gate, made = tmp_path / "gate", tmp_path / "made-by-execute"
    controller.push(shell("block", f"while [ ! -e {gate} ]; do sleep 0.02; done"))
    controller.push(execute("waits", "touch", str(made), cmd="greet"))
    controller.push(execute("queued", "touch", str(made), cmd="greet", queue="q", max_restart=5))
    wait_until(lambda: controller.waiting_commands == 0, what="the commands taken")
    remove(agent)
    gate.touch()
    for job_id in ("waits", "queued"):
        assert_names_it(controller.wait_for_result(job_id))
    controller.push(built_in("p", "ping"))
    controller.wait_for_result("p")
    assert not made.exists()
    controller.push(execute("new", "touch", str(made), cmd="greet"))
    assert controller.wait_for_result("new")["state"] == "UNKNOWN_CMD"
    assert not made.exists()


def test_recurring_restarted_and_remembered_jobs_of_a_removed_extension_end(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    runs, made = tmp_path / "runs", tmp_path / "made-by-execute"
    agent = start_agent(more=greet(f"echo x >> {runs}; exit 1"))
    more: list[dict[str, Any]] = [{"recurring_period": 1}, {"max_restart": 1000}, {"max_time": -1, "max_restart": 1000}]
    for number, arguments in enumerate(more):
        controller.push(execute(f"j{number}", "touch", str(made), cmd="greet", **arguments))
    wait_for_words(runs, 3)
    remove(agent)
    for number in range(len(more)):
        wait_until(lambda number=number: "UNKNOWN_CMD" in states_of(controller, f"j{number}"), what=f"j{number} over")
        assert_names_it(controller.results_of(f"j{number}")[-1])
    controller.push(built_in("live", "get_processes_stats"))
    assert '"greet"' not in controller.wait_for_result("live")["data"]
    wait_until(lambda: (agent.folder / "history").read_text().strip() == "[]", what="an empty history")
    assert not made.exists()


def test_after_a_restart_without_the_extension_its_jobs_end(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    runs, made = tmp_path / "runs", tmp_path / "made-by-execute"
    folder = tmp_path / "one"
    agent = start_agent(folder=folder, max_jobs=1, more=greet(f"echo x >> {runs}; sleep 1000"))
    controller.push(execute("kept", "touch", str(made), cmd="greet", max_time=-1))
    wait_for_words(runs, 1)
    controller.push(execute("waits", "touch", str(made), cmd="greet"))
    wait_until(lambda: controller.waiting_commands == 0, what="the commands taken")
    wait_until(lambda: controller.polls[-1].answered is None, what="the next poll")
    assert agent.stop() == 0
    assert controller.results == []
    again = start_agent(folder=folder, max_jobs=1)
    for job_id in ("kept", "waits"):
        assert controller.wait_for_result(job_id)["state"] == "UNKNOWN_CMD"
    wait_until(lambda: (again.folder / "history").read_text().strip() == "[]", what="an empty history")
    assert words(runs) == ["x"]
    assert not made.exists()


def test_a_running_job_of_a_removed_extension_is_looked_after_by_a_new_image(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    """Also where a built-in has the extension's name."""
    gate, up = tmp_path / "gate", tmp_path / "up"
    script = f"touch {up}; while [ ! -e {gate} ]; do sleep 0.02; done; echo the extension"
    agent = start_agent(more=greet(script).replace("extensions.greet", "extensions.ping"))
    controller.push(execute("runs", "", cmd="ping"))
    wait_until(up.exists, what="the running job")
    agent.config.write_text(agent.config.read_text().replace("[extensions.ping]", "[extensions.other]"))
    os.kill(agent.pid, signal.SIGUSR2)
    wait_until(lambda: agent.stderr.count("is ready") == 2, 30, "the new image")
    controller.push(built_in("p", "ping"))
    assert controller.wait_for_result("p")["data"] == '"pong"'
    gate.touch()
    assert controller.wait_for_result("runs")["streams"] == ["the extension\n", ""]
