"""What agents show of text that is no line yet: for their own jobs, while these run, within a cap."""

from __future__ import annotations

import time
from typing import Any

import gevent
import pytest

from greenagent.controller.limits import MIB, Limits
from greenagent.controller.model import AgentKey
from greenagent.controller.state import open_texts
from greenagent.controller.state.open_texts import OpenTextStore, parse_open_texts
from tests.support.local_controller import Agent, LocalController, start
from tests.support.memory import held_by


def record(text: str | None, jobid: str = "j", stream: int = 1) -> dict[str, Any]:
    found = {"jobid": jobid, "stream": stream, "level": 1, "epoch_ms": 5000, "domain": "d", "name": "n"}
    return found if text is None else {**found, "data": text}


def shown(controller: LocalController, jobid: str = "j") -> list[str]:
    return [one["data"] for one in controller.get(f"jobs/{jobid}/logs")["open"]]


def test_the_newest_text_of_each_stream_is_shown_until_it_ends(controller, agent) -> None:
    start(controller, agent)
    agent.post("open_text", [record("10%"), record("err", stream=2)])
    agent.post("open_text", [record("20%")])
    assert shown(controller) == ["20%", "err"]
    assert controller.get("jobs/j/logs")["lines"] == []
    agent.post("open_text", [record(None)])
    assert shown(controller) == ["err"]
    agent.finish("j")
    assert shown(controller) == []


def test_it_is_shown_of_no_job_that_the_agent_has_no_part_in(controller, agent) -> None:
    start(controller, agent)
    assert Agent(controller, nid=66).post("open_text", [record("forged"), record("x", "unknown")]).json() == "ok"
    assert shown(controller) == []


@pytest.mark.parametrize(
    "body", [{}, [1], [{"jobid": "j", "data": "x"}], [{"stream": 1}], [{"jobid": "j", "stream": 3}]]
)
def test_a_list_that_is_none_is_refused_as_a_whole(controller, agent, body) -> None:
    start(controller, agent)
    answer = agent.post("open_text", body)
    assert (answer.status_code, answer.json()) == (500, "error")


def test_who_follows_hears_of_a_change_at_once(controller, agent) -> None:
    start(controller, agent)
    mark = controller.get("jobs/j/logs")["open_mark"]
    asking = gevent.spawn(controller.get, "jobs/j/logs", follow=1, wait=30, open=mark)
    gevent.sleep(0)
    began = time.monotonic()
    agent.post("open_text", [record("10%")])
    answer = asking.get(timeout=60)
    assert [one["data"] for one in answer["open"]] == ["10%"]
    assert answer["open_mark"] != mark
    assert time.monotonic() - began < 20
    asked_before = controller.get("jobs/j/logs", follow=1, wait=30, open=mark)
    assert asked_before["open_mark"] == answer["open_mark"]


def test_the_memory_is_what_its_cap_says_and_the_agent_that_shows_most_gives_way() -> None:
    cap = MIB
    store = OpenTextStore(Limits(open_text_bytes=cap))

    def take(nid: int, *records: dict[str, Any]) -> None:
        found = parse_open_texts(list(records))
        assert found is not None
        store.take(AgentKey(1, nid), found, lambda jobid: True)

    take(1, record("honest"))
    for nid in range(2, 30):
        for number in range(40):
            take(nid, record(f"{nid}.{number}\U0001f600" * 200, f"{nid}.{number}"))
            assert held_by(store) < 1.5 * cap
    assert cap / 2.5 < held_by(store)
    assert [one.record.data for one in store.of("j", [AgentKey(1, 1)])] == ["honest"]


def test_what_an_agent_does_not_show_again_goes(monkeypatch) -> None:
    store = OpenTextStore(Limits())
    found = parse_open_texts([record("10%")])
    assert found is not None
    store.take(AgentKey(1, 1), found, lambda jobid: True)
    store.forget_old()
    assert store.of("j", [AgentKey(1, 1)])
    monkeypatch.setattr(open_texts, "KEPT_FOR", -1.0)
    store.forget_old()
    assert not store.of("j", [AgentKey(1, 1)])
