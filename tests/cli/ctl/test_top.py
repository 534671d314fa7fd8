"""``greenagent-ctl top``."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time

import pytest

from tests.support.ctl import (
    answers,
    ctl,
)
from tests.support.local_controller import ORIGINAL, Agent, start
from tests.support.programs import ROOT, command
from tests.support.waiting import wait_until


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
    [shown] = picture["agents"]
    assert (shown["gid"], shown["nid"], shown["live"]) == (1, 10, True)
    assert (shown["cpu"], shown["rss"], shown["jobs_running"]) == (1.25, 3145728.0, 2.0)
    assert shown["jobs_waiting"] is None
    [job] = picture["jobs"]
    assert (job["domain"], job["name"]) == ("web", "crawler")
    assert (job["cpu"], job["rss"], job["lines_per_second"]) == (50.0, 2048.0, 12.5)
    assert 0 <= job["age"] < 60
    shown_text = ctl(controller.url, "top", "--once").out
    assert "1:10" in shown_text
    assert "crawler" in shown_text
    assert "old" not in shown_text
    assert "FIGURES' AGE" in shown_text


def test_a_rate_of_long_ago_is_not_shown(controller) -> None:
    agent = Agent(controller)
    poll = agent.poll()
    now = int(time.time())
    for job_id, name in (("a", "often"), ("b", "seldom"), ("c", "once")):
        controller.submit(id=job_id, gid=1, nid=10, args={"domain": "web", "name": name})
        poll.command()
        poll = agent.poll()
    for stamp, names in ((now - 400, ("seldom",)), (now - 110, ("often",)), (now - 100, ("often", "seldom", "once"))):
        series = [[f"1.10.web.{name}.{key}", 5] for name in names for key in ("cpu", "lines_per_second")]
        own = [["1.10.greenagent.agent.jobs_running", 3]]
        assert agent.post("stats", [{"timestamp": stamp, "series": own + series}]).status_code == 200
    picture = json.loads(ctl(controller.url, "top", "--once", "--json").out)
    rates = {job["name"]: (job["cpu"], job["lines_per_second"]) for job in picture["jobs"]}
    assert rates == {"often": (5.0, None), "seldom": (5.0, 5.0), "once": (5.0, 5.0)}
    assert picture["agents"][0]["lines_per_second"] == 10.0


def test_top_paints_the_screen_anew_on_a_terminal(controller) -> None:
    agent = Agent(controller)
    agent.poll()

    def send(stamp: int, jobs: int) -> None:
        series = [["1.10.greenagent.agent.jobs_running", jobs]]
        assert agent.post("stats", [{"timestamp": stamp, "series": series}]).status_code == 200

    now = int(time.time())
    send(now - 10, 41)
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    program = command("ctl", "--url", controller.url, "top", "--interval", "0.2")
    top = subprocess.Popen(program, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT)
    os.close(slave)
    written = b""

    def painted(text: bytes, times: int = 1) -> bool:
        nonlocal written
        try:
            written += os.read(master, 65536)
        except BlockingIOError:
            pass
        pictures = written.split(b"\x1b[H\x1b[2J")[1:]
        return sum(text in picture for picture in pictures) >= times

    try:
        wait_until(lambda: painted(b" 41 ", 3), what="it to be painted again")
        send(now, 57)
        wait_until(lambda: painted(b" 57 ", 2), what="new figures")
        assert b" 41 " not in written.split(b"\x1b[H\x1b[2J")[-1]
        top.send_signal(signal.SIGINT)
        wait_until(lambda: top.poll() is not None, what="its end")
    finally:
        top.kill()
        os.close(master)
    assert top.poll() == 130
    assert b"Traceback" not in written


def test_top_leaves_out_figures_with_a_stamp_no_calendar_has() -> None:
    figures = {"1.1.a.b.cpu": '{"timestamp": 1%s, "value": 1, "interval": null}' % ("0" * 400)}
    agent = {"gid": 1, "nid": 1, "live": True}
    received = ", ".join(f'"{key}": {value}' for key, value in figures.items())
    pages = {
        "jobs": '{"jobs": []}',
        "agents": json.dumps({"agents": [agent]}),
        "stats": f'{{"agents": [{{"gid": 1, "nid": 1, "figures": {{{received}}}}}]}}',
    }
    with answers(pages) as url:
        done = ctl(url, "top", "--once", "--json")
        shown = ctl(url, "top", "--once")
    assert (done.code, done.err, json.loads(done.out)["jobs"]) == (0, "", [])
    assert (shown.code, shown.err) == (0, "")


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        (  # the first generation: the identity of the command, which has none where it went to a role
            {"0.0.web.crawl.cpu": 50, "0.0.web.crawl.rss": 2048, "0.0.web.crawl.vms": 1, "0.0..python2.7.cpu": 3},
            [("", "", "python2.7", 3.0, None, ["b"]), ("", "web", "crawl", 50.0, 2048.0, ["a"])],
        ),
        (  # the later one: a command that names neither domain nor name has empty ones
            {
                "1.10.execute.web.crawl._cpu_": 50,
                "1.10.execute.web.crawl._rss_": 2048,
                "1.10.execute.web.crawl.cpu": 7,
                "1.10.execute..python2.7._cpu_": 3,
                "1.10.sync..._cpu_": 1,
            },
            [
                ("execute", "", "python2.7", 3.0, None, ["b"]),
                ("execute", "web", "crawl", 50.0, 2048.0, ["a"]),
                ("sync", "", "", 1.0, None, ["c"]),
            ],
        ),
        (  # the last one, which writes "unknown" for these
            {
                "1.10.execute.unknown.python2.7._cpu_": 3,
                "1.10.sync.unknown.unknown._rss_": 1,
                "1.10.execute.nobody.knows.what._cpu_": 9,
                "1.10.execute.greenagent.agent._cpu_": 4,
            },
            [
                ("execute", "greenagent", "agent", 4.0, None, []),
                ("execute", "unknown", "python2.7", 3.0, None, ["b"]),
                ("sync", "unknown", "unknown", None, 1.0, ["c"]),
            ],
        ),
    ],
    ids=["first", "later", "last"],
)
def test_top_shows_what_each_generation_of_originals_sends(controller, keys, shown) -> None:
    agent = Agent(controller, user_agent=ORIGINAL)
    start(controller, agent, "a", args={"domain": "web", "name": "crawl"})
    start(controller, agent, "b", args={"name": "python2.7"})
    start(controller, agent, "c", cmd="sync")
    series = [list(pair) for pair in keys.items()]
    assert agent.post("stats", [{"timestamp": int(time.time()), "series": series}]).status_code == 200
    picture = json.loads(ctl(controller.url, "top", "--once", "--json").out)
    names = ("cmd", "domain", "name", "cpu", "rss", "ids")
    assert [tuple(job[name] for name in names) for job in picture["jobs"]] == shown
    [agent_shown] = picture["agents"]
    assert (agent_shown["cpu"], agent_shown["jobs_running"]) == (None, None)
