"""What can only be seen from a process of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from greenagent.process.job_tree import job_tag
from greenagent.process.orphans import end_orphan, find_by_tag
from tests.support.processes import is_running, run_script

SCRIPTS = Path(__file__).parent / "scripts"


def test_nothing_forks_but_posix_spawn_and_sigchld_is_not_caught():
    ran = run_script(SCRIPTS / "audited.py")
    assert (ran.stdout, ran.stderr) == ("True [] False\n", "")


def test_a_filter_that_forbids_pidfds_is_named():
    ran = run_script(SCRIPTS / "filtered.py")
    assert ran.stderr == ""
    assert ran.stdout.startswith("cannot open a pidfd: Operation not permitted: ")
    assert "seccomp" in ran.stdout


@pytest.mark.parametrize(
    ("lack", "reason"),
    [
        ("descriptors", "too many open files"),
        ("processes", "no more processes are allowed here (limit of the user or the system)"),
    ],
)
def test_lack_of_descriptors_or_processes_is_temporary_and_leaves_nothing(lack, reason):
    ran = run_script(SCRIPTS / "starved.py", lack)
    assert (ran.stdout, ran.stderr) == (f"{{\"cannot start 'sh': {reason} (temporary: True)\"}}\n", "")


if os.geteuid() == 0:  # nobody else can give up the right to signal a child

    def test_a_child_that_will_not_die_is_named_and_does_not_hold_the_agent():
        ran = run_script(SCRIPTS / "powerless.py")
        assert ran.stdout.splitlines() == [
            "not permitted",
            "True [('sleep', 'not permitted')]",
            "() [('sleep', 'not permitted')]",
            "a job that is over left process PID (sleep) behind: it could not be ended (not permitted)",
            "a job that is over left process PID (sleep) behind: SIGTERM was sent",
        ]
        assert ran.stderr == ""


def test_agent_without_standard_streams_starts_children_all_the_same(tmp_path):
    run_script(SCRIPTS / "closed_streams.py", str(tmp_path / "seen"))
    assert (tmp_path / "seen").read_text() == repr(([b"in\n0\n1\n2\n3\n", b"err\n"], 0, True))


def test_orphan_of_a_killed_agent_is_found_and_ended():
    tag = job_tag("crashed", "job", 1)
    ran = run_script(SCRIPTS / "crashing.py", tag)
    assert ran.returncode == -9
    pid, start_ticks = map(int, ran.stdout.split())
    orphans = find_by_tag("crashed:")
    assert [(orphan.pid, orphan.start_ticks, orphan.tag) for orphan in orphans] == [(pid, start_ticks, tag)]
    assert end_orphan(orphans[0], 10)
    assert not is_running(pid)
    assert find_by_tag("crashed:") == []
