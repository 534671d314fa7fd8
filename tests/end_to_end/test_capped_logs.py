"""A cap that takes lines from a controller that is away: counted, in the job's log, on stderr, in the figures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.request import urlopen

from tests.support.agents import StartAgent
from tests.support.commands import shell
from tests.support.metrics import listening
from tests.support.ports import reserve_port
from tests.support.recording_controller import RecordingController, status
from tests.support.waiting import wait_until

LINES = 60_000


def test_every_line_of_a_job_is_delivered_or_counted(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    port = reserve_port()
    agent = start_agent(logging="max_db_size = 1048576\nmax_dbs = 1", more=listening(port))
    controller.misbehave("log", status(503), times=None)
    gate = tmp_path / "gate"
    controller.push(
        shell("chatty", f"seq -f '%06.0f {'x' * 70}' 1 {LINES} >&2; until [ -e {gate} ]; do sleep 0.05; done")
    )
    last = f"{LINES:06} {'x' * 70}"
    wait_until(lambda: (line := agent.newest("chatty", 2)) and line.data == last, 60, "the last line")
    controller.behave()
    wait_until(lambda: controller.logs and controller.logs[-1]["data"] == last, 60, "the last line to arrive")
    with urlopen(f"http://127.0.0.1:{port}/status", timeout=60) as answer:
        dropped = json.load(answer)["logs"]["dropped"]
    gate.touch()
    assert controller.wait_for_result("chatty")["state"] == "SUCCESS"
    arrived = [int(record["data"][:6]) for record in controller.logs if record["jobid"] == "chatty"]
    assert arrived == sorted(set(arrived)), "in order"
    assert dropped > 10_000
    assert len(arrived) + dropped == LINES
    told = f"; {dropped} of its lines were dropped by now"
    wait_until(lambda: (note := agent.newest("chatty", 7)) and told in note.data, what="the last note")

    def said() -> int:
        return sum(map(int, re.findall(r"max_dbs = 1 with (\d+) lines not yet sent to ac/main", agent.stderr)))

    wait_until(lambda: said() >= dropped, what="all of it to be said")
    assert said() == dropped
