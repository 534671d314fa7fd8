"""A backlog of hours must not make the agent deaf."""

from __future__ import annotations

import json

from greenagent.uplink.sources import LogSource, ResultSource
from greenagent.uplink.uploader import Uploader
from tests.support.recording_controller import RecordingController
from tests.support.uplink import Aside, MemoryLines, MemoryOutbox, Uplink, running
from tests.support.waiting import wait_until


def test_commands_come_through_while_a_backlog_is_drained():
    outbox, store = MemoryOutbox(), MemoryLines()
    for number in range(3000):
        outbox.add(f"job{number}", json.dumps({"id": f"job{number}"}).encode())
    store.add(*(f"line {number}" for number in range(30_000)))
    with RecordingController() as controller:
        uplink = Uplink(controller.url)
        poller, got = uplink.poller()
        results = Uploader(ResultSource("main", outbox, uplink.metrics), uplink.client, uplink.health)
        lines = LogSource("main", store, 1000, 300, Aside(), uplink.metrics)
        logs = Uploader(lines, uplink.client, uplink.health)
        with running(poller), running(results), running(logs):
            for number in range(20):
                controller.push({"id": f"command{number}", "cmd": "ping"})
                wait_until(lambda number=number: len(got.commands) > number, what="the command")
            assert outbox.rows, "the commands came before the backlog of results was through"
            assert store.cursor < 30_000, "and before that of the logs"
            wait_until(lambda: not outbox.rows and store.cursor == 30_000, 60, "the backlog to be drained")
        assert len(controller.results) == 3000
        assert [record["data"] for record in controller.logs] == [f"line {number}" for number in range(30_000)]
