"""What a job can send at us must not make the agent deaf (promise 6)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.support.agents import StartAgent
from tests.support.commands import built_in, execute
from tests.support.job_lives import kill, running_pids, wait_for_words
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

SENDER = """
import os, socket, sys, time
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
target = (os.environ["STATSD_HOST"], int(os.environ["STATSD_PORT"]))
end = time.monotonic() + 1000
while time.monotonic() < end and not os.path.exists(sys.argv[1]):
    sender.sendto({datagram}, target)
"""


@pytest.mark.parametrize("line", ["k:1|c", "xxxxx"], ids=["counted", "refused"])
def test_a_job_that_floods_its_statsd_port_does_not_make_the_agent_deaf(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path, line: str
) -> None:
    agent = start_agent(stats="interval = 1\nlocal_intake = true")
    enough = tmp_path / "enough"
    script = tmp_path / "sender.py"
    script.write_text(SENDER.format(datagram=f'b"{line}\\n" * 9000'))
    controller.push(execute("flood", sys.executable, str(script), str(enough)))
    if line == "k:1|c":
        wait_until(lambda: controller.stats, 20, "the first of it")
    else:
        wait_until(lambda: agent.rows("jobid = 'flood' AND data LIKE '%refused%'"), 20, "the first of it")
    for number in range(20):
        controller.push(built_in(f"ping{number}", "ping"))
        controller.wait_for_result(f"ping{number}", 10)
    assert controller.results_of("flood") == []
    controller.push(execute("limited", "sleep", "1000", max_time=1))
    assert controller.wait_for_result("limited", 15)["state"] == "TIMEOUT"
    enough.touch()
    assert controller.wait_for_result("flood", 20)["state"] == "SUCCESS"
    assert "stuck" not in agent.stderr


ANNOUNCING = """
import subprocess, sys
other = subprocess.Popen(["env", "-i", "setsid", "sleep", "1000"])
open(sys.argv[1], "w").write(f"{other.pid}\\n")
strangers = [int(text) for text in sys.argv[2:]]
def say(texts):
    sys.stdout.write("".join(f"101::{text}\\n" for text in texts))
for number in range(10):
    say(strangers * 4000)
    say(["rubbish", "\u00b2", other.pid] * 4000)
    say(range(1000000000 + number * 4000, 1000000000 + (number + 1) * 4000))
print("10::told:1|c", flush=True)
other.wait()
"""


def test_a_job_that_floods_us_with_announcements_does_not_make_the_agent_deaf_nor_fills_its_log(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent()
    pids = tmp_path / "pids"
    script = tmp_path / "announcing.py"
    script.write_text(ANNOUNCING, encoding="utf-8")
    controller.push(execute("flood", sys.executable, str(script), str(pids), str(os.getpid()), "1"))
    wait_for_words(pids, 1)
    for number in range(20):
        controller.push(built_in(f"ping{number}", "ping"))
        controller.wait_for_result(f"ping{number}", 5)
    wanted = {
        f"greenagent: process {os.getpid()} is not one of this job's and is left alone",
        "greenagent: 101::rubbish names no process and is left out",
    }
    wait_until(lambda: {data for *_, data in agent.rows("jobid = 'flood'")} >= wanted, what="what is said of them")
    kill(controller, "flood")
    assert controller.wait_for_result("flood", 20)["state"] == "KILLED"
    assert running_pids(pids) == []
    agent.stop()
    said = [data for _, _, level, data in agent.rows("jobid = 'flood'") if level == 7]
    assert set(said) >= wanted
    assert [text.partition(" ")[2] for text in said if "more 101::" in text] != []
    assert len(said) <= 12
    assert "internal error" not in agent.stderr
