"""Stamps of jobs are of the wall clock, also of one that was set while the controller ran."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.support.clock import ShiftedClock
from tests.support.controllers import ControllerProcess
from tests.support.local_controller import plain

YEAR = 365 * 86_400


@pytest.mark.parametrize("wrong_by", [-YEAR, YEAR], ids=["slow", "fast"])
def test_stamps_are_right_once_a_wrong_clock_was_set(tmp_path, monkeypatch, wrong_by) -> None:
    clock = ShiftedClock(tmp_path)
    clock.set(wrong_by)
    options = ("--state", str(tmp_path / "state.db"))
    with monkeypatch.context() as environment:
        for name, value in clock.environment.items():
            environment.setenv(name, value)
        process = ControllerProcess(tmp_path, *options)
    clock.set(0)
    try:
        for job_id in ("running", "done"):
            job = {"id": job_id, "cmd": "execute", "gid": 1, "nid": 10, "wait_for_agent": 600}
            assert plain().post(f"{process.url}/api/jobs", json=job, timeout=60).status_code == 202
            assert plain().get(f"{process.url}/1/10/cmd", timeout=60).json()["id"] == job_id
        result = {"id": "done", "state": "SUCCESS", "starttime": 1, "data": ""}
        assert plain().post(f"{process.url}/1/10/result", json=result, timeout=60).json() == "ok"
        done, running = shown(process)
        now = time.time()
        for stamp in (done["created"], done["finished"], running["created"], running["results"][0]["starttime"] / 1000):
            assert abs(stamp - now) < 60
        assert 0 <= done["finished"] - done["created"] < 60
        assert process.stop() == 0
        process = ControllerProcess(tmp_path, *options)
        assert shown(process) == [done, running]
    finally:
        process.stop()


def shown(process: ControllerProcess) -> list[Any]:
    """The jobs posted within the last hour, newest first."""
    jobs = plain().get(f"{process.url}/api/jobs", params={"since": time.time() - 3600}, timeout=60).json()["jobs"]
    return [plain().get(f"{process.url}/api/jobs/{job['id']}", timeout=60).json() for job in jobs]
