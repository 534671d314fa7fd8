"""Waiting, signalling, ending: whatever a job starts, nothing of it is left (design, promise 5)."""

from __future__ import annotations

import os
import signal
import time

import gevent
import pytest

from greenagent.process.child import ExitStatus, end, sweep
from greenagent.process.job_tree import job_tag
from tests.support.children import close_pipes, daemon, read_some
from tests.support.processes import is_running, state_of, zombies_of
from tests.support.waiting import wait_until


def test_wait_times_out_and_frees_nothing(start):
    child = start("sleep", "600")
    assert child.wait(0) is None
    assert child.wait(0.02) is None
    assert not child.has_exited
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(60) == child.wait(0) == ExitStatus(None, "SIGTERM")
    assert child.has_exited
    assert state_of(child.pid) == "Z"  # its number still guards the group's
    assert child.reap() == child.reap() == child.wait(0) == ExitStatus(None, "SIGTERM")
    assert state_of(child.pid) == ""
    close_pipes(child)


def test_many_greenlets_may_wait(start):
    child = start("cat")
    waiting = [gevent.spawn(child.wait) for _ in range(5)]
    gevent.sleep(0)
    close_pipes(child)
    gevent.joinall(waiting, timeout=10)
    assert [greenlet.value for greenlet in waiting] == [ExitStatus(0, None)] * 5
    child.reap()


def test_waiting_greenlet_that_is_killed_disturbs_nobody(start):
    child = start("cat")
    victim, other = gevent.spawn(child.wait), gevent.spawn(child.wait)
    gevent.sleep(0)
    victim.kill()
    close_pipes(child)
    assert other.get(timeout=60) == ExitStatus(0, None)
    child.reap()


def test_term_is_honoured(start):
    child = start("bash", "-c", "trap 'exit 7' TERM; echo; while :; do sleep 0.01; done")
    read_some(child)
    assert end(child, 30) == ()
    assert child.reap() == ExitStatus(7, None)
    close_pipes(child)


def test_child_that_ignores_term_is_killed_after_the_grace(start):
    child = start("bash", "-c", "trap '' TERM; echo; while :; do sleep 0.01; done")
    read_some(child)
    began = time.monotonic()
    assert end(child, 0.3) == ()
    assert time.monotonic() - began >= 0.3
    assert child.reap() == ExitStatus(None, "SIGKILL")
    close_pipes(child)


def test_stopped_child_is_ended_by_term(start):
    child = start("sleep", "600")
    child.signal(signal.SIGSTOP)
    wait_until(lambda: state_of(child.pid) == "T", what="the stop")
    assert end(child, 30) == ()
    assert child.reap() == ExitStatus(None, "SIGTERM")
    close_pipes(child)


def test_signal_reaches_the_whole_group_and_nobody_after_the_end(start):
    child = start("bash", "-c", "sleep 600 & echo $!; wait; echo never")
    inner = int(read_some(child))
    assert child.signal(signal.SIGTERM)
    child.wait(60)
    wait_until(lambda: not is_running(inner), what="the end of the inner sleep")
    assert not child.signal(signal.SIGTERM)
    sweep(child)
    child.reap()
    assert not child.signal(signal.SIGTERM)
    close_pipes(child)


@pytest.mark.parametrize("grace", [0, 30])
def test_child_in_another_session_is_ended(start, grace):
    child = start("bash", "-c", "setsid sleep 600 & sleep 0.01; echo $!; wait")
    read_some(child)
    wait_until(
        lambda: any(process.session != child.pid for process in child.tree.find()), what="the session of the grandchild"
    )
    grandchild = next(process.pid for process in child.tree.find() if process.session != child.pid)
    assert end(child, grace) == ()
    assert not is_running(grandchild)
    child.reap()
    assert zombies_of(os.getpid()) == []
    close_pipes(child)


def test_daemon_is_ended_by_its_tag(start):
    child = start(*daemon("os._exit(0)"), tag=job_tag("i", "daemon", 1))
    pid = int(read_some(child))
    child.wait(60)
    wait_until(lambda: [process.pid for process in child.members()] == [pid], what="the orphan to be given to us")
    assert [left.pid for left in sweep(child).ended] == [pid]
    assert not is_running(pid)
    child.reap()
    assert zombies_of(os.getpid()) == []
    close_pipes(child)


def test_daemon_of_another_job_is_left_alone(start):
    ours = start(*daemon("time.sleep(600)"), tag=job_tag("i", "one", 1))
    theirs = start(*daemon("time.sleep(600)"), tag=job_tag("i", "two", 1))
    first, second = int(read_some(ours)), int(read_some(theirs))
    assert end(ours, 0) == ()
    assert not is_running(first)
    assert is_running(second)
    assert end(theirs, 0) == ()
    assert not is_running(second)
    for child in (ours, theirs):
        child.reap()
        close_pipes(child)


