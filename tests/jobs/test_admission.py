"""What running jobs become when the agent is replaced in place."""

from __future__ import annotations

import sqlite3

from greenagent.jobs.job import Stage
from greenagent.runtime.native import native_sleep
from tests.support.commands import shell
from tests.support.inside import InsideAgent
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
