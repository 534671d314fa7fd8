"""Stuck and dead parts are noticed, named with their stack, and started again or given up."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from greenagent.agent.watchdog import STUCK_EXIT, ServiceWatchdog, Thresholds
from greenagent.runtime.greenlets import Heartbeat, Supervisor
from greenagent.runtime.native import NativeSignal, NativeWorker, native_sleep
from tests.support.agent_logs import RecordedLog
from tests.support.agents import AgentProcess, configuration
from tests.support.commands import shell
from tests.support.processes import ROOT, state_of
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

HUB = """
import sys, time
from greenagent.runtime.patch import patch
patch()
import gevent
from gevent import monkey
from greenagent.agent.watchdog import HubWatchdog, Thresholds
from greenagent.statistics.own import EventLoopLag

stall = EventLoopLag()
gevent.spawn(stall.run)
watchdog = HubWatchdog(lambda: stall.beats, Thresholds(hub_stall=0.4, hub_give_up={give_up}))
said = []
write = watchdog._write
watchdog._write = lambda text: (write(text), said.append(text))
while stall.beats < 3:
    gevent.sleep(0.01)
print("begun", flush=True)
watchdog.start()

def a_long_calculation(text):
    while text not in "".join(said):
        pass

def a_system_call(text):
    while text not in "".join(said):
        monkey.get_original("time", "sleep")(0.2)

{body}
print("done")
"""


def run_hub(tmp_path: Path, body: str, give_up: float = 60, **options: object) -> subprocess.Popen[bytes]:
    script = tmp_path / "hub.py"
    script.write_text(HUB.format(body=body, give_up=give_up))
    return subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        **{"stderr": subprocess.PIPE, **options},
    )


@pytest.mark.parametrize("culprit", ["a_long_calculation", "a_system_call"])
def test_a_stuck_hub_is_said_with_its_stack_and_so_is_its_return(tmp_path: Path, culprit: str) -> None:
    until = f"'in: {culprit} '"
    body = f"gevent.spawn({culprit}, {until}).join()\nwhile 'goes on' not in said[-1]:\n    gevent.sleep(0.01)"
    process = run_hub(tmp_path, body)
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == (b"begun\ndone\n", 0), err
    said = re.search(
        rf"^.* error: watchdog: the hub has been stuck for ([\d.]+) s in: {culprit} hub\.py:\d+( < .*)?$",
        err.decode(),
        re.MULTILINE,
    )
    assert said is not None, err
    assert float(said.group(1)) >= 0.4
    assert "the hub goes on after" in err.decode().splitlines()[-1]


def test_a_hub_that_stays_stuck_ends_the_process(tmp_path: Path) -> None:
    process = run_hub(tmp_path, "a_long_calculation('what is never said')", give_up=1.0)
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == (b"begun\n", STUCK_EXIT)
    last = err.decode().splitlines()[-1]
    assert "ending with code 70, stuck in: a_long_calculation hub.py:" in last


def test_a_blocked_stderr_does_not_stop_the_watchdog(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    while select.select([], [writing], [], 0)[1]:
        os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    process = run_hub(tmp_path, "a_long_calculation('what is never said')", give_up=1.0, stderr=writing)
    assert process.wait(timeout=60) == STUCK_EXIT
    os.close(reading)
    os.close(writing)


def test_a_process_that_was_stopped_is_not_stuck(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    process = run_hub(
        tmp_path, f"import os\nwhile not os.path.exists({str(gate)!r}):\n    gevent.sleep(0.02)", give_up=1.0
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    os.kill(process.pid, signal.SIGSTOP)
    wait_until(lambda: state_of(process.pid) == "T", what="the stop")
    stopped = time.monotonic()
    wait_until(lambda: time.monotonic() > stopped + 1.5, what="more than the watchdog gives a stuck hub")
    os.kill(process.pid, signal.SIGCONT)
    gate.touch()
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == (b"done\n", 0), err


def test_an_orderly_end_that_does_not_come_is_made(tmp_path: Path) -> None:
    process = run_hub(tmp_path, "watchdog.end_within(0.5)\ngevent.sleep(60)")
    _, err = process.communicate(timeout=60)
    assert process.returncode == STUCK_EXIT
    assert b"the agent gives up but does not end" in err


AGENT = """
import os, sys, time
import greenagent.cli.agent.run as cli
from greenagent.cli.agent.__main__ import main
import gevent
from greenagent.agent.watchdog import Thresholds

