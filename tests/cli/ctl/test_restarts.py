"""``greenagent-ctl run`` and ``logs --follow`` while the controller is killed and started again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gevent.pywsgi import WSGIServer

from tests.support.controllers import ControllerProcess, Relay
from tests.support.ctl import Ctl, ctl, on_node, texts_of
from tests.support.local_controller import plain
from tests.support.waiting import wait_until

FOLLOWS = "waiting for 1:10 (last contact never)\n"
"""What it says once it has the answer to its command, and has asked for lines."""


def test_a_controller_that_restarts_meanwhile_is_waited_for(tmp_path) -> None:
    state = ("--state", str(tmp_path / "state.db"))
    process = ControllerProcess(tmp_path, *state)
    relay = Relay(process.port)
    try:
        url = f"http://127.0.0.1:{relay.port}"
        running = Ctl("--url", url, *on_node("--id", "x", "--wait-for-agent", "60", "--", "job"))
        wait_until(lambda: FOLLOWS in running.err, what="it to follow the job")
        process.kill()
        wait_until(lambda: relay.refused, what="it to find the controller away")
        process.start()
        assert plain().get(f"{process.url}/1/10/cmd", timeout=60).json()["id"] == "x"
        result = {"id": "x", "state": "SUCCESS", "starttime": 1, "exit_code": 0, "streams": ["here\n", ""]}
        plain().post(f"{process.url}/1/10/result", json=result, timeout=60)
        assert running.done() == (
            0,
            "here\n",
            "greenagent-ctl: the controller was away and has no lines of this job yet; showing the end of its result\n",
        )
    finally:
        process.stop()
        relay.stop()


def test_lines_lost_with_a_killed_controller_are_shown_once(tmp_path) -> None:
    state = ("--state", str(tmp_path / "state.db"))
    process = ControllerProcess(tmp_path, *state)
    running = Ctl("--url", process.url, *on_node("--id", "x", "--wait-for-agent", "60", "--", "job"))

    def upload(*numbers: int) -> None:
        batch = [{"id": n, "jobid": "x", "level": 1, "data": f"line {n}", "epoch_ms": 1000} for n in numbers]
        assert plain().post(f"{process.url}/1/10/log", json=batch, timeout=60).status_code == 200

    try:
        wait_until(lambda: FOLLOWS in running.err, what="it to follow the job")
        assert plain().get(f"{process.url}/1/10/cmd", timeout=60).json()["id"] == "x"
        upload(*range(1, 301))
        wait_until(lambda: "line 300\n" in running.out, what="the first lines")
        process.kill()
        process.start()
        upload(*range(291, 301), *range(303, 401))  # the batch that was not acknowledged comes again
        streams = ["".join(f"line {number}\n" for number in range(1, 401)), ""]
        result = {"id": "x", "state": "SUCCESS", "starttime": 1, "exit_code": 0, "streams": streams}
        plain().post(f"{process.url}/1/10/result", json=result, timeout=60)
        done = running.done()
    finally:
        process.stop()
    assert done.out.splitlines() == [f"line {number}" for number in (*range(1, 301), *range(303, 401), 301, 302)]
    assert done.err == (
        "greenagent-ctl: the controller was restarted; lines of stdout of 1:10 that are missing above follow here: 2\n"
    )


def test_a_controller_that_has_forgotten_the_job_is_said(tmp_path) -> None:
    process = ControllerProcess(tmp_path)
    running = Ctl("--url", process.url, *on_node("--id", "x", "--wait-for-agent", "60", "--", "job"))
    try:
        wait_until(lambda: FOLLOWS in running.err, what="it to follow the job")
        process.kill()
        process.start()
        done = running.done()
    finally:
        process.stop()
    assert (done.code, done.out) == (125, "")
    assert "restarted and has forgotten the job x; it may still run on 1:10" in done.err
    assert "--state" in done.err


def test_following_a_job_that_a_restarted_controller_has_forgotten_is_125(tmp_path) -> None:
    process = ControllerProcess(tmp_path)
    job = {"id": "x", "cmd": "execute", "gid": 1, "nid": 10, "args": {"name": "job"}, "wait_for_agent": 60}
    line = {"id": 1, "jobid": "x", "level": 1, "data": "one", "epoch_ms": 1000}
    try:
        assert plain().post(f"{process.url}/api/jobs", json=job, timeout=60).status_code == 202
        assert plain().post(f"{process.url}/1/10/log", json=[line], timeout=60).status_code == 200
        following = Ctl("--url", process.url, "logs", "x", "--follow")
        wait_until(lambda: "one" in following.out, what="the first line")
        process.kill()
        process.start()
        done = following.done()
    finally:
        process.stop()
    assert (done.code, texts_of(done.out)) == (125, ["one"])
    assert done.err == (
        "greenagent-ctl: the controller was restarted and has forgotten the job x;"
        " it may still run (start the controller with --state)\n"
    )


@pytest.mark.parametrize("last", ["logs", "x"])
def test_following_is_125_also_where_nothing_was_asked_while_the_controller_was_away(last: str) -> None:
    """It was said to have lines of the job, with exit code 0. ``last``: the last that it knew."""
    pages = {"logs": {"lines": [], "next": 0, "dropped": 0, "finished": False, "run": "r"}, "x": {"results": []}}
    asked: list[str] = []

    def application(environ: Any, start_response: Any) -> list[bytes]:
        name = environ["PATH_INFO"].rpartition("/")[2]
        if last in asked and name != last:
            pages.clear()
        asked.append(name)
        start_response("200 OK" if name in pages else "404 Not Found", [("Content-Type", "application/json")])
        return [json.dumps(pages.get(name, {"error": "no job with the id 'x' is known"})).encode()]

    server = WSGIServer(("127.0.0.1", 0), application, log=None)
    server.start()
    try:
        done = ctl(f"http://127.0.0.1:{server.server_port}", "logs", "x", "--follow")
    finally:
        server.stop()
    assert (done.code, done.out) == (125, "")
    assert done.err.startswith("greenagent-ctl: the controller was restarted and has forgotten the job x;")
