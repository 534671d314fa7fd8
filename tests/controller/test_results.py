"""What results do to jobs (protocol 4, design, section 5 "Roles and the embedded controller")."""

from __future__ import annotations

import json

import gevent
import pytest

from greenagent.controller.limits import MIB, Limits
from tests.support.local_controller import Agent, plain, start
from tests.support.memory import resident


def test_placeholders_then_the_result(controller, agent) -> None:
    agent.poll().hang_up()
    controller.submit(id="j", gid=1, nid=10)
    assert controller.results("j", wait=0) == [{"id": "j", "gid": 1, "nid": 10, "state": "QUEUED"}]
    agent.take()
    [running] = controller.results("j", wait=0)
    assert running["state"] == "RUNNING"
    assert running["starttime"] > 10**12
    agent.finish("j", data="42", level=20, streams=["a\n", ""], exit_code=0)
    [result] = controller.results("j", wait=0)
    assert (result["state"], result["data"], result["streams"]) == ("SUCCESS", "42", ["a\n", ""])


def test_waiting_for_a_job_ends_with_its_result(controller, agent) -> None:
    start(controller, agent)
    waiting = gevent.spawn(controller.results, "j", 60)
    agent.finish("j")
    assert waiting.get(timeout=60)[0]["state"] == "SUCCESS"


def test_repeats_are_dropped(controller, agent) -> None:
    start(controller, agent)
    for data in ("first", "second"):
        assert agent.finish("j", data=data).json() == "ok"
    job = controller.get("jobs/j")
    assert job["results"][0]["data"] == "first"
    assert job["agents"][0]["results"] == 1


def test_repeats_at_the_same_time_are_dropped(make_controller, tmp_path) -> None:
    controller = make_controller(state=tmp_path / "state.db")
    agent = Agent(controller)
    start(controller, agent)
    gevent.joinall([gevent.spawn(agent.finish, "j") for _ in range(10)], raise_error=True)
    assert controller.get("jobs/j")["agents"][0]["results"] == 1


def test_a_very_fast_result_is_not_overwritten_by_the_placeholder(controller, agent) -> None:
    """The result arrives before the answer of the poll has been read."""
    poll = agent.poll()
    controller.submit(id="j", gid=1, nid=10)
    agent.finish("j")
    poll.command()
    assert controller.state("j") == "SUCCESS"


def test_a_duplicate_id_never_ends_the_job_that_owns_the_id(controller, agent) -> None:
    start(controller, agent)
    assert agent.finish("j", state="DUPILICATE_ID", starttime=0).json() == "ok"
    assert controller.state("j") == "RUNNING"
    agent.finish("j")
    assert controller.state("j") == "SUCCESS"
    agent.finish("j", state="DUPILICATE_ID", starttime=0)
    assert controller.state("j") == "SUCCESS"


def test_a_second_copy_that_was_refused_does_not_count(make_controller) -> None:
    controller = make_controller(Limits(refusal=0.1))
    agent = Agent(controller, acknowledge="")
    start(controller, agent)
    agent.poll().command()  # offered again
    agent.finish("j", state="DUPILICATE_ID", starttime=0)
    controller.services.results.sweep()
    assert controller.results("j", wait=1)[0]["state"] == "RUNNING"


def test_a_job_refused_for_one_of_another_controller_ends_after_a_while(make_controller) -> None:
    controller = make_controller(Limits(refusal=0.1))
    agent = Agent(controller)
    start(controller, agent)
    agent.finish("j", state="DUPILICATE_ID", starttime=0)
    [result] = controller.results("j", wait=60)
    assert result["state"] == "DUPILICATE_ID"
    agent.finish("j", data="true")
    assert controller.results("j", wait=0)[0]["state"] == "SUCCESS"


def test_a_refusal_of_an_unknown_job_ends_it_until_the_true_result_comes(controller, agent) -> None:
    agent.finish("unknown", state="DUPILICATE_ID")
    job = controller.get("jobs/unknown")
    assert (job["state"], job["agents"][0]["started"], job["agents"][0]["took"]) == ("DUPILICATE_ID", None, None)
    agent.finish("unknown", data="true")
    assert controller.results("unknown", wait=0)[0]["data"] == "true"


