"""What startup tasks wait for: the tasks before them, also across a replacement in place (protocol 11)."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.agents import StartAgent
from tests.support.job_lives import ask, wait_for_words, words
from tests.support.packages import change_package, copy_package
from tests.support.recording_controller import RecordingController
from tests.support.upgrade import replace
from tests.support.waiting import wait_until


def task(name: str, script: str, more: str = "", arguments: str = "") -> str:
    """A startup task that runs a shell script."""
    return f"""
[startup.{name}]
name = "execute"
{more}
[startup.{name}.args]
name = "sh"
args = ["-c", "{script}"]
{arguments}
"""


def chain(told: Path, gate: Path, code: int = 0) -> str:
    """One task that must exit, which it does when the gate is open, and one after it."""
    first = f"echo up >> {told}; while [ ! -e {gate} ]; do sleep 0.02; done; echo first >> {told}; exit {code}"
    return task("first", first, "must_exit = true") + task("second", f"echo second >> {told}", 'after = ["first"]')


def test_a_replacement_in_place_keeps_what_startup_tasks_wait_for(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    told, gate = tmp_path / "told", tmp_path / "gate"
    failing = task("bad", "exit 1", "must_exit = true") + task("refused", f"echo refused >> {told}", 'after = ["bad"]')
    agent = start_agent(more=chain(told, gate) + failing)
    wait_until(lambda: "startup.refused is not started" in agent.stderr, what="the refusal")
    wait_for_words(told, 1)
    for times in (1, 2):
        replace(agent, times)
        ask(controller, "ping")
        assert words(told) == ["up"]
    gate.touch()
    wait_for_words(told, 3)
    assert words(told) == ["up", "first", "second"]
    assert agent.stderr.count("startup.refused is not started") == 1
    replace(agent, 3)
    ask(controller, "ping")
    assert words(told) == ["up", "first", "second"], "they run once per start"


def test_a_task_that_fails_after_a_replacement_still_refuses_what_comes_after_it(
    start_agent: StartAgent, tmp_path: Path
) -> None:
    told, gate = tmp_path / "told", tmp_path / "gate"
    agent = start_agent(more=chain(told, gate, code=3))
    wait_for_words(told, 1)
    replace(agent, 1)
    gate.touch()
    wait_until(lambda: "startup.second is not started: startup.first" in agent.stderr, what="the refusal")
    assert words(told) == ["up", "first"]


def test_a_replacement_that_is_refused_keeps_it_too(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    told, gate = tmp_path / "told", tmp_path / "gate"
    agent = start_agent(more=chain(told, gate))
    wait_for_words(told, 1)
    agent.config.write_text("[main\n")
    os.kill(agent.pid, signal.SIGUSR2)
    wait_until(lambda: "not replaced, the agent goes on as it is" in agent.stderr, 30, "the refusal")
    ask(controller, "ping")
    assert words(told) == ["up"]
    gate.touch()
    wait_for_words(told, 3)
    assert words(told) == ["up", "first", "second"]


def test_a_task_that_fails_at_once_and_is_run_again_is_not_up(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    told, gate, tries = tmp_path / "told", tmp_path / "gate", tmp_path / "tries"
    repeated = f"echo try >> {tries}; [ -e {gate} ] && echo fine >> {told}"
    more = (
        task("restarted", "exit 1", arguments="max_restart = 50")
        + task("recurring", repeated, arguments="recurring_period = 1")
        + task("after_restarted", f"echo wrong >> {told}", 'after = ["restarted"]')
        + task("after_recurring", f"echo right >> {told}", 'after = ["recurring"]')
    )
    # Five seconds instead of two: on a busy machine a run that fails at once may well last two.
    package = copy_package(tmp_path / "installed")
    change_package(package, "jobs/startup.py", "SETTLED = 2.0\n", "SETTLED = 5.0\n")
    start_agent(more=more, python_path=str(package))
    wait_for_words(tries, 7)  # that is six seconds
    ask(controller, "ping")
    assert words(told) == []
    gate.touch()
    wait_until(lambda: "right" in words(told), what="the task after the one that is fine now")
    assert words(told)[0] == "fine"
    assert "wrong" not in words(told)


@pytest.mark.parametrize(
    ("first", "second", "part"),
    [('["b"]', '["a"]', "wait for each other"), ('["nobody"]', "[]", "there is no startup task 'nobody'")],
)
def test_circles_and_unknown_startup_ids_are_refused(
    start_agent: StartAgent, first: str, second: str, part: str
) -> None:
    more = f'[startup.a]\nname = "ping"\nafter = {first}\n[startup.b]\nname = "ping"\nafter = {second}\n'
    agent = start_agent("--check", more=more, wait=False)
    assert agent.wait() == 1
    assert part in agent.stderr
