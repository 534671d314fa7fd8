"""What jobs, agents and controllers send reaches no terminal as a control sequence, but where ``--raw`` asks for it."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
from typing import Any

import pytest

from tests.support.ctl import Lines, ctl, on_node
from tests.support.local_controller import Agent
from tests.support.processes import ROOT
from tests.support.programs import command
from tests.support.waiting import wait_until

HOSTILE = "ok\x1b[1A\x1b[2K\x1b]0;owned\x07\rFAKE \x9b31m \u202egnp.exe"
SHOWN = r"ok\x1b[1A\x1b[2K\x1b]0;owned\x07\rFAKE \x9b31m \u202egnp.exe"


def on_terminal(*arguments: str) -> str:
    """All that a program prints on a terminal that leaves line ends as they are."""
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    program = subprocess.Popen(command("ctl", *arguments), stdin=slave, stdout=slave, stderr=slave, cwd=ROOT)
    os.close(slave)
    printed = bytearray()

    def is_over() -> bool:
        try:
            printed.extend(os.read(master, 65536))
        except BlockingIOError:
            return False
        except OSError as error:
            return error.errno == errno.EIO  # the program, the last that had the terminal open, has ended
        return False

    wait_until(is_over, what="the end of the program")
    os.close(master)
    program.wait(60)
    return printed.decode().replace("\r\n", "\n")


def hostile(controller, answering) -> None:
    lines = Lines()

    def answer(agent: Agent, given: dict[str, Any]) -> None:
        if given["cmd"] == "kill":
            agent.finish(given["id"], state="ERROR", data=HOSTILE, exit_code=None)
            return
        lines.send(agent, given["id"], HOSTILE, f"two\n00:00:00 9:9  1 {HOSTILE}")
        lines.send(agent, given["id"], HOSTILE, level=2)
        streams = [f"{HOSTILE}\ntwo\n00:00:00 9:9  1 {HOSTILE}\n", f"{HOSTILE}\n"]
        agent.finish(given["id"], state="ERROR", exit_code=3, data=HOSTILE, critical=HOSTILE, streams=streams)

    answering(controller, answer)


@pytest.mark.parametrize(
    "arguments",
    [("logs", "x"), ("logs", "--follow", "x"), ("show", "x"), ("jobs",), ("agents",), ("top", "--once"), ("show", "y")],
    ids=" ".join,
)
def test_ctl_shows_control_sequences_as_escapes_on_a_terminal(controller, answering, arguments) -> None:
    hostile(controller, answering)
    printed = on_terminal("--url", controller.url, *on_node("--id", "x", "--name", HOSTILE, "--cmd", "job"))
    assert SHOWN in printed
    assert [line for line in printed.splitlines() if not line.isprintable()] == []
    printed = on_terminal("--url", controller.url, *arguments)
    assert [line for line in printed.splitlines() if not line.isprintable()] == []
    assert not any(line.startswith("00:00:00 9:9") for line in printed.splitlines())
    if arguments[-1] == "x":
        assert SHOWN in printed


def test_what_is_asked_for_raw_or_piped_is_as_the_job_printed_it(controller, answering) -> None:
    hostile(controller, answering)
    assert HOSTILE in ctl(controller.url, *on_node("--id", "x", "--", "job")).out
    for arguments in (("logs", "--raw", "x"), ("show", "--raw", "x")):
        assert HOSTILE in on_terminal("--url", controller.url, *arguments)
    assert HOSTILE in on_terminal("--url", controller.url, *on_node("--raw", "--", "job"))


def test_errors_of_a_controller_are_one_visible_line(controller) -> None:
    done = ctl(controller.url, "show", f"none{HOSTILE}")
    (line,) = done.err.splitlines()
    assert line.isprintable()
