"""No process outlives its job (design, promise 5)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.commands import shell
from tests.support.inside import StartInside
from tests.support.job_lives import ask, kill, running_pids, tagged_processes, wait_for_words, words
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


@pytest.mark.parametrize("how", ["kill", "timeout"])
def test_the_whole_tree_ends_also_sessions_of_their_own_and_orphans(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path, how: str
) -> None:
    """Defect 32 of the original: grandchildren kept a killed job alive."""
    agent = start_agent()
    pids = tmp_path / "pids"
    script = (
        f"sleep 1000 & echo $! >> {pids}; setsid sleep 1000 & echo $! >> {pids}; "
        # A daemon: its parent is gone, it has a session of its own, and it holds the pipes.
        f"setsid sh -c 'sleep 1000 & echo $! >> {pids}'; trap '' TERM; echo $$ >> {pids}; wait; sleep 1000"
    )
    controller.push(shell("t", script, max_time=3 if how == "timeout" else 0))
    # A machine that takes 3 s to start them all has fewer to end.
    wait_until(lambda: len(words(pids)) == 4 or controller.results_of("t"), what="all four, or the end")
    if how == "kill":
        kill(controller, "t")
    result = controller.wait_for_result("t", 20)
    assert result["state"] == {"kill": "KILLED", "timeout": "TIMEOUT"}[how]
    assert running_pids(pids) == []
    assert tagged_processes(agent.folder) == []


def test_a_process_announced_by_101_ends_with_its_job_and_is_not_logged(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    agent = start_agent()
    pids = tmp_path / "pids"
    stranger = os.getppid()
    # Without its tag, in a session of its own: only the announcement and the tree tell whose it is.
    script = (
        f"env -i setsid sleep 1000 & echo $! >> {pids}; echo 101::$!; "
        f"echo 101::{stranger}; echo 101::rubbish; echo 20::1; wait"
    )
    controller.push(shell("a", script))
    wait_for_words(pids, 1)
    wait_until(lambda: agent.rows("jobid = 'a' AND level = 20"), what="the lines")
    kill(controller, "a")
    result = controller.wait_for_result("a")
    assert (result["state"], result["data"]) == ("KILLED", "1")
    assert running_pids(pids) == []
    agent.stop()
    rows = agent.rows("jobid = 'a'")
    assert [row for row in rows if row[2] == 101] == []
    warnings = [data for _, _, level, data in rows if level == 7]
    assert any(str(stranger) in line and "left alone" in line for line in warnings)
    assert any("rubbish" in line for line in warnings)


def test_children_left_after_a_success_are_swept_and_named(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    agent = start_agent()
    pids = tmp_path / "pids"
    # Until they have become what they are called, they bear the shell's name.
    become = "until [ $(cat /proc/$!/comm) = sleep ]; do :; done"
    script = f"setsid sleep 1000 & echo $! >> {pids}; {become}; sleep 1001 & echo $! >> {pids}; {become}"
    controller.push(shell("s", script))
    assert controller.wait_for_result("s")["state"] == "SUCCESS"
    assert running_pids(pids) == []
    agent.stop()
    [line] = [data for _, _, level, data in agent.rows("jobid = 's' AND level = 7")]
    assert line.startswith("greenagent: ended what the job left running: ")
    for pid in words(pids):
        assert f"{pid} (" in line
    assert "sleep" in line


def test_leave_children_lets_them_go_on(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    more = '[extensions.daemon]\nbinary = "sh"\nargs = ["-c", "{script}"]\nleave_children = true\n'
    agent = start_agent(more=more)
    pids = tmp_path / "pids"
    script = f"setsid sleep 1000 < /dev/null > /dev/null 2>&1 & echo $! >> {pids}"
    try:
        controller.push(shell("argument", script, leave_children=True))
        assert controller.wait_for_result("argument")["state"] == "SUCCESS"
        controller.push({"id": "extension", "cmd": "daemon", "args": {"script": script}})
        assert controller.wait_for_result("extension")["state"] == "SUCCESS"
        assert len(running_pids(pids)) == 2
        agent.stop()
        assert len(running_pids(pids)) == 2
        assert agent.rows("level = 7 AND jobid != 'agent'") == []
    finally:
        for pid in running_pids(pids):
            os.kill(pid, 9)


@pytest.mark.parametrize("end", ["exit 3", "kill -9 $$"])
def test_a_run_that_failed_leaves_no_children_whatever_it_asked_for(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path, end: str
) -> None:
    agent = start_agent(kill_grace=0.2)
    pids = tmp_path / "pids"
    script = f"setsid sleep 1000 < /dev/null > /dev/null 2>&1 & echo $! >> {pids}; {end}"
    controller.push(shell("failing", script, leave_children=True, max_restart=2))
    assert controller.wait_for_result("failing")["state"] == "ERROR"
    assert len(pids.read_text().split()) == 3
    wait_until(lambda: running_pids(pids) == [], what="the end of what each run left")
    told = "level = 7 AND jobid = 'failing' AND data LIKE '%ended what the job left running%'"
    wait_until(lambda: len(agent.rows(told)) == 3, what="a line for each run")


@pytest.mark.parametrize("script", ["exit 0", "sleep 0.01"])
def test_kills_that_race_with_the_end_harm_nothing(
    controller: RecordingController, start_agent: StartInside, script: str
) -> None:
    """Defect 28 of the original: a signal to a finished job could crash the agent."""
    start_agent()
    for number in range(30):
        controller.push(shell(f"j{number}", script))
        controller.push({"id": f"k{number}", "cmd": "kill", "data": f'{{"id": "j{number}"}}'})
    for number in range(30):
        result = controller.wait_for_result(f"j{number}", 20)
        assert result["state"] in ("SUCCESS", "KILLED")
        assert controller.wait_for_result(f"k{number}")["state"] in ("SUCCESS", "ERROR")
    assert ask(controller, "ping")["state"] == "SUCCESS"
    for number in range(30):
        first, *more = controller.results_of(f"j{number}")
        assert all(result == first for result in more), "a kill that comes after the end has its result sent once more"
