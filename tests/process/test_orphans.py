"""Orphans: of living jobs, of finished ones, of an agent that crashed."""

from __future__ import annotations

import os

import gevent
import pytest

from greenagent.process.child import end, sweep
from greenagent.process.job_tree import Tag, job_tag, parse_tag, read_tag
from greenagent.process.libc import check_platform
from greenagent.process.orphans import OrphanReaper, end_orphan, find_by_session, find_by_tag
from greenagent.runtime import procfs
from greenagent.runtime.agent_log import AgentLog
from tests.support.children import INSTANCE, close_pipes, daemon, read_some
from tests.support.processes import is_running, state_of, zombies_of
from tests.support.waiting import wait_until


def finished_with_daemon(start, tag, leave=False, **keys):
    """A child that has ended and been reaped without a sweep, and the pid of the daemon it left."""
    child = start(*daemon("os._exit(0)", **keys), tag=tag)
    pid = int(read_some(child))
    child.wait(60)
    if leave:
        child.leave_children()
    child.reap()
    close_pipes(child)
    wait_until(lambda: procfs.read_process(pid).parent == os.getpid(), what="the orphan to be given to us")
    return pid


def test_platform_is_good_enough_here():
    assert check_platform() is None


@pytest.mark.parametrize("job", ["plain", "a:b/c d%20", "é漢", "\ud800", "x" * 200])
def test_tag_says_what_it_was_made_of(job):
    text = job_tag(INSTANCE, job, 12)
    assert text.count(":") == 3
    assert text.isascii()
    assert parse_tag(text) == Tag(INSTANCE, job, 12, may_stay=False)
    assert parse_tag(job_tag(INSTANCE, job, 12, may_stay=True)) == Tag(INSTANCE, job, 12, may_stay=True)
    assert parse_tag(text.rpartition(":")[0]) == Tag(INSTANCE, job, 12, may_stay=True), "0.1 did not tell"


@pytest.mark.parametrize("text", ["", "a", "a:b", "a:b:c", ":b:1", "a:b:1:2:3", "a:b:-1", "a:b:²"])
def test_other_texts_are_no_tags(text):
    assert parse_tag(text) is None


def test_orphan_of_a_finished_job_is_ended_said_and_reaped(start, orphan_reaper, said):
    pid = finished_with_daemon(start, job_tag(INSTANCE, "over/1", 1))
    orphan_reaper.check()
    wait_until(lambda: not is_running(pid), what="the end of the orphan")
    orphan_reaper.check()
    assert state_of(pid) == ""
    assert len(said) == 1
    assert said[0][0] == 7
    assert "over/1" in said[0][1]
    assert str(pid) in said[0][1]


def test_orphan_that_ignores_term_is_killed_by_the_next_pass(start, orphan_reaper, said):
    pid = finished_with_daemon(
        start, job_tag(INSTANCE, "stubborn", 1), environment="import signal; signal.signal(signal.SIGTERM, 1)"
    )
    orphan_reaper.check()
    assert is_running(pid)
    orphan_reaper.check()
    wait_until(lambda: not is_running(pid), what="the end of the orphan")
    assert ["SIGTERM" in said[0][1], "SIGKILL" in said[1][1]] == [True, True]


def test_orphan_reaper_as_a_service_spares_what_was_there_before_it(start, spawner):
    old = finished_with_daemon(start, job_tag(INSTANCE, "before", 1))
    orphan_reaper = OrphanReaper(spawner.children, AgentLog(None), INSTANCE, 0.01)
    orphan_reaper.begin()
    service = gevent.spawn(orphan_reaper.run)
    gevent.sleep(0)
    new = finished_with_daemon(start, job_tag(INSTANCE, "served", 1))
    wait_until(lambda: state_of(new) == "", what="the orphan to be ended and reaped")
    assert is_running(old)
    os.kill(old, 9)
    wait_until(lambda: state_of(old) == "", what="the old one to be reaped")
    service.kill()


def test_orphan_that_may_stay_stays_and_is_reaped_in_the_end(start, orphan_reaper, said):
    pid = finished_with_daemon(start, job_tag(INSTANCE, "left", 1), leave=True)
    for _ in range(4):
        orphan_reaper.check()
    assert is_running(pid)
    assert said == []
    os.kill(pid, 9)
    wait_until(lambda: state_of(pid) == "Z", what="the zombie")
    orphan_reaper.check()
    assert state_of(pid) == ""


def test_orphans_of_living_jobs_and_of_others_are_left_alone(start, orphan_reaper, said, spawner):
    living = start(*daemon("time.sleep(600)"), tag=job_tag(INSTANCE, "alive", 2))
    kept = int(read_some(living))
    foreign = finished_with_daemon(start, job_tag("another", "over", 1))
    orphan_reaper.check()
    orphan_reaper.check()
    assert is_running(kept)
    assert is_running(foreign)
    assert said == []
    end(living, 0)
    assert not is_running(kept)
    assert is_running(foreign)
    living.reap()
    close_pipes(living)
    os.kill(foreign, 9)
    wait_until(lambda: state_of(foreign) == "Z", what="the zombie")
    orphan_reaper.check()
    assert zombies_of(os.getpid()) == []


