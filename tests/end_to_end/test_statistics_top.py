"""From a job's output to ``greenagent-ctl top``: real agent, real controller, real command."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents import StartAgent, configuration
from tests.support.commands import built_in, shell
from tests.support.controllers import ControllerProcess
from tests.support.ctl import ctl
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

CHATTY = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.02; done"


def every_second(folder: Path, url: str, layout: str = "seed", **more: Any) -> str:
    return configuration(folder, {"main": url}, stats=f'interval = 1\nkey_layout = "{layout}"', **more)


@pytest.mark.parametrize("layout", ["seed", "later"])
def test_top_shows_agents_and_jobs_with_what_they_use(tmp_path: Path, start_agent: StartAgent, layout: str) -> None:
    with ControllerProcess(tmp_path) as controller:
        start_agent(text=every_second(tmp_path, controller.url, layout), folder=tmp_path)
        wait_until(
            lambda: "live" in ctl(controller.url, "agents").out, what="the agent to be live", interval=0.2, timeout=20
        )
        run = ["run", "--gid", "1", "--nid", "10", "--domain", "my.web", "--detach", "--id", "chatty", "--", "sh", "-c"]
        done = ctl(controller.url, *run, CHATTY)
        assert done.code == 0, done
        picture: dict[str, Any] = {}

        def is_complete() -> bool:
            picture.update(json.loads(ctl(controller.url, "top", "--once", "--json").out))
            if not picture["jobs"]:
                return False
            agent, job = picture["agents"][0], picture["jobs"][0]
            known = agent["cpu"] is not None and job["cpu"] is not None and agent["jobs_running"] == 1
            return known and bool(job["lines_per_second"] and job["rss"] and agent["lines_per_second"] and agent["rss"])

        wait_until(is_complete, 25, "figures of a whole interval", interval=0.2)
        (agent,) = picture["agents"]
        (job,) = picture["jobs"]
        assert (agent["gid"], agent["nid"], agent["live"]) == (1, 10, True)
        assert agent["rss"] > 10_000_000
        assert (job["gid"], job["nid"], job["domain"], job["name"]) == (1, 10, "my_web", "sh")
        # No upper bound: the interval behind a late one is short, and the lines of both may fall into it.
        assert job["lines_per_second"] > 0
        assert job["rss"] > 500_000

        def is_shown() -> bool:
            text = ctl(controller.url, "top", "--once").out
            return "my_web" in text and "MiB" in text

        wait_until(is_shown, what="both to be shown", interval=0.2)


def arrivals(controller: RecordingController) -> dict[str, list[tuple[float, int, float]]]:
    """(monotonic time of arrival, stamp, value) of every key that was accepted."""
    found: dict[str, list[tuple[float, int, float]]] = defaultdict(list)
    for post in controller.posts:
        if post.endpoint == "stats":
            for item in post.value:
                for key, value in item["series"]:
                    found[key].append((post.at, item["timestamp"], value))
    return found


def total(controller: RecordingController, key: str) -> float:
    return sum(value for _, _, value in arrivals(controller)[key])


def test_lines_are_counted_per_series_and_interval(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    start_agent(text=every_second(tmp_path, controller.url), folder=tmp_path)
    controller.push(shell("a", "seq 1 1000; seq 1 500 >&2; sleep 1.2; echo 2::last", domain="d"))
    controller.wait_for_result("a")
    wait_until(lambda: total(controller, "1.10.d.sh.lines") == 1501, what="all lines to be counted")
    # How long the intervals were nobody knows: on a busy machine one is late by seconds, and the next one short.
    assert total(controller, "1.10.d.sh.lines_per_second") > 0


def test_figures_go_out_with_their_interval_and_not_one_later(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    interval = 3
    text = every_second(tmp_path, controller.url).replace("interval = 1\n", f"interval = {interval}\n")
    start_agent(text=text, folder=tmp_path)
    offset = time.time() - time.monotonic()
    key = "1.10.greenagent.agent.jobs_running"

    def is_timely() -> bool:
        """One is, of three or more: a busy machine may hold up some, but what waits for another interval is never."""
        late = [at + offset - (stamp + interval) for at, stamp, _ in arrivals(controller)[key]]
        return len(late) >= 3 and min(late) < interval

    wait_until(is_timely, 20, "two whole intervals, and figures that did not wait for another one")
    first = arrivals(controller)[key][0][1]
    for _, stamp, _ in arrivals(controller)[key]:
        # The first begins with the agent; begun in an interval's last second, it takes the next one's stamp.
        assert stamp % interval == 0 or stamp <= first + 1


INTAKE = """
import os, socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.connect((os.environ["STATSD_HOST"], int(os.environ["STATSD_PORT"])))
    for _ in range(50):
        sender.send(b"sent:2|c")
    sender.send(b"odd:1|zz")
    sender.send(b"odd:2|zz")
