"""More jobs than a node can take: those that wait are written down, the rest is refused, memory stays bounded."""

from __future__ import annotations

from pathlib import Path

from greenagent.jobs.job import MAX_WAITING_BYTES
from tests.support.agents import StartAgent
from tests.support.commands import built_in, shell
from tests.support.packages import change_package, copy_package
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


def test_beyond_the_limit_jobs_are_refused_and_others_wait(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    """A few large commands reach the same limit as a hundred thousand small ones, and sooner.

    With a tenth of the limit, and commands as much smaller: to move 400 MB about shows no more.
    """
    package = copy_package(tmp_path / "installed")
    limit = "MAX_WAITING_BYTES: Final = {} * 1024 * 1024"
    assert MAX_WAITING_BYTES == 384 * 1024 * 1024
    change_package(package, "jobs/job.py", limit.format(384), limit.format(38))
    agent = start_agent(max_jobs=1, python_path=str(package))
    up, gate = tmp_path / "up", tmp_path / "gate"
    controller.push(shell("first", f"touch {up}; while [ ! -e {gate} ]; do sleep 0.05; done"))
    wait_until(up.exists, what="the running job")
    size = 3_000_000
    for number in range(15):
        controller.push({**shell(f"large{number}", "wc -c"), "data": "x" * size})
    controller.push(built_in("p", "ping"))
    assert controller.wait_for_result("p", 60)["data"] == '"pong"'
    refused = controller.wait_for_result("large14", 60)
    assert sorted(result["id"] for result in controller.results) == ["large14", "p"]
    assert refused["state"] == "ERROR"
    assert "too many jobs wait" in refused["data"]
    gate.touch()
    for number in range(14):
        assert controller.wait_for_result(f"large{number}", 60)["streams"][0].strip() == str(size)
    controller.push(shell("after", "echo fine"))
    assert controller.wait_for_result("after")["streams"] == ["fine\n", ""]
    assert "Traceback" not in agent.stderr
