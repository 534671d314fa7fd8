"""Who gets which command (protocol 12.3, design, section 5 "Roles and the embedded controller")."""

from __future__ import annotations

import socket

import gevent
import pytest

from greenagent.controller.dispatch.agents import Poll
from greenagent.controller.limits import Limits
from greenagent.controller.model import AgentKey
from tests.support.local_controller import Agent, Poller
from tests.support.waiting import wait_until


def test_a_command_for_a_node_reaches_it_and_nobody_else(controller) -> None:
    one, other = Agent(controller, nid=10), Agent(controller, nid=11)
    polls = [one.poll(), other.poll()]
    answer = controller.submit(id="j", gid=1, nid=11, args={"name": "true"}, data="in")
    assert answer == {"id": "j", "agents": [{"gid": 1, "nid": 11}], "warnings": []}
    assert polls[1].command() == {
        "id": "j",
        "gid": 1,
        "nid": 11,
        "cmd": "execute",
        "args": {"name": "true"},
        "data": "in",
    }
    assert not polls[0].over


def test_commands_wait_in_order_for_a_live_agent_between_two_polls(controller, agent) -> None:
    controller.submit(id="first", gid=1, nid=10, wait_for_agent=60)
    agent.take()
    for number in range(3):
        controller.submit(id=f"next-{number}", gid=1, nid=10)
    assert [agent.take()["id"] for _ in range(3)] == ["next-0", "next-1", "next-2"]


def test_a_role_command_goes_to_the_agent_that_waited_longest(controller) -> None:
    first = Agent(controller, nid=1, roles=["web"]).poll()
    second = Agent(controller, nid=2, roles=["web", "db"]).poll()
    stranger = Agent(controller, nid=3, roles=["mail"]).poll()
    assert controller.submit(roles=["web"])["agents"] == [{"gid": 1, "nid": 1}]
    assert first.command() is not None
    assert controller.submit(role="web")["agents"] == [{"gid": 1, "nid": 2}]
    assert second.command() is not None
    assert not stranger.over


def test_all_roles_are_needed_and_the_star_is_any_agent(controller) -> None:
    half = Agent(controller, nid=1, roles=["web"]).poll()
    whole = Agent(controller, nid=2, roles=["db", "web"]).poll()
    assert controller.submit(roles=["web", "db"])["agents"] == [{"gid": 1, "nid": 2}]
    assert whole.command() is not None
    assert controller.submit(roles=["*"])["agents"] == [{"gid": 1, "nid": 1}]
    assert half.command() is not None


def test_the_grid_filters(controller) -> None:
    Agent(controller, gid=1, nid=1, roles=["web"]).poll()
    Agent(controller, gid=2, nid=1, roles=["web"]).poll()
    assert controller.submit(gid=2, roles=["web"])["agents"] == [{"gid": 2, "nid": 1}]
    answer = controller.submit(id="none", gid=3, roles=["web"])
    assert answer["agents"] == []
    [result] = controller.results("none")
    assert result["state"] == "ERROR"
    assert result["data"].startswith("No matching connected agents found: ")


def test_fanout_reaches_every_matching_agent_once(controller) -> None:
    polls = {nid: Agent(controller, nid=nid, roles=["web"]).poll() for nid in (1, 2, 3)}
    other = Agent(controller, nid=4, roles=["db"]).poll()
    answer = controller.submit(id="f", roles=["web"], fanout=True)
    assert [agent["nid"] for agent in answer["agents"]] == [1, 2, 3]
    for nid, poll in polls.items():
        assert poll.command()["id"] == "f"
        Agent(controller, nid=nid).finish("f")
    assert not other.over
    assert {result["nid"] for result in controller.results("f")} == {1, 2, 3}
    assert controller.state("f") == "SUCCESS"


