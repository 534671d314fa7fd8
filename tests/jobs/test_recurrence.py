"""Recurring jobs: what is reported, and how they end (protocol 5.4)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from tests.support.commands import built_in, execute, shell
from tests.support.inside import StartInside
from tests.support.job_lives import ask, kill, states_of, wait_for_words, words
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


def test_a_recurring_job_reports_results_and_failures_and_nothing_else(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    agent = start_agent()
    runs = tmp_path / "runs"
    script = (
        f"date +%s.%N >> {runs}; case $(wc -l < {runs}) in "
        "2) echo 20::2;; 3) exit 3;; 4) kill -9 $$;; 5) echo 20::5;; esac"
    )
    controller.push(shell("r", script, recurring_period=1))
    wait_until(lambda: len(controller.results_of("r")) >= 4, 20, "four reports")
    reports = [(r["state"], r["data"], r["exit_code"], r["signal"]) for r in controller.results_of("r")]
    assert reports == [
        ("SUCCESS", "2", 0, None),
        ("ERROR", "exit code 3", 3, None),
        ("ERROR", "ended by SIGKILL", None, "SIGKILL"),
        ("SUCCESS", "5", 0, None),
    ]
    stamps = [float(stamp) for stamp in words(runs)]
    assert all(later - earlier > 0.9 for earlier, later in pairwise(stamps))
    # The id stays taken between the runs too.
    controller.push(execute("r", "echo", "other"))
    wait_until(lambda: states_of(controller, "r")[-1] == "DUPILICATE_ID", what="the refusal")
    kill(controller, "r")
    wait_until(lambda: states_of(controller, "r")[-1] == "KILLED", what="the end")
    count = len(words(runs))
    agent.stop()
    assert len(words(runs)) == count
    assert states_of(controller, "r").count("KILLED") == 1


def test_kill_ends_a_recurring_job_while_it_sleeps(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    """Defect 20 of the original: the kill waited for the next run and the job went on."""
    agent = start_agent()
    runs = tmp_path / "runs"
    controller.push(shell("r", f"echo x >> {runs}; echo 20::1", recurring_period=1000))
    controller.wait_for_result("r")
    kill(controller, "r")
    wait_until(lambda: states_of(controller, "r") == ["SUCCESS", "KILLED"], what="the end")
    assert ask(controller, "kill", {"id": "r"})["state"] == "ERROR", "it is gone"
    agent.stop()
    assert words(runs) == ["x"]


def test_kill_ends_a_recurring_job_while_it_runs(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    agent = start_agent()
    runs = tmp_path / "runs"
    controller.push(shell("r", f"echo x >> {runs}; sleep 1000", recurring_period=1, max_restart=5))
    wait_for_words(runs, 1)
    kill(controller, "r")
    assert controller.wait_for_result("r")["state"] == "KILLED"
    assert agent.stop() == 0
    assert (words(runs), states_of(controller, "r")) == (["x"], ["KILLED"])


def test_a_failing_recurring_job_is_restarted_first_and_never_runs_twice_at_once(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    """The original started a restart and a recurrence: two copies at once (protocol 5.4)."""
    agent = start_agent()
    runs, lock = tmp_path / "runs", tmp_path / "lock"
    script = f"mkdir {lock} || echo twice >> {runs}; echo x >> {runs}; sleep 0.2; rmdir {lock}; exit 1"
    controller.push(shell("r", script, recurring_period=1, max_restart=1))
    # Run and restart, one report; the period; run and restart, one report.
    wait_until(lambda: len(controller.results_of("r")) >= 2, 20, "two reports")
    kill(controller, "r")
    agent.stop()
    assert set(words(runs)) == {"x"}
    *failures, last = states_of(controller, "r")
    assert (set(failures), last) == ({"ERROR"}, "KILLED")
    # More than two where the kill took its time; then it may have ended a run, or one and its restart.
    assert len(words(runs)) - 2 * len(failures) in (0, 1, 2)
    assert len(agent.rows("jobid = 'r' AND level = 9")) == len(failures)


def test_a_timeout_of_one_run_is_reported_and_the_period_goes_on(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    start_agent()
    runs = tmp_path / "runs"
    controller.push(shell("r", f"echo x >> {runs}; sleep 1000", recurring_period=1, max_time=1))
    wait_until(lambda: states_of(controller, "r")[:2] == ["TIMEOUT", "TIMEOUT"], 20, "two runs")
    kill(controller, "r")
    wait_until(lambda: states_of(controller, "r")[-1] == "KILLED", what="the end")


def test_a_recurring_built_in_can_be_killed(controller: RecordingController, start_agent: StartInside) -> None:
    start_agent()
    controller.push(built_in("killed", "ping", args={"recurring_period": 1000}))
    assert controller.wait_for_result("killed")["data"] == '"pong"'
    kill(controller, "killed")
    wait_until(lambda: states_of(controller, "killed") == ["SUCCESS", "KILLED"], what="the end")
