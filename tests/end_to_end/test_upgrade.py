"""The agent is replaced in place under running jobs: same pid, no line lost, nothing run twice."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from pathlib import Path

import pytest

from tests.support.agents import StartAgent
from tests.support.commands import built_in, execute, shell
from tests.support.recording_controller import RecordingController
from tests.support.upgrade import replace
from tests.support.waiting import wait_until

ROUNDS = int(os.environ.get("GREENAGENT_TEST_REPLACEMENTS", "2"))
COUNTER = """
import sys, time
number = 0
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    print(number, flush=True)
    if number % 10 == 0:
        print(number, file=sys.stderr, flush=True)
    number += 1
    time.sleep(0.001)
print(f"20::{number}", flush=True)
"""


def test_a_job_that_prints_every_millisecond_loses_no_line(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent()
    script = tmp_path / "counter.py"
    script.write_text(COUNTER)
    controller.push(execute("counter", "python3", str(script), str(1.0 + 1.2 * ROUNDS), loglevels_ac="2"))
    wait_until(lambda: agent.rows("jobid = 'counter'"), what="the first line")
    for round_number in range(ROUNDS):
        replace(agent, round_number + 1)
    assert agent.poll() is None
    result = controller.wait_for_result("counter", 60)
    count = int(result["data"])
    assert (result["state"], result["exit_code"]) == ("SUCCESS", 0)
    assert result["streams"][0].splitlines() == [str(number) for number in range(count)][-1000:]
    assert agent.stop() == 0
    rows = agent.rows("jobid = 'counter'")
    assert [int(data) for _, _, level, data in rows if level == 1] == list(range(count))
    assert [int(data) for _, _, level, data in rows if level == 2] == list(range(0, count, 10))
    ids = [row[0] for row in agent.rows()]
    assert ids == sorted(set(ids))
    sent = [int(record["data"]) for record in controller.logs if record["jobid"] == "counter"]
    assert sorted(set(sent)) == list(range(0, count, 10))
    assert controller.results_of("counter") == [result]
    assert "Traceback" not in agent.stderr


def test_everything_about_a_running_job_goes_on(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    """Unread stdin, an open multi-line message, a remembered result, children in other sessions, time limits."""
    agent = start_agent(max_jobs=4)
    up = tmp_path / "up"
    gate = tmp_path / "gate"
    wait = f"while [ ! -e {gate} ]; do sleep 0.02; done"
    controller.push(
        execute("input", "sh", "-c", f"touch {up}1; echo 9::bad; {wait}; cat | wc -c", data="x" * 3_000_000, queue="q")
    )
    controller.push(execute("behind", "echo", "next", queue="q"))
    controller.push(shell("open", f"echo 20:::first; touch {up}2; {wait}; echo second; echo :::; exit 4"))
    controller.push(shell("limited", f"setsid sleep 1000 & echo $! > {up}3; wait", max_time=8))
    controller.push(shell("killed", f"touch {up}4; exec sleep 1000"))
    controller.push(shell("waiting", "echo ran"))
    wait_until(lambda: all(Path(f"{up}{number}").exists() for number in (1, 2, 3, 4)), what="four running jobs")
    wait_until(lambda: controller.waiting_commands == 0, what="all commands handed out")
    replace(agent, 1)
    controller.push(built_in("ps", "get_processes_stats"))
    entries = {entry["cmd"]["id"]: entry for entry in json.loads(controller.wait_for_result("ps")["data"])}
    assert set(entries) >= {"input", "open", "killed"}
    if "limited" not in entries:  # on a busy machine it may be over by now
        controller.wait_for_result("limited")
    assert entries["killed"]["rss"] > 0
    controller.push(built_in("k", "kill", json.dumps({"id": "killed"})))
    assert controller.wait_for_result("k")["state"] == "SUCCESS"
    assert controller.wait_for_result("killed")["state"] == "KILLED"
    assert controller.wait_for_result("waiting")["streams"] == ["ran\n", ""]
    assert controller.results_of("behind") == []
    gate.touch()
    result = controller.wait_for_result("input", 20)
    assert (result["streams"][0].strip().splitlines()[-1].strip(), result["critical"]) == ("3000000", "bad")
    assert controller.wait_for_result("behind")["streams"] == ["next\n", ""]
    result = controller.wait_for_result("open")
    assert (result["data"], result["exit_code"], result["state"]) == ("first\nsecond", 4, "ERROR")
    child = Path(f"{up}3").read_text().strip()
    result = controller.wait_for_result("limited", 20)
    assert result["state"] == "TIMEOUT"
    assert not Path(f"/proc/{child}").exists()


def test_repeating_and_remembered_jobs_and_startup_tasks(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    more = f"""
[startup.once]
name = "execute"
[startup.once.args]
name = "sh"
args = ["-c", "echo once >> {runs}; exec sleep 1000"]
"""
    agent = start_agent(more=more)
    controller.push(shell("often", f"echo often >> {runs}; echo 20::1", recurring_period=2))
    controller.push(shell("kept", f"echo kept >> {runs}; exec sleep 1000", max_time=-1))
    controller.push(shell("failing", f"echo failing >> {runs}; exit 1", max_restart=2))
    controller.push(shell("always", f"echo always >> {runs}; exec sleep 1000", restart="always"))

    def count(word: str) -> int:
        return runs.read_text().split().count(word) if runs.exists() else 0

    wait_until(lambda: all(count(word) for word in ("once", "often", "kept", "failing", "always")), what="first runs")
    replace(agent, 1)
    assert controller.wait_for_result("failing", 20)["state"] == "ERROR"
    wait_until(lambda: count("often") >= 2, what="the next period")
    assert (count("once"), count("kept"), count("failing"), count("always")) == (1, 1, 3, 1)
    for name in ("kept", "often", "always"):
        controller.push(built_in(f"k {name}", "kill", json.dumps({"id": name})))
        assert controller.wait_for_result(f"k {name}")["state"] == "SUCCESS"
    assert controller.wait_for_result("always")["state"] == "KILLED"
    wait_until(lambda: json.loads((agent.folder / "history").read_text()) == [], what="an empty history")


def test_gauges_and_statsd_ports_go_on(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent(stats="interval = 1\nlocal_intake = true")
    gate, up, sent = tmp_path / "gate", tmp_path / "up", tmp_path / "sent"
    script = tmp_path / "gauge.py"
    script.write_text(
        "import os, pathlib, socket, sys, time\n"
        "print('10::level:5|g', flush=True)\n"
        f"pathlib.Path({str(up)!r}).touch()\n"
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.02)\n"
        "print('10::level:+2|g', flush=True)\n"
        "target = (os.environ['STATSD_HOST'], int(os.environ['STATSD_PORT']))\n"
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'port:3|c', target)\n"
        f"pathlib.Path({str(sent)!r}).touch()\n"
        "time.sleep(3)\n"
    )
    controller.push(execute("g", "python3", str(script), domain="d"))
    wait_until(up.exists, what="the job")
    replace(agent, 1)
    gate.touch()

    def value(key: str) -> list[float]:
        return [
            value for flush in controller.stats for name, value in flush["series"] if name == f"1.10.d.python3.{key}"
        ]

    wait_until(lambda: 3 in value("port"), what="what came by the port")
    wait_until(lambda: value("level")[-1:] == [7], what="the changed gauge")


def test_no_datagram_is_lost_on_the_way_to_the_new_image(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent(stats="interval = 1\nlocal_intake = true")
    gate = tmp_path / "gate"
    script = tmp_path / "sender.py"
    # Ten a second: where the new image takes long to start, the socket has to hold all until it reads.
    script.write_text(
        "import os, socket, time\n"
        "target = (os.environ['STATSD_HOST'], int(os.environ['STATSD_PORT']))\n"
        "sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "sent = 0\n"
        f"while not os.path.exists({str(gate)!r}):\n"
        "    sender.sendto(b'sent:1|c', target)\n"
        "    sent += 1\n"
        "    time.sleep(0.1)\n"
        "print(f'20::{sent}')\n"
    )
    controller.push(execute("s", "python3", str(script), domain="d"))

    def counted() -> float:
        """A flush whose answer was not awaited at a replacement comes twice."""
        name = "1.10.d.python3.sent"
        found = [(flush["timestamp"], dict(flush["series"])) for flush in controller.stats]
        return sum({stamp: series[name] for stamp, series in found if name in series}.values())

    wait_until(lambda: counted() > 0, what="the first ones")
    replace(agent, 1)
    replace(agent, 2)
    gate.touch()
    sent = int(controller.wait_for_result("s")["data"])
    wait_until(lambda: counted() >= sent, what="all to be counted")
    assert counted() == sent


def test_restart_as_a_command_answers_and_replaces(controller: RecordingController, start_agent: StartAgent) -> None:
    agent = start_agent()
    controller.push(execute("job", "sleep", "3"))
    wait_until(lambda: controller.waiting_commands == 0, what="the command handed out")
    controller.push(built_in("r", "restart"))
    assert controller.wait_for_result("r")["data"] == "true"
    wait_until(lambda: agent.stderr.count("is ready") == 2, 30, "the new image")
    assert controller.wait_for_result("job")["state"] == "SUCCESS"
    assert len(controller.results_of("r")) == 1


def test_an_image_that_cannot_take_over_is_not_started(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent()
    controller.push(execute("job", "sleep", "1"))
    good = agent.config.read_text()
    agent.config.write_text("[main\n")
    os.kill(agent.pid, signal.SIGUSR2)
    wait_until(lambda: "not replaced, the agent goes on as it is" in agent.stderr, 30, "the refusal")
    assert controller.wait_for_result("job")["state"] == "SUCCESS"
    agent.config.write_text(good)
    replace(agent, 1)
    controller.push(built_in("p", "ping"))
    assert controller.wait_for_result("p")["state"] == "SUCCESS"


@pytest.mark.parametrize(
    "numbers", [(signal.SIGTERM,), (signal.SIGHUP, signal.SIGUSR1), (signal.SIGUSR2,)], ids=["end", "drain", "again"]
)
def test_signals_during_a_replacement_do_not_kill(
    controller: RecordingController, start_agent: StartAgent, numbers: tuple[int, ...]
) -> None:
    agent = start_agent()
    controller.push(execute("job", "sleep", "1000" if signal.SIGTERM in numbers else "4"))
    controller.push(built_in("p", "ping"))
    controller.wait_for_result("p")
    os.kill(agent.pid, signal.SIGUSR2)
    wait_until(lambda: "replaced in place" in agent.stderr, 30, "the replacement")
    for number in numbers:
        os.kill(agent.pid, number)
    if signal.SIGTERM in numbers:
        assert agent.wait() == 0
        assert controller.wait_for_result("job")["state"] == "KILLED"
    else:
        assert controller.wait_for_result("job")["state"] == "SUCCESS"
        if signal.SIGUSR1 in numbers:
            assert agent.wait() == 0


def test_a_second_agent_is_refused_after_a_replacement_too(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    folder = tmp_path / "one"
    agent = start_agent(folder=folder)
    replace(agent, 1)
    second = start_agent(folder=folder, wait=False)
    assert second.wait() == 1
    assert "in use by process" in second.stderr
    assert sqlite3.connect(folder / "history.db").execute("PRAGMA integrity_check").fetchone() == ("ok",)
