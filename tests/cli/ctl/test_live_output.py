"""``greenagent-ctl run`` shows every line once: while it comes, after the job's end, or from its result."""

from __future__ import annotations

import re
from typing import Any

import gevent
import pytest

from greenagent.controller.limits import Limits
from greenagent.controller.state import log_lines
from tests.support.ctl import (
    NO_LINES,
    Ctl,
    Lines,
    await_looks,
    ctl,
    on_node,
    result_of,
)
from tests.support.local_controller import Agent
from tests.support.programs import without_waiting
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("brief_pauses")


def test_output_is_shown_while_the_job_runs(controller, answering) -> None:
    lines = Lines()
    ended = gevent.event.Event()

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        lines.send(agent, command["id"], "first")
        lines.send(agent, command["id"], "oops", level=2)
        ended.wait()
        lines.send(agent, command["id"], "last")
        agent.finish(command["id"], exit_code=0, streams=["first\nlast\nnever uploaded\n", "oops\n"])

    answering(controller, answer)
    running = Ctl("--url", controller.url, *on_node("--", "job"))
    wait_until(lambda: running.out == "first\n" and without_waiting(running.err) == "oops\n", what="live output")
    assert running.process.poll() is None
    ended.set()
    assert running.done() == (0, "first\nlast\nnever uploaded\n", "oops\n")


def test_text_of_every_level_is_shown_but_statistics_and_results(controller, answering) -> None:
    """What looks like a level and is none of the protocol's was very likely meant as text: its number is shown too."""
    lines = Lines()

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        for level, text in (
            (2001, "/32 dev sit0"),
            (12, "34"),
            (11, "debug"),
            (4, "operator"),
            (10, "a:1|c"),
            (20, "{}"),
        ):
            lines.send(agent, command["id"], text, level=level)
        agent.finish(command["id"], exit_code=0, streams=["", ""])

    answering(controller, answer)
    done = ctl(controller.url, *on_node("--", "job"))
    assert (done.code, done.out) == (0, "")
    assert done.err.splitlines() == ["2001::/32 dev sit0", "12::34", "debug", "operator"]


def test_lines_that_come_after_the_result_are_shown_once(controller, answering) -> None:
    lines = Lines()

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        texts = [str(number) for number in range(3000)]
        lines.send(agent, command["id"], *texts[:500])
        agent.finish(command["id"], exit_code=0, streams=["".join(f"{text}\n" for text in texts[-1000:]), ""])
        await_looks(controller, command["id"], 3)
        lines.send(agent, command["id"], *texts[500:])

    answering(controller, answer)
    done = ctl(controller.url, *on_node("--", "job"))
    assert done.out.split() == [str(number) for number in range(3000)]
    assert done.err == ""


def test_the_same_text_in_every_run_and_the_last_word_of_the_agent(controller, answering) -> None:
    lines = Lines()

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        job_id = command["id"]
        lines.send(agent, job_id, "r", stamp=1000)
        lines.send(agent, job_id, "r", stamp=2000)
        agent.finish(job_id, state="ERROR", exit_code=3, starttime=3000, streams=["r\n", ""], args=command["args"])
        await_looks(controller, command["id"], 5)
        lines.send(agent, job_id, "r", stamp=3001)
        await_looks(controller, command["id"], 5)
        lines.send(agent, job_id, "greenagent: given up after 2 restarts", level=4, stamp=3002)

    answering(controller, answer)
    done = ctl(controller.url, *on_node("--max-restart", "2", "--", "job"))
    assert done == (3, "r\nr\nr\n", "greenagent: given up after 2 restarts\n")


def test_lines_are_followed_as_long_as_they_come(controller, answering) -> None:
    lines = Lines()
    texts = [str(number) for number in range(5000)]

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        agent.finish(command["id"], exit_code=0, streams=["".join(f"{text}\n" for text in texts[-1000:]), ""])
        for begin in range(0, 5000, 1000):  # once a second, all in all longer than it waits for the next
            await_looks(controller, command["id"], 20)
            lines.send(agent, command["id"], *texts[begin : begin + 1000])

    answering(controller, answer)
    done = ctl(controller.url, *on_node("--", "job"))
    assert (done.out.split(), done.err) == (texts, "")


def test_lines_the_controller_has_dropped_are_counted(make_controller, answering, monkeypatch) -> None:
    monkeypatch.setattr(log_lines, "TURN", 1500)  # nobody sees some of them in between
    controller = make_controller(Limits(log_lines_per_job=100))
    lines = Lines()
    texts = [str(number) for number in range(1500)]

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        lines.send(agent, command["id"], *texts)
        agent.finish(command["id"], exit_code=0, streams=["".join(f"{text}\n" for text in texts[-1000:]), ""])

    answering(controller, answer)
    done = ctl(controller.url, *on_node("--id", "x", "--", "job"))
    assert done.out.split() == [*texts[-100:], *texts[-1000:-100]]
    assert "missing above follow here: 900" in done.err
    assert "1400 lines are missing above" in done.err
    assert "greenagent-logs --job x" in done.err


