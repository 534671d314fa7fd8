"""Standard streams that are closed (``<&-``, ``>&-``, ``2>&-``) for every console entry point."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.controller.ctl import REPOSITORY, AnsweringAgent, Ctl, Done
from tests.controller.support import Agent
from tests.controller.test_ctl import kill_aware, on_node
from tests.support.waiting import wait_until

CLOSED = {0: "<&-", 1: ">&-", 2: "2>&-"}
TOOLS = {
    "agent": "greenagent",
    "logs": "greenagent-logs",
    "controller": "greenagent-controller",
    "ctl": "greenagent-ctl",
}


def without(streams: tuple[int, ...], module: str, *arguments: str) -> list[str]:
    """The command of an entry point that is started without some of its streams."""
    closing = " ".join(CLOSED[one] for one in streams)
    return ["/bin/sh", "-c", f'exec "$@" {closing}', "sh", sys.executable, "-m", f"greenagent.cli.{module}", *arguments]


def done_without(folder: Path, streams: tuple[int, ...], module: str, *arguments: str) -> Done:
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            without(streams, module, *arguments), stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=REPOSITORY
        )
    wait_until(lambda: process.poll() is not None, what=f"{module} to end")
    return Done(process.returncode, (folder / "out").read_text(), (folder / "err").read_text())


@pytest.mark.parametrize("option", ["--help", "--version"])
@pytest.mark.parametrize("module", TOOLS)
def test_without_a_stdout_there_is_one_line_and_1(tmp_path, module, option) -> None:
    done = done_without(tmp_path, (1,), module, option)
    assert done == (1, "", f"{TOOLS[module]}: cannot write the output: stdout is closed\n")
    assert done_without(tmp_path, (0, 1, 2), module, option) == (1, "", "")


def test_no_command_of_ctl_is_sent_whose_output_has_no_place(controller, tmp_path) -> None:
    run = on_node("--id", "x", "--wait-for-agent", "60", "--", "true")
    for arguments in (("agents",), ("jobs", "--json"), run):
        done = done_without(tmp_path, (1,), "ctl", "--url", controller.url, *arguments)
        assert done == (1, "", "greenagent-ctl: cannot write the output: stdout is closed\n")
    assert controller.get("jobs")["jobs"] == []


@pytest.mark.parametrize("module", ["ctl", "logs", "agent", "controller"])
def test_without_a_stderr_errors_do_not_go_to_stdout(tmp_path, module) -> None:
    assert done_without(tmp_path, (2,), module, "--nonsense") == (2, "", "")
    assert done_without(tmp_path, (0, 2), module, "--version")[0::2] == (0, "")


def test_what_a_job_says_on_stderr_does_not_go_to_stdout(controller, tmp_path) -> None:
    def answer(agent: Agent, command: dict[str, Any]) -> None:
        agent.finish(command["id"], exit_code=0, streams=["to stdout\n", "to stderr\n"])

    agent = AnsweringAgent(controller, answer)
    try:
        done = done_without(tmp_path, (2,), "ctl", "--url", controller.url, *on_node("--", "job"))
    finally:
        agent.stop()
    assert done == (0, "to stdout\n", "")


@pytest.mark.parametrize("stream", [0, 2], ids=["stdin", "stderr"])
def test_ctrl_c_kills_where_the_stream_to_ask_on_is_closed(controller, tmp_path, stream) -> None:
    agent = AnsweringAgent(controller, kill_aware)
    asked = []
    lines = controller.services.lines
    read = lines.read
    lines.read = lambda *arguments: asked.append(arguments) or read(*arguments)
    command = without((stream,), "ctl", "--url", controller.url, *on_node("--id", "x", "--", "job"))
    with (tmp_path / "err").open("wb") as err:
        running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=err, stderr=err, cwd=REPOSITORY)
    try:
        wait_until(lambda: "x" in [job["id"] for job in controller.get("jobs")["jobs"]])
        wait_until(lambda: controller.state("x") == "RUNNING")
        wait_until(lambda: asked, what="it to ask for lines")
        os.kill(running.pid, signal.SIGINT)
        wait_until(lambda: running.poll() is not None, what="its end")
    finally:
        running.kill()
        agent.stop()
    assert (running.poll(), controller.state("x")) == (137, "KILLED"), (tmp_path / "err").read_text()


def test_data_from_a_stdin_that_cannot_be_read_is_refused(controller, tmp_path) -> None:
    arguments = ("--url", controller.url, *on_node("--wait-for-agent", "60", "--data", "-", "--", "cat"))
    done = done_without(tmp_path, (0,), "ctl", *arguments)
    assert done == (2, "", "greenagent-ctl: --data -: stdin is closed\n")
    with open(os.devnull, "wb") as only_written:
        done = Ctl(*arguments, stdin=only_written).done()
    assert done == (2, "", "greenagent-ctl: --data -: stdin cannot be read: Bad file descriptor\n")
    assert controller.get("jobs")["jobs"] == []


AGENT = """
[main]
gid = 1
nid = 10
message_id_file = "./mid"
history_file = "./history"

[controllers.main]
url = "http://127.0.0.1:1"

[logging.db]
type = "DB"
log_dir = "./logs"
"""


@pytest.mark.parametrize("streams", [(2,), (1, 2), (0, 1, 2), (0, 2)], ids=str)
@pytest.mark.parametrize("module", ["agent", "controller"])
def test_nothing_that_is_opened_takes_the_place_of_a_stream(tmp_path, module, streams) -> None:
    """What the agent and the controller have to say is written to descriptor 2, whatever that is."""
    if module == "agent":
        (tmp_path / "agent.toml").write_text(AGENT)
        arguments = ["-c", str(tmp_path / "agent.toml"), "--pid-file", str(tmp_path / "pid")]
    else:
        arguments = ["--listen", "127.0.0.1:0", "--state", str(tmp_path / "state.db")]
    process = subprocess.Popen(
        without(streams, module, *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )

    def is_up() -> bool:
        assert process.poll() is None
        return (tmp_path / "pid").exists() if module == "agent" else listens(process.pid)

    try:
        wait_until(is_up, what=f"the {module}")
        places = [place_of(process.pid, one) for one in "012"]
        assert places == [os.devnull] * 3
    finally:
        os.kill(process.pid, signal.SIGTERM)
        wait_until(lambda: process.poll() is not None, what="its end")
    assert process.poll() == 0


def listens(pid: int) -> bool:
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {f"socket:[{inode}]" for _, _, _, state, _, _, _, _, _, inode, *_ in table if state == "0A"}
    return any(place_of(pid, one) in listening for one in os.listdir(f"/proc/{pid}/fd"))


def place_of(pid: int, descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{descriptor}")
    except FileNotFoundError:
        return ""  # closed meanwhile
