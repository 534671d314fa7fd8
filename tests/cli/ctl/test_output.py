"""What becomes of ``greenagent-ctl`` when its output cannot be written."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.support.closed_streams import done_without
from tests.support.ctl import (
    Lines,
    on_node,
)
from tests.support.programs import ROOT, command
from tests.support.waiting import wait_until


def test_a_reader_that_goes_away_is_no_traceback(controller) -> None:
    for number in range(300):
        controller.submit(id=f"{number}-{'x' * 150}", gid=1, nid=10, wait_for_agent=60)
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        command("ctl", "--url", controller.url, "jobs", "--limit", "1000"),
        stdout=write,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    os.close(write)
    wait_until(lambda: process.poll() is not None, what="greenagent-ctl to end")
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.returncode == -13  # SIGPIPE: 141 in a shell, as of greenagent-logs and other tools


def test_a_run_whose_reader_goes_away_says_that_the_job_goes_on(controller, answering) -> None:
    lines = Lines()
    answering(controller, lambda agent, command: lines.send(agent, command["id"], "one"))
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        command("ctl", "--url", controller.url, *on_node("--id", "x", "--", "job")),
        stdout=write,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    os.close(write)
    wait_until(lambda: process.poll() is not None, what="greenagent-ctl to end")
    assert process.stderr is not None
    assert process.stderr.read() == b"greenagent-ctl: job x goes on; end it with: greenagent-ctl kill x\n"
    process.stderr.close()
    assert process.returncode == 125
    assert controller.state("x") == "RUNNING"


@pytest.mark.parametrize("arguments", [("jobs",), ("agents", "--json")], ids=" ".join)
def test_output_that_cannot_be_written_is_one_line(controller, arguments) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.Popen(
            command("ctl", "--url", controller.url, *arguments),
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
    wait_until(lambda: done.poll() is not None, what="greenagent-ctl to end")
    assert done.stderr is not None
    assert done.stderr.read() == b"greenagent-ctl: cannot write the output: No space left on device\n"
    done.stderr.close()
    assert done.returncode == 125


def test_no_command_of_ctl_is_sent_whose_output_has_no_place(controller, tmp_path) -> None:
    run = on_node("--id", "x", "--wait-for-agent", "60", "--", "true")
    for arguments in (("agents",), ("jobs", "--json"), run):
        done = done_without(tmp_path, (1,), "ctl", "--url", controller.url, *arguments)
        assert done == (125, "", "greenagent-ctl: cannot write the output: stdout is closed\n")
    assert controller.get("jobs")["jobs"] == []