make = cli.Agent
cli.Agent = lambda settings, agent_log: make(settings, agent_log, Thresholds(hub_stall=0.5, hub_give_up=1.5))

def a_bug_that_never_returns():
    while True:
        time.monotonic()

def begin(up):
    while not os.path.exists(up):
        gevent.sleep(0.05)
    a_bug_that_never_returns()

gevent.spawn(begin, sys.argv.pop(1))
sys.exit(main(sys.argv[1:]))
"""


def test_a_real_agent_with_a_stuck_hub_ends_itself_and_its_job_is_reported_at_the_next_start(tmp_path: Path) -> None:
    with RecordingController() as controller:
        up = tmp_path / "up"
        controller.push(shell("cut", f"touch {up}; exec sleep 1000"))
        agent = AgentProcess(tmp_path, configuration(tmp_path, {"main": controller.url}))
        script = tmp_path / "agent.py"
        script.write_text(AGENT)
        with (tmp_path / "stuck").open("wb") as stderr:
            stuck = subprocess.Popen(
                [sys.executable, str(script), str(up), "-c", str(agent.config)],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stderr=stderr,
            )
        wait_until(lambda: stuck.poll() is not None, 20, "its end")
        assert stuck.returncode == STUCK_EXIT
        said = (tmp_path / "stuck").read_text()
        assert re.search(r"watchdog: the hub has been stuck for [\d.]+ s in: a_bug_that_never_returns agent\.py:", said)
        assert "ending with code 70" in said
        agent.start()
        assert controller.wait_for_result("cut")["state"] == "ERROR"
        assert agent.stop() == 0


class Watched:
    """A supervisor with its watch; thresholds of tenths of seconds, but for ``worker_give_up``."""

    def __init__(self, worker_give_up: float = 600) -> None:
        self.agent_log = RecordedLog()
        self.fatal: list[str] = []
        self.supervisor = Supervisor(self.agent_log, self.fatal.append)
        self.workers: list[NativeWorker] = []
        self.checks = 0
        self.watch = ServiceWatchdog(
            self.supervisor,
            lambda: self.workers,
            self.agent_log,
            self.fatal.append,
            Thresholds(worker_stall=0.2, worker_give_up=worker_give_up, check_every=0.05),
            then=self._count_check,
        )

    def _count_check(self) -> None:
        self.checks += 1

    def wait_for_checks(self, number: int) -> None:
        """Waits until the running watchdog has checked ``number`` times more."""
        wanted = self.checks + number
        wait_until(lambda: self.checks >= wanted, what=f"{number} checks")

    def said(self, text: str) -> list[str]:
        return [line for line in self.agent_log.lines if text in line]


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched()
    yield watched
    watched.supervisor.kill_all()


@pytest.fixture
def impatient() -> Iterator[Watched]:
    """Gives a stuck thread up."""
    watched = Watched(worker_give_up=0.6)
    yield watched
    watched.supervisor.kill_all()


def test_a_stuck_service_is_named_with_its_stack_and_started_again(watched: Watched) -> None:
    heartbeat = Heartbeat()
    runs: list[int] = []

    def wait_for_what_never_comes() -> None:
        Event().wait()

    def serve() -> None:
        runs.append(len(runs))
        heartbeat.expect_within(0.1 if len(runs) == 1 else 60, "asking somebody")
        wait_for_what_never_comes()

    watched.supervisor.service("poller of controller main", serve, heartbeat=heartbeat)
    watched.supervisor.service("watchdog", watched.watch.run)
    wait_until(lambda: len(runs) == 2, what="the second run")
    (line,) = watched.said("is stuck")
    assert "watchdog: poller of controller main is stuck (asking somebody," in line
    assert "wait_for_what_never_comes test_watchdog.py:" in line
    assert "\n" not in line
    watched.wait_for_checks(5)
    assert runs == [0, 1]
    assert watched.fatal == []


def test_a_service_that_waits_for_work_is_not_stuck(watched: Watched) -> None:
    heartbeat = Heartbeat()
    runs: list[int] = []

    def serve() -> None:
        runs.append(1)
        heartbeat.clear()
        Event().wait()

    watched.supervisor.service("idle", serve, heartbeat=heartbeat)
    for _ in range(5):
        gevent.sleep(0)
        watched.watch.check()
    assert (runs, watched.agent_log.lines) == ([1], [])


def test_a_killed_service_is_found_and_started_again(watched: Watched) -> None:
    runs: list[int] = []

    def serve() -> None:
        runs.append(1)
        Event().wait()

    greenlet = watched.supervisor.service("meter", serve)
    gevent.sleep(0)
    greenlet.kill()
    watched.watch.check()
    wait_until(lambda: len(runs) == 2, what="the second run")
    assert watched.said("meter was found dead: it is started again")


def test_a_service_that_was_ended_stays_ended(watched: Watched) -> None:
    runs: list[int] = []

    def serve() -> None:
        runs.append(1)
        Event().wait()

    greenlet = watched.supervisor.service("certificates", serve)
    gevent.sleep(0)
    watched.supervisor.end(greenlet)
    for _ in range(5):
        watched.watch.check()
        gevent.sleep(0)
    assert (runs, watched.agent_log.lines, watched.supervisor.services) == ([1], [], {})


def test_an_error_that_is_no_exception_also_counts_as_a_death(watched: Watched) -> None:
    runs: list[int] = []

    def serve() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise gevent.Timeout(3)
        Event().wait()

    watched.supervisor.service("sender", serve)
    wait_until(lambda: len(runs) == 2, what="the second run")
    assert watched.said("internal error in sender: Timeout")


def test_a_service_that_cannot_be_freed_is_fatal(watched: Watched) -> None:
    heartbeat = Heartbeat()

    def serve() -> None:
        heartbeat.expect_within(0.05, "clinging")
        while True:
            try:
                Event().wait()
            except Exception:  # this is the fault: it swallows everything
                pass

    watched.supervisor.service("clinging", serve, heartbeat=heartbeat)
    watched.supervisor.service("watchdog", watched.watch.run)
    wait_until(lambda: watched.fatal, 20, what="the end")
    assert watched.fatal == ["clinging was stuck 5 times and could not be freed"]


def test_what_waited_while_the_whole_process_stood_still_is_not_stuck(watched: Watched) -> None:
    heartbeat = Heartbeat()
    runs: list[int] = []

    def serve() -> None:
        runs.append(1)
        heartbeat.expect_within(0.3, "waiting")
        Event().wait(0.4)
        heartbeat.clear()
        Event().wait()

    watched.supervisor.service("watchdog", watched.watch.run)
    watched.wait_for_checks(1)
    watched.supervisor.service("waiting", serve, heartbeat=heartbeat)
    wait_until(lambda: runs, what="the service")
    native_sleep(0.6)  # the hub stands still
    watched.wait_for_checks(5)
    assert (runs, watched.said("is stuck")) == ([1], [])


def blocked_in_the_kernel(batch: list[NativeSignal]) -> None:
    for one in batch:
        one.wait()


def test_a_stuck_thread_is_named_with_its_stack_and_its_return_is_said(watched: Watched) -> None:
    worker = NativeWorker("log writer", blocked_in_the_kernel)
    watched.workers.append(worker)
    watched.supervisor.service("watchdog", watched.watch.run)
    end = NativeSignal()
    worker.put_now(end)
    (line,) = wait_until(lambda: watched.said("has been stuck"), what="the warning")
    end.set()
    wait_until(lambda: watched.said("goes on"), what="its return")
    assert watched.said("has been stuck") == [line]
    assert "the thread 'log writer' has been stuck" in line
    assert "blocked_in_the_kernel test_watchdog.py:" in line
    assert watched.fatal == []
    worker.stop()


def test_a_thread_that_stays_stuck_is_fatal(impatient: Watched) -> None:
    worker = NativeWorker("log writer", blocked_in_the_kernel)
    impatient.workers.append(worker)
    impatient.supervisor.service("watchdog", impatient.watch.run)
    end = NativeSignal()
    worker.put_now(end)
    wait_until(lambda: impatient.fatal, what="the end")
    assert re.fullmatch(r"the thread 'log writer' has been stuck for [\d.]+ s", impatient.fatal[0])
    end.set()
    worker.stop()


def test_a_dead_thread_is_fatal(watched: Watched) -> None:
    worker = NativeWorker("log writer", lambda batch: 1 // 0)
    watched.workers.append(worker)
    worker.put_now(1)
    wait_until(lambda: not worker.is_alive, what="its death")
    watched.watch.check()
    watched.watch.check()
    assert watched.fatal == ["the thread 'log writer' has died: integer division or modulo by zero"]
