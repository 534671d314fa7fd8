"""The monitor of one job hands its statsd port on, whatever its log does meanwhile (protocol 8)."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import gevent
import pytest
from gevent.event import Event

from greenagent.jobs.handover import SuspendedJob
from greenagent.jobs.job import Job
from greenagent.jobs.monitor import JobMonitor
from greenagent.runtime.descriptors import close_descriptor
from greenagent.runtime.greenlets import Supervisor
from greenagent.statistics import statsd_listener
from greenagent.statistics.collector import FlushedObject, Statistics
from greenagent.statistics.meter import Meter
from greenagent.values.command import parse_command
from tests.support.agent_logs import RecordedLog
from tests.support.calibration import takes_at_most
from tests.support.commands import shell
from tests.support.holds import HELD, longest_hold
from tests.support.inside import InsideAgent
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


class Nowhere:
    def add(self, objects: list[FlushedObject]) -> None:
        pass


class BlockedLog:
    """Takes warnings, but not before ``released``: as the log of a job does whose writer is behind."""

    def __init__(self) -> None:
        self.released = Event()
        self.asked: list[str] = []
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.asked.append(text)
        self.released.wait()
        self.said.append(text)


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    fatal: list[str] = []
    supervisor = Supervisor(RecordedLog(), fatal.append)
    yield supervisor
    supervisor.kill_all()
    assert fatal == []


def test_a_port_is_handed_on_open_though_the_jobs_log_takes_no_line(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent writes down what it hands over as soon as the job's greenlet gives way."""
    monkeypatch.setattr(statsd_listener, "_TURN", 20)  # the reader rests with a datagram in its hand
    command = parse_command({"id": "a", "cmd": "execute", "args": {"name": "true"}})
    job = Job(command, None, "controller", 1, 0.0)
    statistics = Statistics(1, 2, "seed", 60, Nowhere())
    log = BlockedLog()
    monitor = JobMonitor(job, statistics, Meter(2), log.say, supervisor)
    lines = b"nonsense\n" * 300 + b"also nonsense\n" * 300 + b"level:7|g"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(lines, ("127.0.0.1", job.statsd_port))
    wait_until(lambda: statsd_listener.StatsdListener._resting, what="the datagram to be read")
    job.suspended = SuspendedJob(1, {}, None, "controller", 0.0, 1, 0.0, 0, job.statsd_port)
    job.is_detached = True
    closing = gevent.spawn(monitor.close)
    wait_until(lambda: log.asked, what="the warning that the log does not take")
    assert job.suspended.intake is not None
    assert [values for _, values in statistics.gauges()] == [{"level": 7.0}]  # they are handed over at the same time
    log.released.set()
    closing.get(timeout=60)
    assert log.said == [
        "statistics line refused: 'nonsense': not of the form key:value|type",
        "600 statistics lines were refused in all",
    ]
    close_descriptor(job.suspended.intake)


def test_many_statistics_lines_in_one_message_hold_up_nothing(
    inside: InsideAgent, controller: RecordingController
) -> None:
    with longest_hold(inside) as longest:
        inside.accept(shell("a", "echo '10:::'; yes 'k:1|c' | head -n 800000; echo :::"))
        assert controller.wait_for_result("a", 60)["state"] == "SUCCESS"
    assert takes_at_most(longest[0], HELD)
    assert inside.agent.metrics.total("statsd_lines") == 800_000
