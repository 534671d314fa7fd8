"""Who listens to the store of jobs hears of each change (docs/controller.md)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from greenagent.controller.limits import Limits
from tests.support.local_controller import Agent, LocalController
from tests.support.waiting import wait_until


@pytest.mark.parametrize("has_file", [False, True])
def test_each_stored_change_of_a_job_is_told(
    make_controller: Callable[..., LocalController], tmp_path: Path, has_file: bool
) -> None:
    controller = make_controller(Limits(keep_for=0, keep_least=0), tmp_path / "state" if has_file else None)
    jobs = controller.services.jobs
    told: list[tuple[str, str]] = []
    numbers: list[int | None] = []

    def hear(job_id: str | None, number: int | None) -> None:
        assert job_id is not None
        job = jobs.get(job_id)
        numbers.append(number)
        told.append((job_id, "forgotten" if job is None else job.state))

    jobs.listen(hear)
    agent = Agent(controller)
    poll = agent.poll()
    controller.submit(id="j", gid=1, nid=10)
    poll.command()
    agent.finish("j")
    wait_until(lambda: told[-1:] == [("j", "forgotten")], what="the job to be forgotten")
    assert told == [("j", "QUEUED"), ("j", "RUNNING"), ("j", "SUCCESS"), ("j", "forgotten")]
    assert numbers == [None, 0, 0, None]