def test_four_agents_with_roles_some_full_some_dead(make_controller) -> None:
    controller = make_controller(Limits(full_poll=300))
    dead = Agent(controller, nid=1, roles=["web"])
    dead.poll().hang_up()
    full = Agent(controller, nid=2, roles=["web"], slots=0)
    free = Agent(controller, nid=3, roles=["web"], slots=2)
    other = Agent(controller, nid=4, roles=["db"], slots=9)
    controller.send_away(1)
    polls = full.poll(), free.poll(), other.poll()
    assert controller.submit(roles=["web"], id="a")["agents"] == [{"gid": 1, "nid": 3}]
    assert polls[1].command()["id"] == "a"
    controller.end_polls(2)
    assert polls[0].command() is None
    # Everybody who could is full now: the next one waits at the controller for whoever tells first.
    free.slots = 0
    polls = full.poll(), free.poll()
    assert controller.submit(roles=["web"], id="b")["agents"] == []
    assert controller.state("b") == "QUEUED"
    for nid in (2, 3):
        controller.end_polls(nid)
    assert [poll.command() for poll in polls] == [None, None]
    full.slots = 1
    assert full.take()["id"] == "b"
    # Fanout and commands for a node are delivered whatever the slots are.
    full.slots = 0
    polls = full.poll(), free.poll()
    assert len(controller.submit(roles=["web"], fanout=True, id="c")["agents"]) == 2
    assert {poll.command()["id"] for poll in polls} == {"c"}
    poll = full.poll()
    controller.submit(gid=1, nid=2, id="d")
    assert poll.command()["id"] == "d"


def test_a_waiting_role_command_ends_when_no_agent_is_live_any_more(make_controller) -> None:
    controller = make_controller(Limits(full_poll=300))
    controller.grow_old()
    Agent(controller, nid=2, roles=["web"], slots=0).poll().hang_up()
    controller.submit(roles=["web"], id="w")
    controller.services.results.sweep()
    assert controller.state("w") == "QUEUED"
    controller.send_away(2)
    [result] = controller.results("w", wait=60)
    assert (result["state"], result["data"]) == (
        "ERROR",
        "No matching connected agents found: 1:2 with role web is away",
    )


def test_an_agent_that_is_not_live_is_an_error_at_once(controller) -> None:
    assert controller.submit(gid=1, nid=77, id="gone")["agents"] == []
    [result] = controller.results("gone", wait=0)
    assert result["state"] == "ERROR"
    assert result["data"] == ("No matching connected agents found: no 1:77 has been here since the controller's start")
    assert (result["gid"], result["nid"]) == (1, 77)


@pytest.mark.parametrize("target", [{"gid": 1, "nid": 10}, {"roles": ["web"]}, {"roles": ["web"], "fanout": True}])
def test_wait_for_agent_waits_and_is_not_sent_on(controller, target) -> None:
    controller.submit(id="w", wait_for_agent=60, **target)
    assert controller.state("w") == "QUEUED"
    command = Agent(controller, roles=["web"]).poll().command()
    assert command is not None
    assert command["id"] == "w"
    assert "wait_for_agent" not in command


def test_a_fanout_names_who_is_away_and_ends_for_whom_turns_out_to_be(make_controller, tmp_path) -> None:
    controller = make_controller(state=tmp_path / "state.db")
    controller.grow_old()
    gone = Agent(controller, nid=1, roles=["web"]).poll()
    stranger = Agent(controller, nid=2, roles=["mail"]).poll()
    for poll in (gone, stranger):
        poll.hang_up()
    for nid in (1, 2):
        controller.send_away(nid)
    here = Agent(controller, nid=3, roles=["web"])
    poll = here.poll()
    dying = Agent(controller, nid=4, roles=["web"]).poll()
    dying.hang_up()
    wait_until(lambda: not controller.services.agents.get((1, 4)).parked, what="the poll to be over")
    answer = controller.submit(id="f", roles=["web"], fanout=True)
    assert [one["nid"] for one in answer["agents"]] == [3, 4], "the second counts as live as yet"
    assert [(one["nid"], one["last_contact"] > 0) for one in answer["away"]] == [(1, True)]
    assert poll.command() is not None
    here.finish("f")
    controller.send_away(4)
    answers = {one["nid"]: one for one in controller.results("f", wait=60)}
    assert answers[3]["state"] == "SUCCESS"
    assert (answers[4]["state"], answers[4]["delivered"]) == ("ERROR", False)
    assert answers[4]["data"].startswith("No matching connected agents found: ")
    controller.send_away(3)
    patient = controller.submit(id="p", roles=["web"], fanout=True, wait_for_agent=60)
    assert [one["nid"] for one in patient["away"]] == [1, 3, 4], "nobody polls any more"
    controller.stop()
    again = make_controller(state=tmp_path / "state.db")
    assert again.get("jobs/f")["away"] == [{"gid": 1, "nid": 1}]