def test_daemon_without_tag_is_ended_when_it_was_noted(start):
    child = start("bash", "-c", "env -i setsid sleep 600 & echo; cat")
    read_some(child)
    wait_until(
        lambda: [
            process for process in child.tree.find() if process.session == process.pid and process.command == "sleep"
        ],
        what="the grandchild",
    )
    grandchild = next(process.pid for process in child.tree.find() if process.command == "sleep")
    close_pipes(child)
    child.wait(60)
    assert is_running(grandchild)
    assert sweep(child) == (((grandchild, "sleep", ""),), ())
    assert not is_running(grandchild)
    child.reap()


def test_sweep_names_what_a_finished_child_left(start):
    child = start("bash", "-c", "sleep 600 & echo $!")
    pid = int(read_some(child))
    child.wait(60)
    wait_until(lambda: [process.command for process in child.members()] == ["sleep"], what="the sleep")
    assert sweep(child, 30) == (((pid, "sleep", ""),), ())
    assert sweep(child) == ((), ())
    assert child.reap() == ExitStatus(0, None)
    close_pipes(child)


def test_what_is_between_two_programs_is_swept_too(start):
    """It has no environment then, and so no tag, for a moment."""
    script = "setsid sleep 600 </dev/null >/dev/null 2>&1 & exit 0"
    for number in range(100):
        child = start("sh", "-c", script, tag=job_tag("i", f"between{number}", 1))
        child.wait(60)
        assert len(sweep(child).ended) == 1
        child.reap()
        close_pipes(child)


def test_tree_that_grows_while_it_is_killed(start):
    script = "trap '' TERM; grow() { while :; do (trap '' TERM; sleep 600) & sleep 0.002; done; }; echo; grow"
    child = start("bash", "-c", script, tag=job_tag("i", "growing", 1))
    read_some(child)
    wait_until(lambda: len(child.tree.find()) > 20, what="a crowd")
    assert end(child, 0.05) == ()
    assert child.members() == []
    child.reap()
    assert zombies_of(os.getpid()) == []
    close_pipes(child)


def test_process_that_joins_the_group_after_the_term_hears_it_too(start):
    child = start("bash", "-c", "trap 'sleep 600 & wait; exit 3' TERM; echo; while :; do sleep 0.01; done")
    read_some(child)
    began = time.monotonic()
    assert end(child, 100) == ()
    assert time.monotonic() - began < 60  # not by the KILL after the grace
    child.reap()
    close_pipes(child)


def test_announced_process_is_ended_with_the_job(start):
    child = start(*daemon("time.sleep(600)", environment="pass"), tag=job_tag("i", "announcing", 1))
    pid = int(read_some(child))
    assert child.tree.announce(pid)
    assert end(child, 0) == ()
    assert not is_running(pid)
    child.reap()
    close_pipes(child)


def test_announcement_of_a_stranger_is_not_believed(start):
    child = start("sleep", "600", tag=job_tag("i", "liar", 1))
    stranger = start("sleep", "600", tag=job_tag("i", "stranger", 1))
    for pid in (stranger.pid, os.getpid(), os.getppid(), 1, 0, -1):
        assert not child.tree.announce(pid)
    assert child.tree.announce(child.pid)
    end(child, 0)
    child.reap()
    assert is_running(stranger.pid)
    end(stranger, 0)
    stranger.reap()
    close_pipes(child)
    close_pipes(stranger)


def test_announcement_of_a_process_that_has_ended_accuses_nobody(start):
    child = start("sh", "-c", "true & echo $!; sleep 600")
    ended = int(read_some(child))
    wait_until(lambda: not is_running(ended), what="the end of the process that is announced")
    assert child.tree.announce(ended), "a zombie"
    assert child.tree.announce(4_194_304_000), "nobody has this number"
    assert child.tree.known == {}
    end(child, 0)
    child.reap()
    close_pipes(child)


def test_two_who_end_the_same_child(start):
    child = start("bash", "-c", "trap '' TERM; echo; while :; do sleep 0.01; done")
    read_some(child)
    ends = [gevent.spawn(end, child, 600), gevent.spawn(end, child, 0.05)]
    gevent.joinall(ends, timeout=60, raise_error=True)
    assert [greenlet.value for greenlet in ends] == [(), ()]
    assert child.reap() == ExitStatus(None, "SIGKILL")
    close_pipes(child)
