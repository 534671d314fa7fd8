"""Ctrl-C while ``greenagent-ctl`` runs a job, and before it has begun."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import pytest

from tests.support.closed_streams import without
from tests.support.ctl import (
    AnsweringAgent,
    Ctl,
    kill_aware,
    looks,
    on_node,
)
from tests.support.programs import ROOT
from tests.support.waiting import wait_until


def test_ctrl_c_kills_when_not_on_a_terminal(controller, answering) -> None:
    answering(controller, kill_aware)
    running = Ctl("--url", controller.url, *on_node("--id", "x", "--", "job"))
    wait_until(lambda: "x" in [job["id"] for job in controller.get("jobs")["jobs"]])
    wait_until(lambda: controller.state("x") == "RUNNING")
    wait_until(lambda: looks(controller, "x"), what="it to follow the job")
    os.kill(running.process.pid, signal.SIGINT)
    done = running.done()
    assert done.code == 137
    assert controller.state("x") == "KILLED"


@pytest.mark.parametrize(
    ("answer", "code", "state"),
    [
        ("l\n", 130, "RUNNING"),
        ("leave\n", 130, "RUNNING"),
        ("\n", 130, "RUNNING"),
        ("\x04", 130, "RUNNING"),
        ("what?\nkeep it\nl\n", 130, "RUNNING"),
        ("k\n", 137, "KILLED"),
        ("?\nkill\n", 137, "KILLED"),
    ],
    ids=["leave", "leave in full", "default", "end of input", "asked again", "kill", "kill in full"],
)
def test_ctrl_c_asks_on_a_terminal(controller, answering, answer, code, state) -> None:
    answering(controller, kill_aware)
    master, slave = pty.openpty()
    running = Ctl("--url", controller.url, *on_node("--id", "x", "--", "job"), stdin=slave, stderr=slave)
    wait_until(lambda: "x" in [job["id"] for job in controller.get("jobs")["jobs"]])
    wait_until(lambda: controller.state("x") == "RUNNING")
    wait_until(lambda: looks(controller, "x"), what="it to follow the job")
    os.kill(running.process.pid, signal.SIGINT)
    os.set_blocking(master, False)
    screen = bytearray()

    def asked() -> bool:
        try:
            screen.extend(os.read(master, 4096))
        except BlockingIOError:
            pass
        return b"eave it running? (default: l)" in screen

    wait_until(asked, what="the question")
    os.write(master, answer.encode())
    assert running.done().code == code
    assert controller.state("x") == state
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize("stream", [0, 2], ids=["stdin", "stderr"])
def test_ctrl_c_kills_where_the_stream_to_ask_on_is_closed(controller, tmp_path, stream) -> None:
    agent = AnsweringAgent(controller, kill_aware)
    command = without((stream,), "ctl", "--url", controller.url, *on_node("--id", "x", "--", "job"))
    with (tmp_path / "err").open("wb") as err:
        running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=err, stderr=err, cwd=ROOT)
    try:
        wait_until(lambda: "x" in [job["id"] for job in controller.get("jobs")["jobs"]])
        wait_until(lambda: controller.state("x") == "RUNNING")
        wait_until(lambda: looks(controller, "x"), what="it to follow the job")
        os.kill(running.pid, signal.SIGINT)
        wait_until(lambda: running.poll() is not None, what="its end")
    finally:
        running.kill()
        agent.stop()
    assert (running.poll(), controller.state("x")) == (137, "KILLED"), (tmp_path / "err").read_text()


def test_ctl_needs_no_gevent() -> None:
    code = "import sys, greenagent.cli.ctl.main; sys.exit('gevent' in sys.modules or 'falcon' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