def test_a_recurring_job_keeps_its_latest_results_within_a_cap(make_controller) -> None:
    controller = make_controller(Limits(results_per_agent=3))
    agent = Agent(controller)
    start(controller, agent, "s", args={"restart": "always"})
    service = controller.get("jobs/s")
    assert (service["service"], service["restarts"], service["recurring"]) == (True, True, False)
    assert service["agents"][0]["running_since"] >= service["agents"][0]["handed_over"]
    start(controller, agent, args={"recurring_period": 60})
    for number in range(1, 6):
        agent.finish("j", starttime=number, data=str(number))
    job = controller.get("jobs/j", wait=5)
    assert (job["state"], job["finished"]) == ("RUNNING", None)
    assert job["agents"][0]["results"] == 5
    assert [result["data"] for result in job["earlier"]] == ["3", "4"]
    assert job["results"][0]["data"] == "5"
    agent.finish("j", starttime=9, state="KILLED")
    assert controller.state("j") == "KILLED"


def test_the_identity_is_that_of_the_address(controller, agent) -> None:
    start(controller, agent)
    agent.post("result", {"id": "j", "gid": 9, "nid": 9, "state": "SUCCESS", "starttime": 1})
    [result] = controller.results("j", wait=0)
    assert (result["gid"], result["nid"], result["state"]) == (1, 10, "SUCCESS")


def test_a_result_of_an_unknown_job_is_kept(controller, agent) -> None:
    """The controller was restarted without a state file while the job ran."""
    agent.finish("unknown", data="kept")
    agent.finish("unknown", data="repeat")
    job = controller.get("jobs/unknown")
    assert job["state"] == "SUCCESS"
    assert [result["data"] for result in job["results"]] == ["kept"]


@pytest.mark.parametrize(
    "result",
    [
        [],
        "text",
        None,
        {},
        {"id": 5, "state": "SUCCESS"},
        {"id": "j"},
        {"id": "j", "state": "RUNNING"},
        {"id": "j", "state": ["SUCCESS"]},
        {"id": "j", "state": "SUCCESS", "starttime": "now"},
        {"id": "j", "state": "SUCCESS", "data": {"a": 1}},
        {"id": "j", "state": "SUCCESS", "streams": "text"},
    ],
)
def test_what_is_no_result_is_refused_as_the_original_does(controller, agent, result) -> None:
    start(controller, agent)
    answer = agent.post("result", result)
    assert (answer.status_code, answer.json()) == (500, "json error")
    assert controller.state("j") == "RUNNING"


def test_finished_jobs_are_kept_for_a_number_and_a_time(make_controller) -> None:
    controller = make_controller(Limits(keep_jobs=2, keep_least=0))
    agent = Agent(controller)
    for number in range(4):
        start(controller, agent, f"j{number}")
        agent.finish(f"j{number}")
    start(controller, agent, "running")
    controller.services.backend.tidy()
    assert [job["id"] for job in controller.get("jobs")["jobs"]] == ["running", "j3", "j2"]
    controller = make_controller(Limits(keep_for=0, keep_least=0))
    agent = Agent(controller)
    start(controller, agent)
    agent.finish("j")
    controller.services.backend.tidy()
    assert "j" not in [job["id"] for job in controller.get("jobs")["jobs"]]


@pytest.mark.local
def test_whoever_waits_for_a_job_finds_it_however_little_is_kept(make_controller) -> None:
    controller = make_controller(Limits(keep_jobs=0, keep_for=0, keep_least=300, keep_bytes=14_000))
    agent = Agent(controller)
    for number in range(3):
        start(controller, agent, f"j{number}")
        agent.finish(f"j{number}")
    controller.services.backend.tidy()
    assert [job["id"] for job in controller.get("jobs")["jobs"]] == ["j2", "j1", "j0"]
    start(controller, agent, "large")
    agent.finish("large", data="x" * 9000)
    controller.services.backend.tidy()
    assert [job["id"] for job in controller.get("jobs")["jobs"]] == ["large"]


def test_too_many_unfinished_jobs_are_refused(make_controller) -> None:
    controller = make_controller(Limits(unfinished_jobs=2))
    for _ in range(2):
        controller.submit(gid=1, nid=10, wait_for_agent=60)
    answer = controller.post("jobs", {"gid": 1, "nid": 10, "cmd": "execute"})
    assert answer.status_code == 503