def test_a_fanout_that_waited_reaches_full_agents_once(make_controller) -> None:
    """Before, it stayed in its line as well and went to all of them again once a second."""
    controller = make_controller(Limits(full_poll=300))
    sweep = controller.sweep_by_hand()
    controller.submit(id="f", roles=["web"], fanout=True, wait_for_agent=60)
    polls = [Agent(controller, nid=nid, roles=["web"], slots=0).poll() for nid in (1, 2)]
    sweep()
    assert [poll.command()["id"] for poll in polls] == ["f", "f"]
    for _ in range(3):
        sweep()
    assert [(one["gid"], one["nid"]) for one in controller.get("jobs/f")["agents"]] == [(1, 1), (1, 2)]
    Agent(controller, nid=3, roles=["web"]).poll()
    assert len(controller.get("jobs/f")["agents"]) == 2


def test_wait_for_agent_ends(make_controller) -> None:
    controller = make_controller()
    controller.grow_old()
    controller.submit(id="node", gid=1, nid=10, wait_for_agent=0.2)
    controller.submit(id="role", roles=["web"], wait_for_agent=0.2)
    for job_id in ("node", "role"):
        [result] = controller.results(job_id, wait=60)
        assert result["state"] == "ERROR"
        assert result["data"].startswith("No matching connected agents found: ")


def test_a_poller_that_hung_up_gets_nothing_and_the_command_goes_to_the_next(controller, agent) -> None:
    agent.poll().hang_up()
    controller.submit(id="a", gid=1, nid=10)
    controller.submit(id="b", gid=1, nid=10)
    assert agent.take()["id"] == "a"
    assert agent.take()["id"] == "b"


def test_a_poll_that_hangs_up_leaves_the_table_at_once(controller, agent) -> None:
    poll = agent.poll()
    poll.hang_up()
    wait_until(lambda: not controller.services.agents.get((1, 10)).parked, timeout=5, what="the hang-up to be noticed")


def test_the_command_is_put_back_when_the_answer_cannot_be_written(controller, agent) -> None:
    """The poller goes while the command is on its way: it is bigger than any buffer of the connection."""
    big = "x" * 8_000_000
    stalled = poll_that_never_reads(controller)
    controller.submit(id="big", gid=1, nid=10, data=big)
    wait_until(lambda: controller.state("big") == "RUNNING", what="the command to be on its way")
    stalled.close()
    wait_until(lambda: controller.state("big") == "QUEUED", what="the command to come back")
    controller.submit(id="small", gid=1, nid=10)
    assert agent.take()["id"] == "big"
    assert agent.take()["id"] == "small"


def poll_that_never_reads(controller) -> socket.socket:
    agents = controller.services.agents
    connection = socket.create_connection(("127.0.0.1", int(controller.url.rpartition(":")[2])))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sendall(b"GET /1/10/cmd HTTP/1.1\r\nHost: x\r\n\r\n")
    wait_until(lambda: agents.get((1, 10)) and agents.get((1, 10)).parked, what="the poll to be open")
    return connection


def test_a_role_command_that_comes_back_is_free_again(controller) -> None:
    first = Agent(controller, nid=1, roles=["web"]).poll()
    second = Agent(controller, nid=2, roles=["web"])
    first.hang_up()
    controller.submit(id="r", roles=["web"])
    assert second.take()["id"] == "r"


def test_a_known_id_is_a_conflict(controller, agent) -> None:
    controller.submit(id="j", gid=1, nid=10)
    answer = controller.post("jobs", {"id": "j", "cmd": "execute", "gid": 1, "nid": 10})
    assert answer.status_code == 409
    assert "'j'" in answer.json()["error"]


