"""What is kept of uploaded lines and statistics, and what of odd ones (protocol 7.1 and 8.4)."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest

from greenagent.controller.limits import Limits
from greenagent.controller.model import AgentKey
from greenagent.controller.state.log_lines import JOB_OVERHEAD, LINE_OVERHEAD, LineStore, parse_records
from greenagent.controller.state.metrics import LatestMetrics, parse_points
from tests.support.local_controller import Agent, plain, start
from tests.support.memory import held_by
from tests.support.waiting import wait_until

KEY = AgentKey(1, 10)
SIZE = LINE_OVERHEAD + sys.getsizeof("x") + 2 * sys.getsizeof("")
"""What a line of ``lines`` costs."""


def lines(jobid: str, first: int, number: int) -> list[dict[str, Any]]:
    return [{"jobid": jobid, "id": first + offset, "level": 1, "data": "x"} for offset in range(number)]


def take(store: LineStore, records: list[dict[str, Any]], key: AgentKey = KEY, has_part: bool | None = True) -> None:
    parsed = parse_records(records)
    assert parsed is not None
    store.take(key, parsed, lambda jobid: has_part)


@pytest.mark.parametrize("quiet_jobs", [0, 1, 50])
def test_lines_that_a_jobs_cap_drops_leave_nothing_behind(quiet_jobs) -> None:
    """A chatty job whose oldest lines go; the line of a quiet job that came before all stays."""
    store = LineStore(Limits(log_lines_per_job=100))
    for number in range(quiet_jobs):
        take(store, lines(f"quiet-{number}", number + 1, 1))
    sizes = []
    for batch in range(40):
        take(store, lines("chatty", 1000 + 500 * batch, 500))
        sizes.append(held_by(store))
    assert max(sizes[20:]) <= max(sizes[:20])
    assert len(store.read("chatty", 0, 1000)[0]) == 100
    assert [line.record.id for number in range(quiet_jobs) for line in store.read(f"quiet-{number}", 0, 9)[0]] == [
        *range(1, quiet_jobs + 1)
    ]


def test_after_many_dropped_lines_the_oldest_of_all_jobs_still_go_first() -> None:
    store = LineStore(Limits(log_lines_per_job=100, log_bytes=150 * SIZE + 3 * JOB_OVERHEAD))
    take(store, lines("quiet", 1, 10))
    for batch in range(10):
        take(store, lines("chatty", 1000 + 500 * batch, 500))
    assert len(store.read("quiet", 0, 1000)[0]) == 10
    take(store, lines("late", 9000, 45))
    assert len(store.read("quiet", 0, 1000)[0]) == 5
    assert len(store.read("chatty", 0, 1000)[0]) == 100
    take(store, lines("late", 9100, 10))
    assert len(store.read("quiet", 0, 1000)[0]) == 0
    assert len(store.read("chatty", 0, 1000)[0]) == 96  # the overhead of the job that has no lines any more


HUGE = 10**400


@pytest.mark.parametrize(
    ("stamps", "milliseconds"),
    [
        ({"epoch": HUGE}, 0),
        ({"epoch": -HUGE}, 0),
        ({"epoch_ms": HUGE, "epoch": 5}, 5000),
        ({"epoch_ms": -HUGE}, 0),
        ({"epoch": 1e300}, 0),
        ({"epoch": float("nan")}, 0),
        ({"epoch": float("-inf")}, 0),
        ({"epoch": 1_450_000_000_000}, 1_450_000_000_000),
    ],
)
def test_a_line_with_an_absurd_stamp_is_kept_without_it(controller, agent, stamps, milliseconds) -> None:
    answer = agent.post("log", [{"jobid": "j", "id": HUGE, "level": HUGE, "data": "x", **stamps}])
    assert (answer.status_code, answer.text) == (200, '"ok"')
    [line] = controller.get("jobs/j/logs")["lines"]
    assert line["data"] == "x"
    assert (line["id"], line["level"], line["epoch"], line["epoch_ms"]) == (0, 0, milliseconds // 1000, milliseconds)


@pytest.mark.parametrize("value", [HUGE, -HUGE, float("nan"), float("inf"), None, True, "5"])
def test_an_absurd_figure_is_refused_as_no_flush_object(controller, agent, value) -> None:
    for flush in ({"timestamp": 5, "series": [["a", value]]}, {"timestamp": value, "series": [["a", 1]]}):
        answer = agent.post("stats", [flush])
        assert (answer.status_code, answer.json()) == (500, "json error")
    assert controller.get("stats") == {"agents": []}
    assert not controller.said


def test_lines_of_a_job_that_is_not_known_are_read_to_their_end(controller, agent) -> None:
    """The controller was started anew, without a state file, while the job ran: that is no reason to deny its lines."""
    assert plain().get(f"{controller.url}/api/jobs/j/logs", timeout=60).status_code == 404
    agent.post("log", lines("j", 1, 3))
    first = controller.get("jobs/j/logs")
    assert [line["id"] for line in first["lines"]] == [1, 2, 3]
    rest = controller.get("jobs/j/logs", after=first["next"], follow=1, wait=0)
    assert (rest["lines"], rest["next"], rest["finished"]) == ([], first["next"], True)


@pytest.mark.local
def test_lines_that_were_all_dropped_are_told_of(make_controller) -> None:
    controller = make_controller(Limits(log_bytes=100))
    Agent(controller).post("log", lines("j", 1, 3))
    answer = controller.get("jobs/j/logs")
    assert (answer["lines"], answer["dropped"]) == ([], 3)


def test_lines_that_another_agent_uploads_in_a_jobs_name_are_none_of_it(controller, agent) -> None:
    start(controller, agent)
    agent.post("log", lines("j", 1, 2))
    other = Agent(controller, nid=66)
    assert other.post("log", lines("j", 500, 2000)).json() == "ok"
    shown = controller.get("jobs/j/logs")
    assert [(line["nid"], line["id"]) for line in shown["lines"]] == [(10, 1), (10, 2)]
    assert shown["dropped"] == 0


@pytest.mark.local
def test_one_agent_takes_no_other_agents_room(make_controller) -> None:
    controller = make_controller(Limits(log_bytes=500 * SIZE))
    agent, loud = Agent(controller), Agent(controller, nid=66)
    start(controller, agent)
    start(controller, loud, "loud")
    agent.post("log", lines("j", 1, 100))
    loud.post("log", lines("loud", 1, 5000))
    assert len(controller.get("jobs/j/logs")["lines"]) == 100
    assert 300 < len(controller.get("jobs/loud/logs")["lines"]) < 400


def test_a_lines_memory_is_what_its_cap_says_whatever_it_consists_of() -> None:
    """Invented jobs, characters of four bytes, texts where others have none: measured in what is held."""
    cap = 2 * 1024 * 1024
    kinds: list[Callable[[int], dict[str, Any]]] = [
        lambda n: {"jobid": f"j{n}"},
        lambda n: {"jobid": "j", "id": n, "data": "\U0001f600" * 100},
        lambda n: {"jobid": "j", "id": n, "domain": f"{n}" * 50, "name": f"{n}" * 50},
        lambda n: {"jobid": f"{n}" * 10, "id": n, "level": 2**52 + n, "epoch_ms": 2**52 - n},
    ]
    for kind in kinds:
        store = LineStore(Limits(log_bytes=cap, stray_lines=10**6))
        for first in range(0, 20_000, 1000):
            take(store, [kind(n) for n in range(first, first + 1000)], AgentKey(1, first), None)
        assert cap / 2.5 < held_by(store) < 1.5 * cap


def test_the_memory_for_figures_is_what_its_cap_says() -> None:
    cap = 2 * 1024 * 1024
    metrics = LatestMetrics(Limits(metrics_bytes=cap))
    for nid in range(1, 200):
        points = parse_points([{"timestamp": 2**40, "series": [[f"{nid}.{n}", n + 0.5] for n in range(500)]}])
        assert points is not None
        metrics.take(AgentKey(1, nid), points)
    assert cap / 2.5 < held_by(metrics) < 1.5 * cap
    assert len(json.loads("".join(metrics.describe()))) == 199


def test_a_figure_whose_key_is_no_key_is_left_out(controller, agent) -> None:
    agent.post("stats", [{"timestamp": 5, "series": [["a" * 1001, 1], ["b", 2]]}])
    [shown] = controller.get("stats")["agents"]
    assert list(shown["figures"]) == ["b"]


def test_an_agent_that_sends_more_figures_than_are_kept_is_said_once(make_controller) -> None:
    controller = make_controller(Limits(metrics_per_agent=100))
    agent = Agent(controller)
    for stamp in (1, 2):
        agent.post("stats", [{"timestamp": stamp, "series": [[f"{stamp}.{n}", n] for n in range(130)]}])
        wait_until(lambda: controller.said, what="the controller to say so")
    assert controller.said[0].startswith("agent 1:10 sends more statistics than are kept: ")
    assert len(controller.said) == 1


def test_a_reader_that_goes_on_page_by_page_looks_at_each_line_once() -> None:
    """From the newest line back to its place, each page cost as much as all."""

    class Counted(OrderedDict):
        looked = 0

        def __getitem__(self, key: Any) -> Any:
            Counted.looked += 1
            return super().__getitem__(key)

    store = LineStore(Limits())
    take(store, [{"jobid": "j", "id": n, "data": "x"} for n in range(1, 5001)], KEY, True)
    kept = store._jobs["j"]
    kept.lines = Counted(kept.lines)
    Counted.looked = after = pages = 0
    while found := store.read("j", after, 100)[0]:
        assert [line.record.id for line in found] == list(range(after + 1, after + 101))
        after, pages = found[-1].number, pages + 1
    assert pages == 50
    assert 5000 <= Counted.looked < 5200


def test_dropped_lines_leave_gaps_that_readers_pass_over() -> None:
    store = LineStore(Limits(log_lines_per_job=10))
    take(store, [{"jobid": "j", "id": n, "data": "x"} for n in range(1, 2001)], KEY, True)
    lines, dropped = store.read("j", 3, 100)
    assert [line.record.id for line in lines] == list(range(1991, 2001))
    assert dropped == 1990
    assert len(store._jobs["j"]._numbers) < 1000


def test_the_longest_line_arrives_however_long_it_is_in_json(controller, agent) -> None:
    start(controller, agent)
    text = "\x01" * 16 * 1024 * 1024
    assert agent.post("log", [{"jobid": "j", "id": 1, "level": 1, "data": text}]).json() == "ok"
    [line] = controller.get("jobs/j/logs")["lines"]
    assert line["data"] == text
