"""What a real agent serves on ``[metrics] listen``: figures, health with the reason, status."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from tests.support.agents import StartAgent
from tests.support.commands import built_in, shell
from tests.support.inside import InsideAgent
from tests.support.metrics import get, listening, samples
from tests.support.ports import reserve_port
from tests.support.recording_controller import RecordingController, status
from tests.support.waiting import wait_until

MAIN = ("controller", "main")


def test_the_figures_of_a_running_agent_are_read_by_the_official_parser(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    port = reserve_port()
    start_agent(more=listening(port))
    controller.push(shell("good", "echo one; echo two; echo '10::hits:3|c'", domain="web"))
    controller.push(shell("bad", "exit 3", domain="web"))
    controller.push(shell("long", "echo '2::up' >&2; exec sleep 1000", domain="web"))
    controller.wait_for_result("good")
    controller.wait_for_result("bad")
    job = (("cmd", ""), ("domain", "web"))
    name = ("name", "sh")
    found = wait_until(
        lambda: (
            (read := samples(port)).get(("greenagent_jobs_running",)) == 1
            and read.get(("greenagent_job_lines_total", *job, name)) == 4
            and read[("greenagent_results_sent_total", MAIN)] == 2
            and read[("greenagent_log_lines_waiting", MAIN, ("logger", "ac"))] == 0
            and read[("greenagent_polls_total", MAIN)] >= 3
            and read[("greenagent_log_batches_total",)] > 0
            and read.get(("greenagent_job_counter_total", *job, ("key", "hits"), name)) == 3
            and read.get(("greenagent_job_rss_bytes", *job, name), 0) > 100_000
            and read
        ),
        what="the figures of three jobs",
    )
    assert found[("greenagent_jobs_waiting",)] == 0
    assert found[("greenagent_jobs_done_total", ("state", "SUCCESS"))] == 1
    assert found[("greenagent_jobs_done_total", ("state", "ERROR"))] == 1
    assert found[("greenagent_jobs_done_total", ("state", "TIMEOUT"))] == 0
    assert found[("greenagent_lines_read_total",)] == 4
    assert found[("greenagent_bytes_read_total",)] == len("one\ntwo\n10::hits:3|c\n2::up\n")
    assert found[("greenagent_log_lines_total",)] >= 4
    assert found[("greenagent_log_bytes_total",)] > 0
    assert found[("greenagent_log_lines_dropped_total",)] == 0
    assert ("greenagent_log_queue_bytes",) in found
    assert found[("greenagent_poll_errors_total", MAIN)] == 0
    assert 0 <= found[("greenagent_last_contact_seconds", MAIN)] < 600
    assert found[("greenagent_controller_trouble", MAIN)] == 0
    assert found[("greenagent_results_waiting", MAIN)] == 0
    assert ("greenagent_statistics_waiting", MAIN) in found
    assert found[("greenagent_hub_stall_worst_seconds",)] < 600
    assert found[("greenagent_agent_resident_bytes",)] > 10_000_000


def test_a_controller_that_is_away_shows_in_the_figures_and_not_in_the_health(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    """The agent does its work; what it cannot deliver is counted and kept."""
    port = reserve_port()
    start_agent(more=listening(port))
    controller.wait_for_poll()
    controller.misbehave("result", status(503))
    controller.push(shell("one", "true"))
    wait_until(
        lambda: (
            (read := samples(port))[("greenagent_results_waiting", MAIN)] == 1
            and read[("greenagent_result_errors_total", MAIN)] >= 1
            and read[("greenagent_controller_trouble", MAIN)] == 1
        ),
        what="a result that waits",
    )
    assert get(port, "/healthz") == (200, "ok\n")

    def problem() -> str:
        return json.loads(get(port, "/status")[1])["controllers"]["main"]["problem"] or ""

    wait_until(lambda: "503" in problem(), what="the reason")
    controller.behave()
    controller.wait_for_result("one", 40)


def test_status_tells_people_what_the_agent_does(controller: RecordingController, start_agent: StartAgent) -> None:
    port = reserve_port()
    agent = start_agent(more=listening(port), max_jobs=1, roles=["web"])
    controller.push(shell("first", "echo out; echo more; exec sleep 1000"))
    controller.push(shell("second", "true"))
    wait_until(lambda: len(json.loads(get(port, "/status")[1])["jobs"]["live"]) == 2, what="both jobs")
    shown = wait_until(
        lambda: (
            (read := json.loads(get(port, "/status")[1]))["jobs"]["live"][0]["pid"]
            and read["controllers"]["main"]["polling"] == "polling"
            and read["jobs"]["lines_read"] == 2
            and read
        ),
        what="a process, its output and a poll",
    )
    assert (shown["gid"], shown["nid"], shown["roles"], shown["pid"]) == (1, 10, ["web"], agent.pid)
    assert (shown["healthy"], shown["problem"]) == (True, None)
    assert (shown["jobs"]["running"], shown["jobs"]["waiting"]) == (1, 1)
    assert shown["jobs"]["bytes_read"] == len("out\nmore\n")
    first, second = shown["jobs"]["live"]
    assert (first["id"], first["cmd"], first["controller"], first["state"], first["run"]) == (
        "first",
        "execute",
        "main",
        "running",
        1,
    )
    wait_until(lambda: Path(f"/proc/{first['pid']}/comm").read_text() == "sleep\n", what="the program")
    assert (second["id"], second["state"], second["pid"]) == ("second", "waiting", None)
    main = shown["controllers"]["main"]
    assert main["problem"] is None
    assert main["last_contact"] > 0
    assert main["log_lines_waiting"] == {"ac/main": 0}
    assert shown["logs"]["writable"]
    assert shown["logs"]["free_bytes"] > 0
    assert shown["ledger"]["writable"]
    assert shown["process"]["rss"] > 10_000_000


def test_an_agent_whose_port_is_taken_refuses_to_start_with_one_line(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    port = reserve_port()
    with socket.create_server(("127.0.0.1", port)):
        agent = start_agent(more=listening(port), wait=False)
        assert agent.wait() == 1
    (line,) = [line for line in agent.stderr.splitlines() if "error" in line]
    assert f"cannot start: [metrics] listen: cannot listen on 127.0.0.1:{port}: Address already in use" in line
    assert "Traceback" not in agent.stderr
    assert not controller.polls
    agent.start()  # nothing is left behind that would keep it from starting
    assert get(port, "/healthz") == (200, "ok\n")


def test_an_agent_that_stops_says_so(controller: RecordingController, start_agent: StartAgent) -> None:
    port = reserve_port()
    agent = start_agent(more=listening(port), kill_grace=600)
    up = agent.folder / "up"
    controller.push(shell("stubborn", f"trap '' TERM; touch {up}; while :; do sleep 0.1; done"))
    wait_until(up.exists, what="the job")
    os.kill(agent.pid, signal.SIGTERM)
    wait_until(lambda: get(port, "/healthz") == (503, "the agent is stopping\n"), what="the reason")
    os.kill(agent.pid, signal.SIGTERM)  # the job has no time left
    assert agent.wait() == 0


class Inside(InsideAgent):
    """Serves its health."""

    def health(self) -> tuple[int, str]:
        assert self.agent.monitoring.metrics_server is not None
        return get(self.agent.monitoring.metrics_server.port, "/healthz")


@pytest.fixture
def inside(tmp_path: Path, controller: RecordingController) -> Iterator[Inside]:
    inside = Inside(tmp_path, {"main": controller.url}, more=listening(0))
    inside.agent.start()
    controller.wait_for_poll()
    wait_until(lambda: inside.health() == (200, "ok\n"), what="health")
    yield inside
    inside.agent.stop()


@pytest.mark.parametrize(
    "name",
    [
        "poller of controller main",
        "results for controller main",
        "logs ac/main for controller main",
        "statistics for controller main",
        "meter",
        "statistics",
    ],
)
def test_health_names_what_is_dead(inside: Inside, name: str) -> None:
    inside.agent.supervisor.services[name].greenlet.kill()
    assert inside.health() == (503, f"{name} is not running\n")


def test_health_names_what_is_stuck(inside: Inside) -> None:
    service = inside.agent.supervisor.services["poller of controller main"]
    service.heartbeat.expect_within(-1, "a request")
    assert inside.health() == (503, "poller of controller main is stuck (a request)\n")


def test_a_dead_writer_is_in_the_health_and_ends_the_agent(inside: Inside, controller: RecordingController) -> None:
    thread = inside.agent.store.intake.thread
    assert thread is not None
    thread.put_now(lambda: inside.agent.store.writer.there_is_no_such_thing())  # type: ignore[attr-defined]
    wait_until(lambda: not thread.is_alive, what="the thread's end")
    code, reason = inside.health()
    assert code == 503
    assert reason.startswith("the thread 'log writer' has died: 'Writer' object has no attribute")
    watch = inside.agent.supervisor.services["watchdog"].function.__self__
    watch.check()
    with gevent.Timeout(60):
        assert inside.agent.requests.wait() == "exit"
    assert inside.agent.failure.startswith("the thread 'log writer' has died")
    inside.agent.stop()
    assert any("giving up: the thread 'log writer' has died" in line for line in inside.agent_log.lines)
    inside.agent.stop = lambda: None  # type: ignore[method-assign]


def test_a_killed_poller_is_started_again_by_the_watchdog(inside: Inside, controller: RecordingController) -> None:
    inside.agent.supervisor.services["poller of controller main"].greenlet.kill()
    watch = inside.agent.supervisor.services["watchdog"].function.__self__
    watch.check()
    wait_until(lambda: inside.health() == (200, "ok\n"), what="health again")
    controller.push(built_in("p", "ping"))
    assert controller.wait_for_result("p")["state"] == "SUCCESS"
    assert "watchdog: poller of controller main was found dead: it is started again" in inside.agent_log.lines


def test_every_figure_is_documented(controller: RecordingController, start_agent: StartAgent) -> None:
    port = reserve_port()
    start_agent(more=listening(port))
    controller.push(shell("one", "echo '10::a:1|c'; echo '10::b:1|zz'; exec sleep 1000"))
    wait_until(lambda: ("greenagent_statsd_lines_refused_total",) in samples(port), what="the job's lines")
    page = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text()
    names = {name for name, *_ in samples(port)}
    missing = [
        name
        for name in sorted(names)
        if f"`{name}`" not in page and f"`{name.removeprefix('greenagent_').removesuffix('_total')}`" not in page
    ]
    assert len(names) > 35
    assert missing == []
