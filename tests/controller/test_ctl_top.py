"""``greenagent-ctl top`` (issue 7)."""

from __future__ import annotations

import json
import time

import pytest

from tests.controller.ctl import ctl
from tests.controller.support import Agent


@pytest.mark.parametrize("command", ["", "execute."], ids=["seed layout", "later layout"])
def test_top_shows_what_was_received(controller, command) -> None:
    own = "agent." if command else ""
    agent = Agent(controller)
    agent.poll()
    now = int(time.time()) // 10 * 10
    for stamp, lines in ((now - 10, 7), (now, 250)):
        agent.post(
            "stats",
            [
                {
                    "timestamp": stamp,
                    "series": [
                        [f"1.10.{own}greenagent.agent.agent_cpu_percent", 1.25],
                        [f"1.10.{own}greenagent.agent.agent_resident_bytes", 3 * 1024 * 1024],
                        [f"1.10.{own}greenagent.agent.jobs_running", 2],
                        [f"1.10.{own}greenagent.agent.lines_read", lines],
                        [f"1.10.{command}web.crawler.cpu", 50],
                        [f"1.10.{command}web.crawler.rss", 2048],
                        [f"1.10.{command}web.crawler.lines_per_second", 12.5],
                        [f"1.10.{command}web.crawler.own.key.with.dots", 5],
                    ],
                }
            ],
        )
    agent.post("stats", [{"timestamp": now - 100_000, "series": [[f"1.10.{command}old.job.cpu", 5]]}])
    picture = json.loads(ctl(controller.url, "top", "--once", "--json").out)
    assert picture["agents"] == [
        {
            "gid": 1,
            "nid": 10,
            "live": True,
            "cpu": 1.25,
            "rss": 3145728.0,
            "jobs_running": 2.0,
            "jobs_waiting": None,
            "lines_per_second": 25.0,
        }
    ]
    assert picture["jobs"] == [
        {
            "gid": 1,
            "nid": 10,
            "domain": "web",
            "name": "crawler",
            "cpu": 50.0,
            "rss": 2048.0,
            "lines_per_second": 12.5,
            "timestamp": now,
        }
    ]
    rows = [line.split() for line in ctl(controller.url, "top", "--once").out.splitlines()]
    assert ["1:10", "live", "2", "-", "1.2", "3.0", "MiB", "25.0"] in rows
    assert ["1:10", "web", "crawler", "50.0", "2.0", "KiB", "12.5"] in rows
