"""``greenagent-ctl`` and jobs of original agents of all generations."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.ctl import ctl, on_node, texts_of
from tests.support.local_controller import LocalController
from tests.support.originals import OriginalAgent
from tests.support.waiting import wait_until

ALL = ("S", "L", "P")
PRINTS = ("sh", "-c", "echo one; echo 7::careful; echo two; echo three >&2")


@pytest.fixture
def original(controller: LocalController) -> Iterator[Callable[..., OriginalAgent]]:
    """Starts original agents at the controller."""
    started: list[OriginalAgent] = []

    def start(*args: Any, **options: Any) -> OriginalAgent:
        started.append(OriginalAgent(controller, *args, **options))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.mark.parametrize("generation", ALL)
def test_run_shows_every_line_once(controller, original, generation: str) -> None:
    """All levels, though the agent keeps errors alone where it is not told."""
    original(generation, kept_levels=(2, 4, 7, 8, 9, 11))
    done = ctl(controller.url, *on_node("--", *PRINTS))
    assert (done.code, done.out) == (0, "one\ntwo\n")
    assert sorted(done.err.splitlines()) == ["careful", "three"]


@pytest.mark.parametrize("generation", ALL)
def test_logs_shows_the_lines_in_the_agents_log(controller, original, generation: str) -> None:
    original(generation)
    assert ctl(controller.url, *on_node("--id", "j", "--detach", "--", *PRINTS)).code == 0
    wait_until(lambda: controller.state("j") == "SUCCESS", what="the end of the job")
    for options in ((), ("--follow",)):
        done = ctl(controller.url, "logs", "j", *options)
        assert (done.code, done.err) == (0, "")
        assert sorted(texts_of(done.out)) == ["careful", "one", "three", "two"]
        shown = [line.split()[2:] for line in done.out.splitlines() if "three" not in line]
        assert shown == [["1:10", "stdout", "one"], ["1:10", "warning", "careful"], ["1:10", "stdout", "two"]]
    [line] = [json.loads(text) for text in ctl(controller.url, "logs", "j", "--json").out.splitlines() if "one" in text]
    assert (line["gid"], line["nid"], line["jobid"], line["level"], line["data"]) == (1, 10, "j", 1, "one")
    assert line["epoch_ms"] // 1000 == line["epoch"] > 10**9


@pytest.mark.parametrize("generation", ALL)
def test_lines_of_a_job_that_runs_are_shown_once_while_it_is_followed(
    controller, original, generation, tmp_path
) -> None:
    gate = tmp_path / "gate"
    agent = original(generation)
    script = f"echo first; while [ ! -e {gate} ]; do /bin/sleep 0.05; done; echo last"
    assert ctl(controller.url, *on_node("--id", "j", "--detach", "--", "/bin/sh", "-c", script)).code == 0
    wait_until(lambda: agent.has_logged("first"), what="its first line")
    assert texts_of(ctl(controller.url, "logs", "j").out) == ["first"]
    gate.touch()
    done = ctl(controller.url, "logs", "j", "--follow")
    assert (done.code, texts_of(done.out), done.err) == (0, ["first", "last"], "")


@pytest.mark.parametrize("options", [(), ("--follow",)], ids=["now", "followed"])
@pytest.mark.parametrize("generation", ALL)
def test_logs_tells_that_an_original_does_not_keep_all_levels(controller, original, generation, options) -> None:
    original(generation, kept_levels=(2, 9))
    assert ctl(controller.url, *on_node("--id", "j", "--detach", "--", "echo", "one")).code == 0
    wait_until(lambda: controller.state("j") == "SUCCESS", what="the end of the job")
    done = ctl(controller.url, "logs", "j", *options)
    said = "the log of an original agent has not all lines of the job; the end of its output is shown by:"
    said = f"{said} greenagent-ctl show j"
    if generation == "S":
        said = "agent 1:10 is an original one and has no line of this job in its log,"
        said = f"{said} which keeps the levels that its configuration names"
    assert done == (0, "", f"greenagent-ctl: {said}\n")


def test_asking_for_lines_never_breaks_the_log_of_a_first_original(controller, original) -> None:
    """Asked before its first line it would make an empty file, and then never a table in it."""
    agent = original("S")
    assert ctl(controller.url, *on_node("--", "true")) == (0, "", "")
    assert not agent.broken
    assert ctl(controller.url, *on_node("--", "echo", "kept")) == (0, "kept\n", "")


@pytest.mark.parametrize("generation", ALL)
def test_it_is_said_that_an_original_keeps_no_log(controller, original, generation: str) -> None:
    original(generation, kept_levels=None)
    said = 'greenagent-ctl: agent 1:10 is an original one and keeps no log: it has no [logging] entry of type "DB"\n'
    done = ctl(controller.url, *on_node("--id", "j", "--", *PRINTS))
    of_streams = ("", "") if generation == "S" else ("one\ntwo\n", "three\n")
    assert done == (0, of_streams[0], said + of_streams[1])
    assert ctl(controller.url, "logs", "j") == (0, "", said)
    assert ctl(controller.url, "logs", "j", "--follow").err.count("keeps no log") == 1


def test_an_original_that_does_not_answer_is_named(controller, original) -> None:
    agent = original("L")
    assert ctl(controller.url, *on_node("--id", "j", "--detach", "--", "echo", "one")).code == 0
    wait_until(lambda: controller.state("j") == "SUCCESS", what="the end of the job")
    agent.is_full = True
    done = ctl(controller.url, "logs", "j")
    said = "agent 1:10 is an original one and did not answer within 10 s when it was asked for its log"
    assert done == (0, "", f"greenagent-ctl: {said}\n")


@pytest.mark.parametrize("generation", ALL)
def test_of_a_job_with_more_lines_than_an_original_gives_the_last_are_shown(controller, original, generation) -> None:
    original(generation)
    job = ctl(controller.url, *on_node("--", "sh", "-c", "i=0; while [ $i -lt 1200 ]; do i=$((i+1)); echo $i; done"))
    assert job.out.splitlines() == [str(number) for number in range(201, 1201)]
    assert job.err == "greenagent-ctl: agent 1:10 is an original one and gives the last 1000 lines at most\n"


@pytest.mark.parametrize("generation", ALL)
@pytest.mark.parametrize("words", [("--cmd", "ping"), ("--cmd", "nothing"), ("--", "/no/such/program")])
def test_of_what_starts_no_process_no_lines_are_asked_for(controller, original, generation, words) -> None:
    agent = original(generation)
    ctl(controller.url, *on_node(*words))
    assert len(agent.commands) == 1


@pytest.mark.parametrize(
    ("args", "program"),
    [
        ({"recurring_period": 1}, "/bin/sleep 60"),
        ({"recurring_period": 3600}, "/bin/true"),
        ({"max_restart": 3}, "/bin/sleep 60"),
    ],
    ids=["in a run", "between two", "restarted"],
)
def test_kill_tells_that_a_first_original_goes_on_with_what_it_runs_again(
    controller, original, tmp_path, args: dict[str, int], program: str
) -> None:
    agent = original("S")
    script = f"echo >> {tmp_path}/runs; exec {program}"
    options = on_node("--id", "j", "--args-json", json.dumps(args), "--detach", "--", "/bin/sh", "-c", script)
    assert ctl(controller.url, *options).code == 0
    wait_until((tmp_path / "runs").exists, what="a run")
    killed = ctl(controller.url, "kill", "j")
    said = "a first original ends no more than one run of a job with recurring_period or max_restart:"
    assert killed == (1, "", f"greenagent-ctl: job j: 1:10: {said} it goes on until the agent ends\n")
    if "recurring_period" in args:
        assert controller.state("j") == "RUNNING"
    assert [command["cmd"] for command in agent.commands] == ["execute", "kill"]


@pytest.mark.parametrize("generation", ALL)
def test_kill_of_a_job_that_is_run_once(controller, original, awaits_results, generation: str) -> None:
    original(generation)
    assert ctl(controller.url, *on_node("--id", "j", "--detach", "--", "sleep", "60")).code == 0
    wait_until(lambda: controller.state("j") == "RUNNING", what="the job to run")
    assert ctl(controller.url, "kill", "j") == (0, "job j: KILLED\n", "")


@pytest.mark.parametrize("generation", ["L", "P"])
def test_kill_ends_a_recurring_job_of_later_originals(
    controller, original, awaits_results, generation: str, tmp_path
) -> None:
    original(generation)
    options = on_node("--id", "j", "--recurring", "3600", "--detach", "--", "touch", str(tmp_path / "run"))
    assert ctl(controller.url, *options).code == 0
    wait_until((tmp_path / "run").exists, what="a run")
    assert ctl(controller.url, "kill", "j") == (0, "job j: KILLED\n", "")


def test_kill_tells_that_processes_keep_a_job_of_a_first_original(controller, original, tmp_path) -> None:
    """It waits for the end of the output, which what the job has started may hold open."""
    original("S")
    child = tmp_path / "child"
    script = f"/bin/sleep 600 & echo $! > {child}; wait"
    assert ctl(controller.url, *on_node("--id", "j", "--detach", "--", "/bin/sh", "-c", script)).code == 0
    wait_until(lambda: child.exists() and child.read_text().endswith("\n"), what="the child")
    said = "greenagent-ctl: job j: 1:10: a first original has killed it, but it has not ended\n"
    try:
        assert ctl(controller.url, "kill", "j") == (1, "", said)
    finally:
        os.kill(int(child.read_text()), signal.SIGKILL)
