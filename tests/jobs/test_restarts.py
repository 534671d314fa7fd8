"""Restarting a failing job, and killing one that would be restarted (protocol 5.3)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.commands import execute, shell
from tests.support.inside import StartInside
from tests.support.job_lives import ask, kill, states_of, wait_for_words, words
from tests.support.recording_controller import RecordingController
from tests.support.run_rows import runs_of
from tests.support.waiting import wait_until


def test_max_restart_means_that_many_restarts_then_one_critical_line_and_one_report(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    """Defect 14 of the original: N meant N runs in total, and nothing told of the limit."""
    agent = start_agent()
    runs = tmp_path / "runs"
    controller.push(shell("f", f"date +%s.%N >> {runs}; echo 21::run; exit $(wc -l < {runs})", max_restart=2))
    result = controller.wait_for_result("f", 20)
    stamps = [float(stamp) for stamp in words(runs)]
    assert len(stamps) == 3, "one run and two restarts"
    assert (result["state"], result["exit_code"], result["data"]) == ("ERROR", 3, "run"), "the state of the last run"
    assert result["starttime"] / 1000 > stamps[1]
    # At least a second lies between two runs; how much more depends on the machine.
    assert all(later - earlier > 0.9 for earlier, later in pairwise(stamps))
    agent.stop()
    assert len(controller.results_of("f")) == 1
    assert agent.rows("jobid = 'f' AND level = 9")[0][3] == "greenagent: given up after 2 restarts"
    assert len(agent.rows("jobid = 'f' AND level = 9")) == 1


def test_a_job_that_times_out_is_restarted(controller: RecordingController, start_agent: StartInside) -> None:
    agent = start_agent()
    controller.push(shell("t", "exec sleep 1000", max_time=1, max_restart=1))
    assert controller.wait_for_result("t", 20)["state"] == "TIMEOUT"
    agent.stop()
    assert [one.state for one in runs_of(agent.folder / "logs", "t")] == ["TIMEOUT", "TIMEOUT"]


def test_a_restarted_job_that_succeeds_reports_once_and_is_not_started_again(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    agent = start_agent()
    runs = tmp_path / "runs"
    controller.push(shell("s", f"echo x >> {runs}; test $(wc -l < {runs}) -ge 2", max_restart=5))
    assert controller.wait_for_result("s", 20)["state"] == "SUCCESS"
    agent.stop()
    assert states_of(controller, "s") == ["SUCCESS"]
    assert words(runs) == ["x", "x"]
    assert agent.rows("jobid = 's' AND level = 9") == []


def test_an_executable_that_is_missing_or_may_not_be_executed_is_not_restarted(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    agent = start_agent()
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    controller.push(execute("missing", "no-such-program", max_restart=100))
    controller.push(execute("plain", str(plain), max_restart=100))
    for job_id in ("missing", "plain"):
        result = controller.wait_for_result(job_id)
        assert result["state"] == "ERROR"
        assert result["exit_code"] is None
    assert "plain" in controller.wait_for_result("plain")["data"]
    agent.stop()
    assert agent.rows("level = 9") == []


def test_a_killed_job_is_never_restarted(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    """Defect 20 of the original: kill did not stop a job that could be restarted. While it runs."""
    agent = start_agent()
    runs = tmp_path / "runs"
    controller.push(shell("k", f"echo $$ >> {runs}; sleep 1000", max_restart=5))
    wait_for_words(runs, 1)
    kill(controller, "k")
    assert controller.wait_for_result("k")["state"] == "KILLED"
    controller.push(shell("k", f"echo second >> {runs}"))
    wait_until(lambda: states_of(controller, "k") == ["KILLED", "SUCCESS"], what="the id is free again")
    agent.stop()
    assert words(runs)[1:] == ["second"]


def test_a_job_killed_while_it_waits_for_its_restart_ends(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    agent = start_agent()
    runs = tmp_path / "runs"
    controller.push(shell("k", f"echo x >> {runs}; exit 1", max_restart=1000))
    # From the third run on the pause is two seconds and more.
    wait_for_words(runs, 3, 20)
    kill(controller, "k")
    assert controller.wait_for_result("k")["state"] == "KILLED"
    count = len(words(runs))
    assert agent.stop() == 0
    assert len(words(runs)) == count
    assert states_of(controller, "k") == ["KILLED"]


@pytest.mark.parametrize("signal", ["HUP", "sigusr1", 40])
def test_kill_with_a_signal_sends_just_that_and_a_job_that_dies_of_it_is_killed(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path, signal: str | int
) -> None:
    agent = start_agent()
    runs = tmp_path / "runs"
    controller.push(shell("k", f"echo x >> {runs}; exec sleep 1000", max_restart=5, recurring_period=1))
    wait_for_words(runs, 1)
    agent.wait_for_process("k")
    kill(controller, "k", signal)
    result = controller.wait_for_result("k")
    names = {"HUP": "SIGHUP", "sigusr1": "SIGUSR1", 40: "SIGRTMIN+6"}
    assert (result["state"], result["signal"], result["exit_code"]) == ("KILLED", names[signal], None)
    assert words(runs) == ["x"]


def test_a_job_that_handles_its_signal_lives_on(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    agent = start_agent()
    up, told = tmp_path / "up", tmp_path / "told"
    script = f"trap 'echo x >> {told}' USR1; touch {up}; while [ ! -e {told}2 ]; do sleep 0.05; done; echo 20::1"
    controller.push(shell("k", script))
    wait_until(up.exists, what="the trap")
    agent.wait_for_process("k")
    kill(controller, "k", "USR1")
    wait_for_words(told, 1)
    assert controller.results_of("k") == []
    (tmp_path / "told2").touch()
    assert controller.wait_for_result("k")["state"] == "SUCCESS"


def test_bad_kills_are_errors_that_say_why(controller: RecordingController, start_agent: StartInside) -> None:
    start_agent()
    controller.push(execute("j", "sleep", "1000"))
    wait_until(lambda: controller.waiting_commands == 0, what="the job handed out")
    for data, part in [
        ({}, "'id'"),
        ("rubbish", "not JSON"),
        ("[]", "JSON object"),
        ({"id": "j", "signal": "NOSUCH"}, "NOSUCH"),
        ({"id": "j", "signal": 0}, "0"),
        ({"id": "j", "signal": 65}, "65"),
        ({"id": "j", "signal": True}, "signal"),
        ({"id": "nobody"}, "nobody"),
        ({"id": "nobody", "signal": "TERM"}, "nobody"),
    ]:
        result = ask(controller, "kill", data)
        assert result["state"] == "ERROR"
        assert part in result["data"]
    assert controller.results_of("j") == []
    kill(controller, "j")
    assert controller.wait_for_result("j")["state"] == "KILLED"
