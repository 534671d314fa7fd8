"""``/api``: access rules, reading, killing, uploads."""

from __future__ import annotations

import json

import gevent
import pytest

from greenagent.cli.ctl import show
from greenagent.controller.http.access import Access, TokenFile
from greenagent.controller.http.job_list import SORTS
from greenagent.controller.limits import Limits
from greenagent.runtime.agent_log import AgentLog
from tests.support.calls import note_calls
from tests.support.local_controller import ORIGINAL, Agent, plain, start
from tests.support.waiting import wait_until


@pytest.mark.parametrize("path", ["/api/agents", "//api/agents", "/api/agents/", "/api//agents"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", "localhost.evil.example"])
def test_an_unknown_host_is_refused_however_the_path_is_written(controller, path, host) -> None:
    answer = plain().get(controller.url + path, headers={"Host": host}, timeout=60)
    assert answer.status_code in (403, 404)
    assert "agents" not in answer.json()


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:80", "10.0.0.1", "known.example"])
def test_known_hosts_and_addresses_are_served(make_controller, host) -> None:
    controller = make_controller(host_names=("known.example",))
    assert plain().get(f"{controller.url}/api/agents", headers={"Host": host}, timeout=60).status_code == 200


@pytest.mark.parametrize("content_type", ["text/plain", "", "application/x-www-form-urlencoded", "application/jsonx"])
@pytest.mark.parametrize("path", ["jobs", "scripts", "jobs/x/kill"])
def test_posts_need_their_content_type(controller, path, content_type) -> None:
    answer = plain().post(
        f"{controller.url}/api/{path}", data=b"{}", headers={"Content-Type": content_type}, timeout=60
    )
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]


def test_the_token_is_asked_for(make_controller) -> None:
    controller = make_controller(token=lambda: "secret")
    url = f"{controller.url}/api/agents"
    for header in (None, "Bearer wrong", "secret", "Bearer", "Bearer \xe9"):
        headers = {} if header is None else {"Authorization": header.encode("latin-1")}
        assert plain().get(url, headers=headers, timeout=60).status_code == 401
    answer = plain().get(url, headers={"Authorization": "Bearer secret"}, timeout=60)
    assert answer.json() == {"agents": []}
    assert plain().get(f"{controller.url}/1/10/ping", timeout=60).status_code == 200


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("", False),
    ],
)
def test_other_machines_are_refused_without_a_token(address, allowed) -> None:
    import falcon
    from falcon.testing import create_environ

    request = falcon.Request(create_environ("/api/agents", remote_addr=address, host="localhost"))
    request.env["REMOTE_ADDR"] = address
    access = Access(None, (), AgentLog(None))
    if allowed:
        access.process_resource(request, falcon.Response(), object(), {})
    else:
        with pytest.raises(falcon.HTTPForbidden):
            access.process_resource(request, falcon.Response(), object(), {})


def test_requests_through_a_proxy_need_the_token(controller) -> None:
    answer = plain().get(f"{controller.url}/api/agents", headers={"X-Forwarded-For": "10.0.0.1"}, timeout=60)
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[evil"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://own.example:8966", "Sec-Fetch-Site": "same-origin"}, 202),
        ({"Sec-Fetch-Site": "none"}, 202),
    ],
)
def test_a_page_of_somebody_else_may_neither_post_nor_read(make_controller, headers, status) -> None:
    controller = make_controller(host_names=["own.example"])
    given = {"Host": "own.example:8966", "Content-Type": "application/json", **headers}
    command = {"cmd": "ping", "gid": 1, "nid": 10}
    posted = plain().post(f"{controller.url}/api/jobs", headers=given, data=json.dumps(command), timeout=60)
    read = plain().get(f"{controller.url}/api/jobs", headers=given, timeout=60)
    assert (posted.status_code, read.status_code) == (status, 200 if status == 202 else status)
    assert len(controller.get("jobs")["jobs"]) == (status == 202)


def test_unknown_things_are_json_errors(controller) -> None:
    for path in ("jobs/none", "jobs/none/logs", "nothing"):
        answer = plain().get(f"{controller.url}/api/{path}", timeout=60)
        assert answer.status_code == 404
        assert answer.json()["error"]
    assert controller.post("jobs/none/kill", {}).status_code == 404
    assert plain().get(f"{controller.url}/api/jobs/x?wait=long", timeout=60).status_code in (400, 404)
    assert plain().put(f"{controller.url}/api/jobs", json={}, timeout=60).status_code == 405


@pytest.mark.parametrize("job_id", ["a/b", "a%2Fb", "ä ö", "a?b#c", "../x", "a+b&c", "%", "x" * 200])
def test_any_id_can_be_asked_for(controller, agent, job_id) -> None:
    from urllib.parse import quote

    agent.poll()
    controller.submit(id=job_id, gid=1, nid=10)
    agent.finish(job_id)
    assert controller.get(f"jobs/{quote(job_id, safe='')}")["id"] == job_id
    assert controller.get(f"jobs/{quote(job_id, safe='')}/logs")["id"] == job_id


