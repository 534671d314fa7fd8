"""What running jobs become when the agent is replaced in place."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import pytest

from greenagent.jobs.job import Stage
from greenagent.runtime.native import native_sleep
from greenagent.spool.schema import NewJob
from greenagent.values.command import parse_command
from tests.support.commands import built_in, shell
from tests.support.inside import InsideAgent
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


def test_a_job_taken_over_before_is_not_handed_over_again_before_it_stops(inside: InsideAgent) -> None:
    """Its state from the replacement before was: two jobs would have gone on with the same pipes."""
    admission = inside.agent.admission
    job = inside.accept(shell("j", "true", recurring_period=1))
    assert job is not None
    wait_until(lambda: job.stage is Stage.SLEEPING, what="the pause")
    suspended, stuck = admission.suspend(5)
    assert ([one.command["id"] for one in suspended], stuck) == (["j"], [])
    hangs = True

    def hang(connection: sqlite3.Connection) -> None:
        """As on a disk that does not answer."""
        while hangs:
            native_sleep(0.01)

    inside.agent.spool.database.submit(hang)
    try:
        admission.resume(suspended)
        taken_over = admission.live["j"]
        wait_until(lambda: taken_over.run == 2, what="the next period, in the next image")
        assert admission.suspend(0.1) == ([], [taken_over])
    finally:
        hangs = False


def test_what_came_together_is_written_down_in_one_transaction(
    inside: InsideAgent, controller: RecordingController, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with some among them that are answered at once, or come twice."""
    written: list[list[str]] = []
    accept = inside.agent.spool.accept

    def noting(new: Sequence[NewJob]) -> list[int | None]:
        written.append([one.command.id for one in new])
        return accept(new)

    monkeypatch.setattr(inside.agent.spool, "accept", noting)
    commands = [
        shell("a", "true"),
        shell("b", "exit 3"),
        built_in("c", "ping"),
        shell("a", "true"),
        shell("b", "true"),
        shell("d", "true", max_time=-1),
        built_in("e", "nothing of that name"),
        shell("f", "true", queue="q"),
        shell("g", "true", queue="q"),
    ]
    inside.agent.admission.accept([parse_command(dict(command)) for command in commands], "main")
    assert written == [["a", "b", "c", "d", "e", "f", "g"]]
    for job in "abcdefg":
        controller.wait_for_result(job, 60)
    wait_until(lambda: len(controller.results_of("b")) == 2, what="the answer to the second b")
    found = {(result["id"], result["state"]) for result in controller.results}
    done = {(job, "SUCCESS") for job in "acdfg"}
    assert found == done | {("b", "ERROR"), ("b", "DUPILICATE_ID"), ("e", "UNKNOWN_CMD")}