"""


def test_a_job_sends_to_its_own_port(controller: RecordingController, start_agent: StartAgent, tmp_path: Path) -> None:
    text = every_second(tmp_path, controller.url).replace("[stats]", "[stats]\nlocal_intake = true")
    agent = start_agent(text=text, folder=tmp_path)
    program = tmp_path / "client.py"
    program.write_text(INTAKE)
    command = shell("one", f"python3 {program}; echo $STATSD_PORT", domain="d", max_restart=0)
    controller.push(command)
    controller.push(shell("two", "echo $STATSD_HOST:$STATSD_PORT; echo '10::sent:1|c'", domain="other"))
    one = controller.wait_for_result("one")
    two = controller.wait_for_result("two")
    assert (one["state"], two["state"]) == ("SUCCESS", "SUCCESS")
    assert two["streams"][0].startswith("127.0.0.1:")
    wait_until(lambda: total(controller, "1.10.d.sh.sent") == 100, what="what was sent")
    wait_until(lambda: total(controller, "1.10.other.sh.sent") == 1, what="what the other sent")
    wait_until(lambda: len(agent.rows("jobid = 'one' AND level = 7")) >= 2, what="the warnings to be stored")
    warnings = [data for _, _, _, data in agent.rows("jobid = 'one' AND level = 7")]
    assert len(warnings) == 2, warnings
    assert "statistics line refused: 'odd:1|zz'" in warnings[0]
    assert "2 statistics lines were refused in all" in warnings[1]


def test_without_the_setting_there_is_no_port(controller: RecordingController, start_agent: StartAgent) -> None:
    start_agent()
    controller.push(shell("one", "echo port:$STATSD_PORT"))
    assert controller.wait_for_result("one")["streams"][0] == "port:\n"


STARTUP = """
[startup.watcher]
name = "execute"
args = { name = "sh", args = ["-c", "echo '10::started:7|c'"], domain = "boot" }
"""


def test_the_statistics_of_startup_tasks_are_sent(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    start_agent(text=every_second(tmp_path, controller.url, more=STARTUP), folder=tmp_path)
    wait_until(lambda: total(controller, "1.10.boot.sh.started") == 7, what="the startup task's count")
    assert not controller.results


def test_the_agents_own_figures_are_sent(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    start_agent(text=every_second(tmp_path, controller.url), folder=tmp_path)
    controller.push(built_in("p", "ping"))
    controller.push(shell("bad", "exit 1"))
    controller.wait_for_result("p")
    controller.wait_for_result("bad")
    own = "1.10.greenagent.agent."
    wait_until(
        lambda: (
            total(controller, own + "jobs_done.SUCCESS") == 1
            and total(controller, own + "jobs_done.ERROR") == 1
            and total(controller, own + "results_sent.main") == 2
        ),
        what="what was done",
    )
    # They go out with each interval, but not all in one request.
    for key in (
        "jobs_running",
        "jobs_waiting",
        "lines_read",
        "bytes_read",
        "log_lines",
        "log_bytes",
        "log_batches",
        "log_lines_dropped",
        "log_queue_bytes",
        "log_lines_waiting.main.ac",
        "results_waiting.main",
        "statistics_waiting.main",
        "statistics_backlog_bytes",
        "polls.main",
        "poll_errors.main",
        "last_contact_seconds.main",
        "controller_trouble.main",
        "hub_stall_seconds",
        "hub_stall_worst_seconds",
        "agent_cpu_percent",
        "agent_resident_bytes",
        "uptime_seconds",
    ):
        wait_until(lambda key=key: arrivals(controller)[own + key], what=key)