def test_the_list_of_jobs_filters_and_sorts(controller, agent) -> None:
    start(controller, agent, "one")
    agent.finish("one", exit_code=0)
    start(controller, agent, "two")
    controller.submit(id="three", gid=1, nid=11, wait_for_agent=60)
    ids = lambda **filters: [job["id"] for job in controller.get("jobs", **filters)["jobs"]]  # noqa: E731
    assert ids() == ["three", "two", "one"]
    assert ids(state="success") == ["one"]
    assert ids(state="RUNNING") == ["two"]
    assert ids(agent="1:11") == ["three"]
    assert ids(limit=1) == ["three"]
    since = controller.get("jobs/two")["created"]
    assert ids(since=since) == ["three", "two"]
    assert ids(until=since + 3600) == ["three", "two", "one"]
    assert ids(until=since - 3600) == []
    assert ids(state="success,Queued") == ["three", "one"]
    assert ids(state=["RUNNING", "QUEUED"]) == ["three", "two"]
    assert ids(state="waiting") == []
    assert agent.post("waiting", [{"id": "two", "waits": True}]).json() == "ok"
    assert ids(state="waiting") == ids(state="RUNNING") == ["two"], "the protocol knows no other state of it"
    assert ids(state="failed") == []
    agent.finish("two", "TIMEOUT", exit_code=None, signal="SIGTERM", starttime=int(since * 1000) + 5000, time=70)
    controller.post("jobs/three/kill", {})
    assert ids(state="failed") == ["three", "two"]
    for sort, found in (
        ("posted", ["one", "two", "three"]),
        ("start", ["three", "one", "two"]),
        ("end", ["one", "two", "three"]),
        ("waited", ["three", "one", "two"]),
        ("took", ["three", "one", "two"]),
        ("exit", ["one", "two", "three"]),
        ("job", ["one", "three", "two"]),
    ):
        assert ids(sort=sort) == found, sort
        assert ids(sort=sort, limit=2) == found[1:], sort
    assert tuple(SORTS) == show.SORTS
    for refused in (
        "agent=x",
        "state=foo",
        "state=failed,foo",
        "sort=size",
        "until=then",
        "limit=0",
        "limit=-3",
        "limit=many",
    ):
        assert plain().get(f"{controller.url}/api/jobs?{refused}", timeout=60).status_code == 400, refused


def test_kill_sends_a_kill_command_to_the_agents_of_the_job(controller, agent) -> None:
    start(controller, agent)
    answer = controller.post("jobs/j/kill", {"signal": "USR1"})
    assert answer.status_code == 202
    [sent] = answer.json()["kills"]
    command = agent.take()
    assert command["cmd"] == "kill"
    assert command["id"] == sent["id"]
    assert json.loads(command["data"]) == {"id": "j", "signal": "USR1"}
    assert controller.state("j") == "RUNNING"
    agent.finish("j", state="KILLED")
    assert controller.post("jobs/j/kill", {}).status_code == 409


@pytest.mark.parametrize("signal", ["NONE", "SIG", "", 0, -1, 99, "99", True, 1.5, ["TERM"]])
def test_a_signal_that_is_none_is_refused_before_anything_is_sent(controller, agent, signal) -> None:
    start(controller, agent)
    refused = controller.post("jobs/j/kill", {"signal": signal})
    assert refused.status_code == 400
    assert "signal" in refused.text
    assert [job["id"] for job in controller.get("jobs")["jobs"]] == ["j"]
    for known in ("term", "SIGHUP", 34, "9"):
        assert controller.post("jobs/j/kill", {"signal": known}).status_code == 202


def test_kill_cancels_what_no_agent_has_yet(controller, agent) -> None:
    controller.submit(id="node", gid=1, nid=10, wait_for_agent=60)
    controller.submit(id="role", roles=["web"], wait_for_agent=60)
    for job_id in ("node", "role"):
        assert controller.post(f"jobs/{job_id}/kill", {}).json()["state"] == "KILLED"
        assert controller.results(job_id)[0]["state"] == "KILLED"
    poll = Agent(controller, roles=["web"]).poll()
    assert not poll.over


def test_logs_are_served_by_job_in_order(controller, agent) -> None:
    start(controller, agent)
    line = {"jobid": "j", "domain": "d", "name": "n", "epoch": 7, "epoch_ms": 7500, "level": 1}
    agent.post("log", [{**line, "id": number, "data": str(number)} for number in range(1, 6)])
    agent.post("log", [{**line, "id": 9, "jobid": "other", "data": "x"}])
    answer = controller.get("jobs/j/logs", limit=3)
    assert [one["data"] for one in answer["lines"]] == ["1", "2", "3"]
    assert answer["lines"][0] == {
        "number": 1,
        "gid": 1,
        "nid": 10,
        "id": 1,
        "jobid": "j",
        "domain": "d",
        "name": "n",
        "epoch": 7,
        "epoch_ms": 7500,
        "level": 1,
        "data": "1",
    }
    answer = controller.get("jobs/j/logs", after=answer["next"])
    assert [one["data"] for one in answer["lines"]] == ["4", "5"]
    assert (answer["dropped"], answer["finished"]) == (0, False)


