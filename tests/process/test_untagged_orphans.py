"""Orphans without a tag, in a session of their own, whose parent is gone (promise 5)."""

from __future__ import annotations

import os
import time

import pytest

from greenagent.process.child import end, sweep
from greenagent.process.job_tree import job_tag, read_tag
from greenagent.runtime import procfs
from tests.support.children import INSTANCE, close_pipes
from tests.support.job_lives import wait_for_words
from tests.support.processes import is_running, state_of
from tests.support.waiting import wait_until

SILENT = "</dev/null >/dev/null 2>&1"


@pytest.fixture
def make_orphan(start, tmp_path):
    """Starts a run that gets rid of one process; returns the run and the pid."""

    def make(job, then="exit 0", pipes=SILENT):
        pids = tmp_path / f"{job}.pid"
        one = f"env -i setsid sleep 1000 {pipes} & echo $! > {pids}"
        child = start("sh", "-c", f"setsid sh -c '{one}' & wait; {then}", tag=job_tag(INSTANCE, job, 1))
        pid = int(wait_for_words(pids, 1)[0])
        wait_until(lambda: (seen := procfs.read_process(pid)) and seen.parent == os.getpid(), what="the adoption")
        wait_until(lambda: procfs.read_process(pid).session == pid and read_tag(pid) is None, what="its escape")
        wait_until(lambda: procfs.read_process(pid).command == "sleep", what="its program")
        return child, pid

    return make


def over(child):
    end(child, 0)
    child.reap()
    close_pipes(child)


def gone(pid):
    return wait_until(lambda: not is_running(pid), what="the end of the orphan")


def next_tick():
    """Waits until what starts now has a later start time than everything before."""
    hertz = os.sysconf("SC_CLK_TCK")
    now = int(time.clock_gettime(time.CLOCK_BOOTTIME) * hertz)
    wait_until(lambda: int(time.clock_gettime(time.CLOCK_BOOTTIME) * hertz) > now + 1, what="a tick of the clock")


def test_an_untagged_orphan_that_holds_its_jobs_pipes_is_ended_with_its_job(make_orphan):
    child, pid = make_orphan("holds", pipes="")
    child.wait(60)
    assert [leftover.pid for leftover in sweep(child).ended] == [pid]
    assert not is_running(pid)
    over(child)


def test_a_process_whose_session_was_seen_is_known_after_its_leader_is_gone(start, tmp_path):
    pids, gate = tmp_path / "pids", tmp_path / "gate"
    one = f"env -i sleep 1000 {SILENT} & echo $! >> {pids}"
    script = f"echo $$ > {pids}; while [ ! -e {gate} ]; do sleep 0.01; done; {one}"
    child = start("sh", "-c", f"setsid sh -c '{script}' & wait", tag=job_tag(INSTANCE, "session", 1))
    wait_until(lambda: pids.exists() and pids.read_text().strip(), what="the leader")
    child.tree.find()
    gate.touch()
    pid = int(wait_for_words(pids, 2)[1])
    child.wait(60)
    wait_until(lambda: procfs.read_process(pid).parent == os.getpid() and not read_tag(pid), what="its escape")
    assert [leftover.pid for leftover in sweep(child).ended] == [pid]
    over(child)


def test_a_process_that_only_the_meter_saw_is_known_wherever_it_went(start, tmp_path):
    pids, gate = tmp_path / "pids", tmp_path / "gate"
    one = f"env -i setsid sleep 1000 {SILENT} & echo $! > {pids}; while [ ! -e {gate} ]; do sleep 0.01; done"
    child = start("sh", "-c", f"setsid sh -c '{one}' & wait", tag=job_tag(INSTANCE, "metered", 1))
    pid = int(wait_for_words(pids, 1)[0])
    wait_until(lambda: procfs.read_process(pid).command == "sleep", what="the process")
    found = child.tree.find_in(procfs.Snapshot(lambda: None))
    assert {child.pid, pid} <= {process.pid for process in found}
    gate.touch()
    child.wait(60)
    wait_until(lambda: procfs.read_process(pid).parent == os.getpid(), what="the adoption")
    assert [leftover.pid for leftover in sweep(child).ended] == [pid]
    over(child)