def test_it_says_when_only_the_last_lines_are_there(controller, answering) -> None:
    texts = "".join(f"{number}\n" for number in range(1000))
    answering(controller, result_of(exit_code=0, streams=[texts, ""]))
    done = ctl(controller.url, *on_node("--", "job"))
    assert done.out == texts
    assert done.err.startswith(NO_LINES)
    assert (
        "only the last 1000 lines of stdout of 1:10 follow; all are shown there by: greenagent-logs --job" in done.err
    )


def test_a_result_that_tells_how_many_lines_there_are_ends_it_with_the_last_of_them(controller, answering) -> None:
    """Equal lines counted as complete once the last ones had come, and what came later was cut off in silence."""
    lines = Lines()

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        lines.send(agent, command["id"], *["y"] * 1500)
        agent.finish(command["id"], exit_code=0, streams=["y\n" * 1000, ""], lines=4000)
        await_looks(controller, command["id"], 80)  # longer than is waited for lines of which nobody knows
        lines.send(agent, command["id"], *["y"] * 1500)
        await_looks(controller, command["id"], 20)
        lines.send(agent, command["id"], *["y"] * 1000)

    answering(controller, answer)
    done = ctl(controller.url, *on_node("--", "job"))
    assert (done.code, done.err) == (0, "")
    assert done.out == "y\n" * 4000


def test_lines_that_never_come_are_counted_and_the_agent_is_not_said_to_upload_none(controller, answering) -> None:
    lines = Lines()

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        lines.send(agent, command["id"], "first")
        agent.finish(command["id"], exit_code=0, streams=["first\nsecond\n", ""], lines=2)

    answering(controller, answer)
    done = ctl(controller.url, *on_node("--id", "x", "--", "job"))
    assert (done.code, done.out) == (0, "first\nsecond\n")
    assert done.err == (
        "greenagent-ctl: 1 lines of this job have not been uploaded yet; greenagent-ctl logs x shows them later;"
        " showing the end of its result\n"
    )


@pytest.mark.parametrize("lines", [0, {}])
def test_an_agent_that_tells_of_no_lines_is_not_waited_for(controller, answering, lines) -> None:
    answering(controller, result_of(exit_code=0, streams=["out\n", ""], lines=lines))
    done = ctl(controller.url, *on_node("--", "job"))
    assert (done.code, done.out, done.err) == (0, "out\n", NO_LINES)


def test_what_is_lost_is_told_from_what_has_not_come_yet(controller, answering) -> None:
    """Both were one sentence, and what nobody had any more was promised on the agent's machine."""
    lines = Lines()
    texts = [str(number) for number in range(3000)]

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        lines.send(agent, command["id"], *texts[:10])
        stream = "".join(f"{text}\n" for text in texts[-1000:])
        agent.finish(command["id"], exit_code=0, streams=[stream, ""], lines={"1": 3000}, lost=2990)

    answering(controller, answer)
    done = ctl(controller.url, *on_node("--id", "x", "--", "job"))
    assert done.out.split() == [*texts[:10], *texts[-1000:]]
    assert done.err.splitlines() == [
        "greenagent-ctl: 2990 lines of this job are lost: its agent could not store them;"
        " showing the end of its result",
        "greenagent-ctl: after a gap, only the last 1000 lines of stdout of 1:10 follow",
    ]
    assert done.code == 125, "its output is not whole"


def test_a_stream_that_came_whole_is_not_looked_for_again_where_another_is_late(controller, answering) -> None:
    lines = Lines()

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        lines.send(agent, command["id"], *["y"] * 3000)
        agent.finish(command["id"], exit_code=0, streams=["y\n" * 1000, "oops\n"], lines={"1": 3000, "2": 1}, lost=1)

    answering(controller, answer)
    done = ctl(controller.url, *on_node("--", "job"))
    assert (done.code, done.out) == (0, "y\n" * 3000)
    assert done.err.splitlines()[-1] == "oops"


def test_what_the_controller_has_dropped_of_a_fanout_is_not_waited_for(make_controller, answering) -> None:
    controller = make_controller(Limits(log_lines_per_job=100))
    lines = Lines()

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        lines.send(agent, command["id"], *[str(number) for number in range(150)])
        agent.finish(command["id"], exit_code=0, streams=["", ""], lines={"1": 150})

    for nid in (1, 2):
        answering(controller, answer, nid=nid, roles=["web"])
    done = ctl(controller.url, "run", "--role", "web", "--fanout", "--", "job")
    [missing] = re.findall(r"(\d+) lines are missing above", done.err)  # fewer where some were seen in time
    assert (done.code, len(done.out.splitlines())) == (125, 300 - int(missing))
    assert "not been uploaded" not in done.err