@pytest.mark.local
@pytest.mark.parametrize("recurring", [False, True])
def test_results_of_jobs_nobody_posted_never_keep_posted_ones_out(make_controller, tmp_path, recurring) -> None:
    """Also after a restart; what is too much of them goes, the oldest first."""
    limits = Limits(unfinished_bytes=50_000, unfinished_jobs=5, adopted_bytes=100_000, adopted_per_agent=8)
    controller = make_controller(limits, state=tmp_path / "state.db")
    stranger = Agent(controller, nid=66)
    args = {"recurring_period": 5} if recurring else {}
    for number in range(20):
        assert stranger.finish(f"invented{number}", args=args, data="x" * 9000).json() == "ok"
    for _ in range(2):
        jobs = controller.services.jobs
        assert [job.id for job in jobs.newest() if job.adopted] == [f"invented{number}" for number in range(19, 12, -1)]
        assert controller.post("jobs", {"gid": 1, "nid": 10, "cmd": "x", "wait_for_agent": 60}).status_code == 202
        controller.stop()
        controller = make_controller(limits, state=tmp_path / "state.db")


@pytest.mark.local
def test_results_of_jobs_that_go_on_never_keep_new_jobs_out(make_controller) -> None:
    """As many recurring jobs with results as large as they may be once filled the memory for unfinished jobs."""
    controller = make_controller(Limits(unfinished_bytes=200_000))
    agent = Agent(controller)
    for number in range(18):
        start(controller, agent, f"r{number}", args={"recurring_period": 5})
        assert agent.finish(f"r{number}", args={"recurring_period": 5}, data="x" * 12_000).json() == "ok"
    data = [controller.results(f"r{number}")[0]["data"] for number in range(18)]
    assert data[0] == "x" * 12_000
    assert data[-1].startswith("left out: results of jobs that go on take half of the memory")
    assert controller.post("jobs", {"gid": 1, "nid": 10, "cmd": "x", "wait_for_agent": 60}).status_code == 202


def test_a_posted_job_takes_an_id_that_an_agent_has_claimed(controller, agent) -> None:
    Agent(controller, nid=66).finish("nightly", data="claimed")
    start(controller, agent, "nightly")
    agent.finish("nightly", data="true")
    [result] = controller.results("nightly")
    assert (result["nid"], result["data"]) == (10, "true")


@pytest.mark.parametrize("roles", [[], ["web"]])
def test_a_result_of_an_agent_that_was_never_given_the_job_does_not_count(controller, agent, roles) -> None:
    target = {"roles": roles} if roles else {"gid": 1, "nid": 10}
    controller.submit(id="j", wait_for_agent=60, **target)
    assert Agent(controller, nid=66).finish("j", data="forged").json() == "ok"
    job = controller.get("jobs/j")
    assert (job["state"], len(job["agents"])) == ("QUEUED", 1)
    [said] = controller.said
    assert "agent 1:66 posted a result of job j, which it was never given" in said


def test_the_memory_for_results_is_what_its_cap_says(make_controller) -> None:
    """Wherever in the result the bytes are, and however little they are as text."""
    cap = 24 * MIB
    controller = make_controller(Limits(keep_bytes=cap, adopted_bytes=MIB, keep_least=0))
    agent = Agent(controller)
    before = None
    wide = json.dumps([[]] * 100_000)
    for number in range(45):
        start(controller, agent, f"j{number}")
        data = f'"\U0001f600{"x" * MIB}"'
        body = f'{{"id": "j{number}", "state": "SUCCESS", "starttime": 1, "args": {wide}, "data": {data}}}'
        assert plain().post(f"{agent.url}/result", data=body.encode(), timeout=60).json() == "ok"
        controller.services.results.sweep()
        if number == 2:
            before = resident()
    assert before is not None
    assert resident() - before < 1.5 * cap


def test_only_what_a_result_may_hold_is_shown(controller, agent) -> None:
    start(controller, agent)
    agent.finish("j", delivered=False, critical=5, exit_code="7", level="x", tags=["a"])
    [result] = controller.results("j")
    assert "delivered" not in result
    assert (result["critical"], result["exit_code"], result["level"], result["tags"]) == ("5", None, 0, '["a"]')
    for bad in ("x" * 201, "a\x1b[31m", "agent"):
        assert agent.finish(bad).json() == "json error"


def test_what_agents_cause_is_said_within_limits(controller, agent) -> None:
    for _ in range(100):
        agent.post("result", {"id": 5})
    assert len(controller.said) < 30