def test_an_untagged_orphan_is_ended_once_no_run_lives_that_may_own_it(make_orphan, start, orphan_reaper, said):
    older = start("sleep", "600", tag=job_tag(INSTANCE, "older", 1))
    next_tick()
    child, pid = make_orphan("untagged")
    next_tick()
    younger = start("sleep", "600", tag=job_tag(INSTANCE, "younger", 1))
    orphan_reaper.check()
    child.wait(60)
    assert sweep(child) == ((), ())
    over(child)
    for _ in range(3):
        orphan_reaper.check()
    assert is_running(pid)
    assert said == []
    over(older)
    orphan_reaper.check()
    gone(pid)
    orphan_reaper.check()
    assert state_of(pid) == ""
    assert is_running(younger.pid)
    assert [level for level, _ in said] == [7]
    assert f"process {pid} (sleep)" in said[0][1]
    over(younger)


def test_untagged_orphans_of_runs_that_leave_children_may_stay_with_what_comes_from_them(
    make_orphan, start, orphan_reaper, said
):
    child, pid = make_orphan("leaving")
    child.wait(60)
    child.leave_children()
    over(child)
    for _ in range(4):
        orphan_reaper.check()
    orphan_reaper.end_all()
    assert is_running(pid)
    other, unknown = make_orphan("other")  # it may have come from what was left
    other.wait(60)
    over(other)
    orphan_reaper.check()
    assert is_running(unknown)
    assert said == []
    for each in (pid, unknown):
        os.kill(each, 9)
        gone(each)
    for _ in range(3):
        orphan_reaper.check()
    next_tick()
    last, ended = make_orphan("last")
    last.wait(60)
    over(last)
    orphan_reaper.check()
    gone(ended)


def test_what_was_there_before_the_agent_may_stay(make_orphan, spawner, said, orphan_reaper):
    child, pid = make_orphan("before")
    child.wait(60)
    over(child)
    orphan_reaper.begin()
    orphan_reaper.check()
    orphan_reaper.end_all()
    assert is_running(pid)
    assert said == []
    os.kill(pid, 9)
    gone(pid)


def test_another_image_goes_on_with_untagged_orphans_and_what_may_stay(
    make_orphan, start, spawner, orphan_reaper, said
):
    child, kept = make_orphan("leaving")
    child.wait(60)
    child.leave_children()
    over(child)
    state = spawner.children.detached.state()
    os.kill(kept, 9)
    gone(kept)
    for _ in range(3):
        orphan_reaper.check()
    assert spawner.children.detached.state() == []
    other, pid = make_orphan("other")
    other.wait(60)
    over(other)
    tag = job_tag(INSTANCE, "running", 1)
    orphan_reaper.take_over([tag], [])
    orphan_reaper.check()
    assert is_running(pid)  # the job that goes on is not registered yet
    next_tick()
    going_on = start("sleep", "600", tag=tag)
    orphan_reaper.check()
    gone(pid)
    assert len(said) == 1
    over(going_on)
    spawner.children.detached.restore(state)
    assert spawner.children.detached.state() == state


def test_at_the_agents_end_all_untagged_orphans_are_ended_also_those_that_ignore_term(
    make_orphan, start, orphan_reaper, said, tmp_path
):
    pids = tmp_path / "stubborn"
    one = f'env -i setsid sh -c "trap : TERM; echo \\$\\$ > {pids}; while :; do sleep 0.1; done" {SILENT} &'
    stubborn = start("sh", "-c", f"setsid sh -c '{one}' & wait", tag=job_tag(INSTANCE, "stubborn", 1))
    child, pid = make_orphan("plain")
    hard = int(wait_for_words(pids, 1)[0])
    for each in (stubborn, child):
        each.wait(60)
        over(each)
    orphan_reaper.end_all()
    assert not is_running(pid)
    assert not is_running(hard)
    words = " ".join(text for _, text in said)
    assert f"process {pid} (sleep)" in words
    assert f"process {hard} (sh) behind: SIGKILL was sent" in words
