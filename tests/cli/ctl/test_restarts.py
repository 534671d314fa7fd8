"""``greenagent-ctl run`` while the controller is killed and started again."""

from __future__ import annotations

from tests.support.controllers import ControllerProcess
from tests.support.ctl import (
    Ctl,
    on_node,
)
from tests.support.local_controller import plain
from tests.support.waiting import wait_until


def test_a_controller_that_restarts_meanwhile_is_waited_for(tmp_path) -> None:
    state = ("--state", str(tmp_path / "state.db"))
    process = ControllerProcess(tmp_path, *state)
    running = Ctl("--url", process.url, *on_node("--id", "x", "--wait-for-agent", "60", "--", "job"))
    session = plain()
    wait_until(lambda: session.get(f"{process.url}/api/jobs", timeout=5).json()["jobs"], what="the job")
    process.kill()
    process.start()
    try:
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


def test_lines_lost_with_a_killed_controller_are_shown_once(tmp_path) -> None:
    state = ("--state", str(tmp_path / "state.db"))
    process = ControllerProcess(tmp_path, *state)
    running = Ctl("--url", process.url, *on_node("--id", "x", "--wait-for-agent", "60", "--", "job"))

    def upload(*numbers: int) -> None:
        batch = [{"id": n, "jobid": "x", "level": 1, "data": f"line {n}", "epoch_ms": 1000} for n in numbers]
        assert plain().post(f"{process.url}/1/10/log", json=batch, timeout=60).status_code == 200

    try:
        wait_until(lambda: plain().get(f"{process.url}/api/jobs", timeout=5).json()["jobs"], what="the job")
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
        wait_until(lambda: plain().get(f"{process.url}/api/jobs", timeout=5).json()["jobs"], what="the job")
        process.kill()
        process.start()
        done = running.done()
    finally:
        process.stop()
    assert (done.code, done.out) == (125, "")
    assert "restarted and has forgotten the job x; it may still run on 1:10" in done.err
    assert "--state" in done.err
