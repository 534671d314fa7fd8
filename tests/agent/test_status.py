"""The agent's own metrics: what waits for whom, and what the agent itself uses."""

from __future__ import annotations

from pathlib import Path

from greenagent.statistics.collector import FlushedObject
from tests.support.commands import shell
from tests.support.inside import InsideAgent
from tests.support.recording_controller import RecordingController, status
from tests.support.waiting import wait_until


def test_the_agents_own_metrics_tell_of_what_waits_and_what_it_uses(tmp_path: Path) -> None:
    with RecordingController() as takes, RecordingController() as refuses:
        refuses.misbehave("stats", status(503))
        with InsideAgent(tmp_path, {"a": takes.url, "b": refuses.url}) as inside:
            inside.agent.statistics_outbox.add([FlushedObject(60, "1.1.d.n.", {"c": 1})])
            wait_until(lambda: takes.stats, what="the object at the one controller")
            wait_until(lambda: inside.agent.spool.waiting().keys() == {"b"}, what="the object settled there")
            flush = inside.agent.metrics.flush
            # What waits is looked at once for some seconds: also for the status file, which is written at the start.
            points = wait_until(lambda: (now := flush()) and now["statistics_waiting.a"] == 0 and now)
    assert points["statistics_waiting.b"] == 1
    assert "statistics_waiting.gone" not in points
    assert points["statistics_backlog_bytes"] > 0
    assert points["agent_resident_bytes"] > 1_000_000
    assert points["agent_threads"] >= 1
    assert points["agent_descriptors"] >= 3


def test_loggers_and_controllers_with_a_slash_in_their_names_share_no_cursor(tmp_path: Path) -> None:
    more = "".join(
        f'[logging."{logger}"]\ntype = "AC"\nflush_int = 1\nlevels = []\ncontrollers = ["{controller}"]\n'
        for logger, controller in (("a", "b/c"), ("a/b", "c"))
    )
    with RecordingController() as one, RecordingController() as other:
        controllers = {'"b/c"': one.url, "c": other.url}
        with InsideAgent(tmp_path, controllers, more=more) as inside:
            assert len(set(inside.agent.routing.bits.values())) == 4
            other.misbehave("log", status(503))
            inside.accept(shell("j", "echo said"), "c")
            wait_until(lambda: one.logs, what="the line at the one")
            told = inside.agent.monitoring.status.status()["controllers"]
            points = inside.agent.metrics.flush()
    assert told["b/c"]["log_lines_waiting"].keys() == {"ac/b/c", "a/b/c"}
    assert told["c"]["log_lines_waiting"] == {"ac/c": 0, "a%2Fb/c": 1}
    assert points["log_lines_waiting.c.a/b"] == 1
