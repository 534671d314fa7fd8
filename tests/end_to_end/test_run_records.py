"""Records of runs outlive their agent: kill -9, a lost ledger, a replacement in place."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from greenagent.jobs.run_records import CUT_OFF
from tests.end_to_end.test_lost_ledger import spoil
from tests.support.agents import StartAgent
from tests.support.commands import shell
from tests.support.recording_controller import RecordingController
from tests.support.run_rows import runs_of, wait_for_run
from tests.support.upgrade import replace
from tests.support.waiting import wait_until


def test_the_next_start_completes_what_a_killed_agent_left(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent()
    logs = agent.folder / "logs"
    controller.push(shell("cut", "exec sleep 1000"))
    controller.push(shell("kept", "exec sleep 1000", max_time=-1))
    begun = [wait_for_run(logs, name, ended=False) for name in ("cut", "kept")]
    agent.kill()
    with closing(sqlite3.connect(logs / "current.db")) as connection, connection:
        connection.execute("DELETE FROM runs WHERE jobid = 'cut'")  # as if it had been killed before that was written
    agent.start()
    wait_until(lambda: len(runs_of(logs, "kept")) == 2 and runs_of(logs, "cut"), what="the new copy, and the record")
    (cut,), (kept, again) = runs_of(logs, "cut"), runs_of(logs, "kept")
    assert (cut.state, cut.reason, cut.exit_code) == ("ERROR", CUT_OFF, None)
    assert (cut.command, cut.controller, cut.run) == (begun[0].command, "main", 1)
    assert kept == begun[1]._replace(ended=kept.ended, state="ERROR", reason=CUT_OFF)
    assert (again.ended, again.run) == (None, 2)
    agent.kill()
    spoil(agent.folder, "removed")
    agent.start()
    wait_until(lambda: [one.ended is None for one in runs_of(logs, "kept")] == [False, False, True], what="a third")


def test_an_end_that_only_the_ledger_has_is_taken_from_it(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent()
    logs = agent.folder / "logs"
    controller.push(shell("done", "exit 9"))
    ended = wait_for_run(logs, "done")
    controller.wait_for_result("done")
    agent.kill()
    with closing(sqlite3.connect(logs / "current.db")) as connection, connection:
        connection.execute("UPDATE runs SET ended = NULL, exit_code = NULL, state = NULL, reason = '', cpu = NULL")
    agent.start()
    found = wait_for_run(logs, "done")
    assert (found.exit_code, found.state, found.reason) == (9, "ERROR", "exit code 9")
    assert abs(found.ended - ended.ended) < 0.01


def test_a_run_that_is_handed_over_has_one_record(controller: RecordingController, start_agent: StartAgent) -> None:
    agent = start_agent()
    logs = agent.folder / "logs"
    controller.push(shell("over", "while ! test -e go; do sleep 0.05; done; exit 4", working_dir=str(agent.folder)))
    begun = wait_for_run(logs, "over", ended=False)
    replace(agent, 1)
    (agent.folder / "go").touch()
    assert controller.wait_for_result("over")["exit_code"] == 4
    ended = wait_for_run(logs, "over")
    assert ended[:9] == begun[:9]
    assert (ended.exit_code, ended.state) == (4, "ERROR")
    assert len(runs_of(logs, "over")) == 1
