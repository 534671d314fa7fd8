"""Standard streams that are closed (``<&-``, ``>&-``, ``2>&-``) for every program."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.closed_streams import done_without, without
from tests.support.programs import PROGRAMS, ROOT
from tests.support.waiting import wait_until


@pytest.mark.parametrize("option", ["--help", "--version"])
@pytest.mark.parametrize("module", PROGRAMS)
def test_without_a_stdout_there_is_one_line_and_an_exit_code(tmp_path, module, option) -> None:
    done = done_without(tmp_path, (1,), module, option)
    code = 125 if module == "ctl" else 1
    assert done == (code, "", f"{PROGRAMS[module]}: cannot write the output: stdout is closed\n")
    assert done_without(tmp_path, (0, 1, 2), module, option) == (code, "", "")


@pytest.mark.parametrize("module", ["ctl", "logs", "agent", "controller"])
def test_without_a_stderr_errors_do_not_go_to_stdout(tmp_path, module) -> None:
    assert done_without(tmp_path, (2,), module, "--nonsense") == (125 if module == "ctl" else 2, "", "")
    assert done_without(tmp_path, (0, 2), module, "--version")[0::2] == (0, "")


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
        env={**os.environ, "PYTHONPATH": str(ROOT)},
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
