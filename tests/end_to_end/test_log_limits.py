"""What the configuration allows the logs to take: of one job, of the disk, of time."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from greenagent.logs.folder import LogFolder
from greenagent.logs.read.query import LogQuery, newest_first
from tests.support.agents import AgentProcess, StartAgent
from tests.support.commands import execute, shell
from tests.support.recording_controller import RecordingController, status
from tests.support.waiting import wait_until

FILL = "for number in range({0}): print(f'{{number:06}}', 'x' * 80)"


def archives(agent: AgentProcess) -> list[Path]:
    return LogFolder(agent.folder / "logs").archives()


def has_line(agent: AgentProcess, text: str) -> bool:
    """Read as people's tools do, whatever is being rotated."""
    query = LogQuery(jobid="job", text=text, limit=1)
    return next(newest_first(LogFolder(agent.folder / "logs"), query), None) is not None


def in_other_lines(agent: AgentProcess, jobid: str) -> int:
    """How many lines the notes in a job's log say were not stored."""
    notes = [data for _, _, _, data in agent.rows("jobid = ? AND level = 7", jobid)]
    found = [re.match(r"(\d+) lines of this job were not stored: it passed max_log_per_job", note) for note in notes]
    return sum(int(match[1]) for match in found if match)


def test_a_job_may_log_so_much_however_often_the_agent_is_replaced(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent(main="max_log_per_job = 2000")
    gate = tmp_path / "gate"
    controller.push(
        shell("job", f"i=0; until [ -e {gate} ]; do i=$((i+1)); echo line $i; sleep 0.002; done; echo 20::$i")
    )
    controller.push(shell("below", f"echo {'x' * 900}; until [ -e {gate} ]; do sleep 0.02; done; echo {'y' * 1200}"))
    wait_until(lambda: agent.rows("jobid = 'below'"), what="the first line")
    for times in (2, 3, 4):
        before = in_other_lines(agent, "job")
        os.kill(agent.pid, signal.SIGUSR2)
        wait_until(lambda times=times: agent.stderr.count("is ready") == times, 30, "the new image")  # type: ignore[misc]
        wait_until(lambda before=before: in_other_lines(agent, "job") > before, 20, "the cap to be said")  # type: ignore[misc]
    gate.touch()
    printed = int(controller.wait_for_result("job")["data"])
    controller.wait_for_result("below")
    assert agent.stop() == 0
    kept = [data for _, _, _, data in agent.rows("jobid = 'job' AND level = 1")]
    assert kept == [f"line {number + 1}" for number in range(len(kept))]
    assert 1900 < sum(map(len, kept)) <= 2000
    # The result itself is a line as well, and past the cap.
    assert len(kept) + in_other_lines(agent, "job") == printed + 1
    assert [data[0] for _, _, level, data in agent.rows("jobid = 'below'") if level == 1] == ["x"]
    assert in_other_lines(agent, "below") == 1


def test_old_databases_go_when_they_are_older_than_max_age(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent(logging="max_db_size = 1048576\nmax_age = 2")
    first = (agent.folder / "logs" / "current.db").resolve(strict=True)
    controller.push(execute("job", "python3", "-c", FILL.format(30_000)))
    controller.wait_for_result("job")
    wait_until(lambda: has_line(agent, "029999 "), what="the last line")
    wait_until(lambda: not first.exists() and not archives(agent), 20, "the archives to go")
    assert has_line(agent, "029999 "), "the newest stays"


def test_delivered_databases_go_while_the_disk_has_less_than_min_free(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    """Never one that a controller waits for, and never the one that is written."""
    agent = start_agent(logging=f"max_db_size = 1048576\nmin_free = {1 << 50}")
    controller.misbehave("log", status(503), times=None)
    controller.push(execute("wanted", "python3", "-c", FILL.format(20_000), loglevels_ac="1"))
    controller.wait_for_result("wanted")
    wait_until(lambda: any(post.endpoint == "log" for post in controller.refused_posts), what="an upload")
    wait_until(lambda: len(archives(agent)) >= 2, what="archives")
    kept = archives(agent)
    controller.push(execute("job", "python3", "-c", FILL.format(20_000)))
    controller.wait_for_result("job")
    wait_until(lambda: has_line(agent, "019999 "), what="the last line")
    assert all(path.exists() for path in kept), "the controller has not got them"
    controller.behave()
    wait_until(lambda: not archives(agent), 40, "the archives to go")
    sent = [int(record["data"][:6]) for record in controller.logs if record["jobid"] == "wanted"]
    assert sent == list(range(20_000))
    assert has_line(agent, "019999 "), "the newest stays"
    agent.await_said("less than min_free")
    assert agent.stderr.count("less than min_free") == 1