def test_two_posts_of_one_id_at_once_make_one_job(controller) -> None:
    jobs = [
        gevent.spawn(controller.post, "jobs", {"id": "same", "cmd": "execute", "gid": 1, "nid": 10}) for _ in range(8)
    ]
    gevent.joinall(jobs, raise_error=True)
    assert sorted(job.value.status_code for job in jobs) == [202] + [409] * 7


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ({"cmd": "execute"}, "whom"),
        ({"gid": 1, "cmd": "execute"}, "whom"),
        ({"gid": 1, "nid": 1}, "'cmd'"),
        ({"gid": 1, "nid": 1, "roles": ["a"], "cmd": "execute"}, "not both"),
        ({"gid": 1, "nid": 1, "fanout": True, "cmd": "execute"}, "fanout"),
        ({"gid": "x", "nid": 1, "cmd": "execute"}, "'gid'"),
        ({"gid": -1, "nid": 1, "cmd": "execute"}, "negative"),
        ({"gid": 1, "nid": 1, "cmd": "execute", "args": []}, "'args'"),
        ({"gid": 1, "nid": 1, "cmd": "execute", "id": "a\nb"}, "control"),
        ({"gid": 1, "nid": 1, "cmd": "execute", "wait_for_agent": "long"}, "wait_for_agent"),
        ({"gid": 1, "nid": 1, "cmd": "execute", "args": {"loglevels": "5-1"}}, "loglevels"),
        (["a list"], "object"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused_with_the_reason(controller, command, reason) -> None:
    answer = controller.post("jobs", command)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


@pytest.mark.parametrize(("limits", "slots"), [(Limits(poll=0.2), None), (Limits(full_poll=0.2), 0)])
def test_idle_polls_end_empty(make_controller, limits, slots) -> None:
    assert Agent(make_controller(limits), slots=slots).poll().command() is None


def test_the_internal_command_lists_agents(controller) -> None:
    Agent(controller, nid=1, roles=["web"]).poll()
    Agent(controller, nid=2).poll()
    controller.submit(id="l", cmd="controller", roles=["*"], args={"name": "list_agents"})
    [result] = controller.results("l")
    assert (result["state"], result["level"]) == ("SUCCESS", 20)
    assert result["data"] == '{"1:1": ["web"], "1:2": null}'
    controller.submit(id="u", cmd="controller", roles=["*"], args={"name": "tunnel_open"})
    [result] = controller.results("u")
    assert (result["state"], "'tunnel_open'" in result["data"]) == ("UNKNOWN_CMD", True)


def test_two_agents_of_one_identity_are_said_once(make_controller) -> None:
    controller = make_controller(Limits(shared=0.2))
    agent = Agent(controller)
    polls = [agent.poll(), agent.poll()]
    wait_until(lambda: controller.said, what="the warning")
    Agent(controller, nid=11).poll()
    Agent(controller, nid=11).poll()
    wait_until(lambda: len(controller.said) > 1, what="the warning about others")
    assert ["1:10" in line for line in controller.said] == [True, False]
    assert not any(poll.over for poll in polls)


def test_an_agent_that_comes_back_before_its_broken_poll_is_noticed_is_not_said_to_be_two(make_controller) -> None:
    controller = make_controller(Limits(shared=0.0))
    Agent(controller).poll().hang_up()
    again = Poller(controller.url, 1, 10)
    other = Agent(controller, nid=11)
    other.poll()
    other.poll()
    wait_until(lambda: controller.said, what="the warning about the others")
    assert "1:11" in controller.said[0]
    assert len(controller.said) == 1
    assert not again.over


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_command_for_a_node_that_has_just_stopped_waits_for_its_next_start_and_not_for_ever(
    make_controller, comes_back: bool
) -> None:
    controller = make_controller(Limits(live=30.0 if comes_back else 0.5))
    agent = Agent(controller)
    agent.poll().hang_up()
    assert agent.post("event", {"name": "shutdown"}).status_code == 200
    known = controller.services.agents.get((1, 10))
    wait_until(lambda: known.is_stopped, what="the poll to be over")
    controller.submit(id="later", gid=1, nid=10)
    if comes_back:
        assert controller.state("later") == "QUEUED"
        assert agent.poll().command()["id"] == "later"
    else:
        [result] = controller.results("later", wait=60)
        assert result["data"] == "No matching connected agents found: 1:10 is away"


def test_polls_that_began_together_do_not_end_together(controller) -> None:
    poll = Poll(AgentKey(1, 1))
    holds = [controller.services.dispatcher.hold(poll) for _ in range(1000)]
    assert 35 <= min(holds) < 37, "or all agents of a fleet would poll again at once"
    assert 48 < max(holds) <= 50, "original agents give up after 60 s"
