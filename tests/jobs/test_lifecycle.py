"""How the life of a job ends when the agent does (design, section 5 "Ending")."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from greenagent.jobs.job import Job, Reason, Stage
from tests.support.commands import shell
from tests.support.inside import InsideAgent
from tests.support.job_lives import states_of
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


def until(gate: Path) -> str:
    return f"while [ ! -e {gate} ]; do sleep 0.02; done"


def remembered(inside: InsideAgent) -> list[str]:
    return [entry["id"] for entry in json.loads((inside.folder / "history").read_text())]


def ended(jobs: list[Job]) -> bool:
    return all(job.ended.is_set() for job in jobs)


def test_a_drain_lets_each_run_end_and_no_other_follow(
    inside: InsideAgent, controller: RecordingController, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    inside.start_job(shell("plain", f"{until(gate)}; exit 3"))
    inside.start_job(shell("again", f"{until(gate)}; exit 3", max_restart=5))
    inside.start_job(shell("recurring", f"{until(gate)}; echo 20::1", recurring_period=1000))
    inside.start_job(shell("silent", until(gate), recurring_period=1000))
    inside.start_job(shell("remembered", until(gate), max_time=-1, max_restart=5))
    inside.start_job(shell("comes back", f"{until(gate)}; exit 3", max_time=-1, max_restart=5))
    running = inside.agent.admission.stop(Reason.DRAIN)
    assert len(running) == 6
    assert not any(job.ended.is_set() for job in running)
    gate.touch()
    wait_until(lambda: ended(running), what="the end of all runs")
    states = {"plain": ["ERROR"], "again": ["KILLED"], "recurring": ["SUCCESS"], "remembered": ["SUCCESS"]}
    wait_until(lambda: len(controller.results) == len(states), what="their results")
    assert {name: states_of(controller, name) for name in states} == states
    assert states_of(controller, "silent") == []
    assert remembered(inside) == ["recurring", "silent", "comes back"]


def test_a_stop_ends_the_runs_and_keeps_what_is_remembered(
    inside: InsideAgent, controller: RecordingController, tmp_path: Path
) -> None:
    inside.start_job(shell("plain", "exec sleep 1000"))
    inside.start_job(shell("remembered", "exec sleep 1000", max_time=-1))
    sleeping = inside.accept(shell("sleeping", "true", recurring_period=1000))
    assert sleeping is not None
    wait_until(lambda: sleeping.stage is Stage.SLEEPING, what="the pause")
    running = inside.agent.admission.stop()
    wait_until(lambda: ended(running), what="the end of all runs")
    assert controller.wait_for_result("plain")["state"] == "KILLED"
    assert len(controller.results) == 1
    assert remembered(inside) == ["remembered", "sleeping"]


@pytest.mark.parametrize("reason", [Reason.STOP, Reason.DRAIN])
def test_a_kill_is_not_taken_back_by_the_agents_end(
    inside: InsideAgent, controller: RecordingController, reason: Reason
) -> None:
    job = inside.start_job(shell("remembered", "trap '' TERM; sleep 1000", max_time=-1))
    job.ask_to_end(Reason.KILL)
    running = inside.agent.admission.stop(reason)
    wait_until(lambda: ended(running), what="the end")
    assert controller.wait_for_result("remembered")["state"] == "KILLED"
    assert remembered(inside) == []
