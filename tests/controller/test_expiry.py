"""A command that is not started in time ends with a clear result instead of running late."""

from __future__ import annotations

import json

import pytest

from greenagent.controller.expiry import has_expired
from greenagent.controller.fleet.job_reader import EXPIRING, job_key
from greenagent.controller.fleet.jobs import FleetJobs
from tests.support.local_controller import Agent, LocalController, start
from tests.support.waiting import wait_until

COMMAND = {"id": "j", "cmd": "execute", "gid": 1, "nid": 10, "wait_for_agent": 600}


def make_expire(controller: LocalController, job_id: str) -> None:
    """As if it had been posted an hour earlier: no machine is too slow then to start a job in time."""
    jobs = controller.services.jobs
    if isinstance(jobs, FleetJobs):
        redis = jobs._redis
        meta = json.loads(redis.run("HGET", job_key(job_id), "meta"))
        meta["created"] -= 3600
        redis.run("HSET", job_key(job_id), "meta", json.dumps(meta))
        redis.run("ZADD", EXPIRING, 1, job_id)
    else:
        job = jobs.get(job_id)
        job.created -= 3600
        jobs._expiring.add(job)


def await_expiry(controller: LocalController, job_id: str) -> None:
    """Until it has been looked at."""
    jobs = controller.services.jobs
    if isinstance(jobs, FleetJobs):
        looked = lambda: jobs._redis.run("ZSCORE", EXPIRING, job_id) is None  # noqa: E731
    else:
        looked = lambda: not jobs._expiring._moments  # noqa: E731
    wait_until(looked, what="it to have expired")


def expired(controller: LocalController, job_id: str = "j") -> None:
    (result,) = controller.results(job_id, wait=60)
    assert result["state"] == "ERROR"
    assert result["data"] == "expired: not started within 0.2 s"
    assert result["delivered"] is False


def test_what_no_agent_takes_in_time_ends(controller, agent) -> None:
    controller.submit(**COMMAND, expires=0.2)
    expired(controller)
    controller.submit(id="other", gid=1, nid=10, wait_for_agent=60)
    assert agent.take()["id"] == "other"


def test_the_key_is_no_unknown_one(controller) -> None:
    assert controller.submit(**COMMAND, expires=600)["warnings"] == []
    assert controller.get("jobs/j")["expires"] == 600


def test_what_was_started_in_time_goes_on(controller, agent) -> None:
    start(controller, agent, expires=600)
    make_expire(controller, "j")
    await_expiry(controller, "j")
    assert controller.state("j") == "RUNNING"
    agent.finish("j")
    assert controller.state("j") == "SUCCESS"


def test_it_is_not_handed_over_late_before_it_was_seen_that_it_expired(controller, agent) -> None:
    """Only once a second somebody looks for what has expired; an agent may come before that."""
    jobs = controller.services.jobs
    jobs.take_expired = list
    controller.submit(**COMMAND, expires=0.2)
    controller.submit(id="next", gid=1, nid=10, wait_for_agent=60)
    job = jobs.get("j")
    wait_until(lambda: has_expired(job), what="it to expire")
    assert agent.take()["id"] == "next"
    expired(controller)


def test_what_waits_at_its_agent_is_killed_there(controller) -> None:
    agent = Agent(controller)
    for job_id in ("j", "short"):
        start(controller, agent, job_id, expires=600)
        agent.post("waiting", [{"id": job_id, "waits": True}])
    assert kills(controller) == []
    make_expire(controller, "short")
    order = wait_until(lambda: kills(controller), what="the kill command")
    assert [json.loads(one["data"]) for one in order] == [{"id": "short"}]


def test_an_agent_that_tells_late_that_it_waits_is_told_to_kill_it(controller, agent) -> None:
    start(controller, agent, expires=600)
    make_expire(controller, "j")
    await_expiry(controller, "j")
    assert kills(controller) == []
    agent.post("waiting", [{"id": "j", "waits": True}])
    assert len(kills(controller)) == 1


def kills(controller: LocalController) -> list[dict]:
    found = [job["id"] for job in controller.get("jobs")["jobs"] if job["cmd"] == "kill"]
    return [controller.get(f"jobs/{job_id}")["command"] for job_id in found]


@pytest.mark.local
def test_one_that_expired_while_no_controller_was_there_is_never_handed_over(make_controller, tmp_path) -> None:
    state = tmp_path / "state.db"
    first = make_controller(state=state)
    first.submit(**COMMAND, expires=0.2)
    first.submit(**{**COMMAND, "id": "alone", "nid": 11}, expires=0.2)
    first.submit(id="next", gid=1, nid=10, wait_for_agent=60)
    job = first.services.jobs.get("j")
    first.stop()
    wait_until(lambda: has_expired(job), what="it to expire")
    second = make_controller(state=state)
    assert Agent(second).take()["id"] == "next"
    expired(second)
    expired(second, "alone")


@pytest.mark.parametrize("value", [0, -1, "5", True, 1e12])
def test_what_is_no_time_is_refused(controller, value) -> None:
    answer = controller.post("jobs", {**COMMAND, "expires": value})
    assert answer.status_code == 400
    assert "'expires'" in answer.json()["error"]


def test_an_expired_run_of_a_schedule_makes_room_for_the_next(controller) -> None:
    command = {**COMMAND, "expires": 0.2}
    del command["id"]
    answer = controller.post("schedules", {"id": "s", "cron": "* * * * * *", "command": command})
    assert answer.status_code == 201
    wait_until(lambda: controller.get("schedules/s")["runs"] >= 2, what="two runs")
    wait_until(
        lambda: any(job["state"] == "ERROR" for job in controller.get("jobs")["jobs"]), what="one that has expired"
    )