def test_a_batch_that_is_sent_again_shows_once(controller, agent) -> None:
    start(controller, agent)
    batch = [{"jobid": "j", "id": number, "level": 1, "data": str(number)} for number in range(1, 4)]
    agent.post("log", batch)
    agent.post("log", [*batch, {"jobid": "j", "id": 4, "level": 1, "data": "4"}])
    assert [one["data"] for one in controller.get("jobs/j/logs")["lines"]] == ["1", "2", "3", "4"]


def test_following_wakes_for_lines_and_for_the_end(controller, agent, monkeypatch) -> None:
    start(controller, agent)
    reads = note_calls(monkeypatch, controller.services.lines, "read")
    follow = gevent.spawn(controller.get, "jobs/j/logs", follow=1, wait=30)
    wait_until(lambda: reads, what="the first look at the lines")
    agent.post("log", [{"jobid": "j", "id": 1, "level": 1, "data": "x"}])
    answer = follow.get(timeout=60)
    assert [one["data"] for one in answer["lines"]] == ["x"]
    reads.clear()
    follow = gevent.spawn(controller.get, "jobs/j/logs", follow=1, wait=30, after=answer["next"])
    wait_until(lambda: reads, what="the second look at the lines")
    agent.finish("j")
    answer = follow.get(timeout=60)
    assert (answer["lines"], answer["finished"]) == ([], True)


@pytest.mark.local
def test_lines_are_kept_within_the_caps(make_controller) -> None:
    controller = make_controller(Limits(log_lines_per_job=10, log_bytes=10_000))
    agent = Agent(controller)
    start(controller, agent)
    agent.post("log", [{"jobid": "j", "id": number, "level": 1, "data": str(number)} for number in range(1, 31)])
    answer = controller.get("jobs/j/logs")
    assert [one["data"] for one in answer["lines"]] == [str(number) for number in range(21, 31)]
    assert answer["dropped"] == 20
    agent.post("log", [{"jobid": "k", "id": 99, "level": 1, "data": "x" * 9000}])
    answer = controller.get("jobs/j/logs")
    assert answer["dropped"] > 25
    assert len(answer["lines"]) + answer["dropped"] == 30


def test_originals_lines_without_a_job_are_taken(controller, agent) -> None:
    assert agent.post("log", [{"epoch": 1_450_000_000_000, "level": 1, "id": 5, "data": "x"}]).status_code == 200


def test_the_newest_figures_are_shown(controller, agent) -> None:
    agent.post("stats", [{"timestamp": 60, "series": [["1.10.d.n.cpu", 5], ["1.10.d.n.rss", 7]]}])
    agent.post("stats", [{"timestamp": 120, "series": [["1.10.d.n.cpu", 6.5]]}])
    agent.post("stats", [{"timestamp": 60, "series": [["1.10.d.n.cpu", 1]]}])
    [shown] = controller.get("stats")["agents"]
    assert (shown["gid"], shown["nid"]) == (1, 10)
    assert shown["figures"] == {
        "1.10.d.n.cpu": {"timestamp": 120, "value": 6.5, "interval": 60},
        "1.10.d.n.rss": {"timestamp": 60, "value": 7.0, "interval": None},
    }


def test_the_token_is_read_again_when_its_file_changes(make_controller, tmp_path) -> None:
    path = tmp_path / "token"
    path.write_text("a" * 32)
    path.chmod(0o640)
    said: list[str] = []
    agent_log = AgentLog(None)
    agent_log.attach(lambda level, text: said.append(text))
    controller = make_controller(token=TokenFile(path, agent_log))
    assert not said

    def asked(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return plain().get(f"{controller.url}/api/agents", headers=headers, timeout=60).status_code

    assert (asked("a" * 32), asked("b" * 32)) == (200, 401)
    assert "refused a wrong token from 127.0.0.1" in controller.said[-1]
    path.write_text("b" * 33)
    assert (asked("a" * 32), asked("b" * 33)) == (401, 200)
    path.chmod(0o646)
    assert asked("b" * 33) == 200
    assert "everybody here can write" in said[-1]
    path.write_text("short")
    path.chmod(0o644)
    assert asked("short") == 200
    assert "everybody here can read" in said[-3]
    assert "is short" in said[-2]


def test_a_signal_for_an_original_agent_is_refused_since_it_would_end_the_job(controller) -> None:
    agent = Agent(controller, user_agent=ORIGINAL)
    start(controller, agent)
    refused = controller.post("jobs/j/kill", {"signal": "HUP"})
    assert refused.status_code == 409
    assert "agent 1:10 is an original one" in refused.text
    assert controller.post("jobs/j/kill", {}).status_code == 202


def test_restart_of_an_original_agent_ends_when_it_is_there_again(controller) -> None:
    agent = Agent(controller, user_agent=ORIGINAL)
    start(controller, agent, cmd="restart")
    agent.post("event", {"name": "other"})
    assert controller.state("j") == "RUNNING"
    agent.post("event", {"name": "startup"})
    [result] = controller.results("j")
    assert (result["state"], result["data"]) == ("SUCCESS", "the agent has been started again")