def test_a_process_that_takes_the_tag_of_a_living_job_ends_with_its_own(start, orphan_reaper):
    tag = job_tag(INSTANCE, "alive", 1)
    living = start("sleep", "600", tag=tag)
    hidden = finished_with_daemon(start, f"{INSTANCE}:alive:1")
    orphan_reaper.check()
    wait_until(lambda: not is_running(hidden), what="the end of what made a tag up")
    child = start("sh", "-c", f"GREENAGENT_JOB={tag} setsid -f sleep 600", tag=job_tag(INSTANCE, "over", 1))
    child.wait(60)
    assert len(sweep(child).ended) == 1, "it has its own job's pipes"
    assert is_running(living.pid)
    end(living, 0)
    for each in (living, child):
        each.reap()
        close_pipes(each)
    orphan_reaper.check()


def test_orphan_of_an_earlier_run_is_ended_while_the_next_one_lives(start, orphan_reaper):
    old = finished_with_daemon(start, job_tag(INSTANCE, "again", 1))
    current = start("sleep", "600", tag=job_tag(INSTANCE, "again", 2))
    orphan_reaper.check()
    wait_until(lambda: not is_running(old), what="the end of the orphan")
    assert is_running(current.pid)
    orphan_reaper.check()
    end(current, 0)
    current.reap()
    close_pipes(current)


def test_orphan_reaper_never_takes_the_exit_code_of_a_child(start, orphan_reaper):
    children = [start("sh", "-c", f"exit {code}") for code in range(20)]
    for child in children:
        wait_until(lambda child=child: state_of(child.pid) == "Z", what="the zombie")
    orphan_reaper.check()
    assert [child.reap().code for child in children] == list(range(20))
    for child in children:
        close_pipes(child)


def test_processes_are_found_by_tag_and_ended_by_pid_time_and_tag(start):
    instance = f"{INSTANCE}-{os.getpid()}"  # other tests run beside this one
    tag = job_tag(instance, "orphan", 3)
    child = start("bash", "-c", "trap '' TERM; echo; sleep 600 & wait; wait", tag=tag)
    other = start("sleep", "600", tag=job_tag("another", "orphan", 3))
    read_some(child)
    wait_until(lambda: len(find_by_tag(tag)) == 2, what="the child and its sleep")
    orphans = find_by_tag(f"{instance}:")
    assert child.pid in [orphan.pid for orphan in orphans]
    assert {orphan.tag for orphan in orphans} == {tag}
    assert other.pid not in [orphan.pid for orphan in orphans]

    ours = next(orphan for orphan in orphans if orphan.pid == child.pid)
    # That process is gone, and this is a later owner of its pid.
    assert end_orphan(ours._replace(start_ticks=child.start_ticks + 1), 0)
    assert not end_orphan(ours._replace(tag=tag + "0"), 0)
    assert is_running(child.pid)

    assert all(end_orphan(orphan, 0.05) for orphan in orphans)
    assert find_by_tag(tag) == []
    assert end_orphan(ours, 0.05)
    assert child.reap().signal == "SIGKILL"
    for each in (child, other):
        end(each, 0)
        each.reap()
        close_pipes(each)


def test_process_names_with_blanks_and_parentheses_are_read(start, tmp_path):
    program = tmp_path / "a) R (b"
    program.symlink_to("/bin/sleep")
    child = start(str(program), "600")
    process = procfs.read_process(child.pid)
    assert (process.command, process.parent, process.group) == ("a) R (b", os.getpid(), child.pid)
    assert process.start_ticks == child.start_ticks
    assert child.pid in procfs.Snapshot(lambda: None).children(os.getpid())
    end(child, 0)
    child.reap()
    close_pipes(child)


def test_children_found_by_parent_and_by_list_are_the_same(start):
    child = start("bash", "-c", "sleep 600 & sleep 600 & echo; wait")
    read_some(child)
    assert sorted(procfs.children(child.pid)) == sorted(procfs.children_by_parent(child.pid))
    assert len(procfs.children(child.pid)) == 2
    assert child.pid in procfs.children_by_parent(os.getpid())
    end(child, 0)
    child.reap()
    close_pipes(child)


def test_orphans_are_known_also_where_the_kernel_lists_no_children_by_thread(start, spawner):
    pid = finished_with_daemon(start, job_tag("another", "fallback", 1))
    child = start("sleep", "600")
    own = os.getpid()
    reaper = spawner.children.reaper
    assert pid in reaper.reparented()
    assert child.pid not in reaper.reparented()
    assert sorted(reaper._reparented_by_parent(own)) == sorted(procfs.children_by_parent(own))
    reaper.begin_start()
    assert reaper._reparented_by_parent(own) == []
    reaper.end_start()
    os.kill(pid, 9)
    wait_until(lambda: state_of(pid) == "Z", what="the zombie")
    reaper.reap_reparented(pid)
    end(child, 0)
    child.reap()
    close_pipes(child)


def test_a_session_counts_only_while_it_is_certain_whose_it_is(start):
    """Somebody else's session may get the number of a leader that is gone."""
    leader = start(
        "sh", "-c", "env -i sleep 600 & env -i setsid sleep 600 & echo ready; wait", tag=job_tag("i", "s", 1)
    )
    read_some(leader)
    below = procfs.descendants([leader.pid])
    wait_until(lambda: [read_tag(pid) for pid in below] == [None, None], what="the programs without an environment")
    found = find_by_session({leader.pid: leader.start_ticks})[leader.pid]
    assert sorted(orphan.pid for orphan in found) == sorted(below), "the tagged leader is found by its tag"
    assert find_by_session({leader.pid: leader.start_ticks - 1}) == {}, "another process had this number"
    os.kill(leader.pid, 9)
    leader.wait(60)
    leader.reap()
    assert find_by_session({leader.pid: leader.start_ticks}) == {}
    for orphan in found:
        assert end_orphan(orphan, 1)
