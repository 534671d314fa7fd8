"""What a job has begun to print is shown by ``run`` and ``logs`` before it is a line."""

from __future__ import annotations

import json
from typing import Any

import gevent.event

from tests.support.ctl import Ctl, Lines, ctl, on_node
from tests.support.local_controller import Agent
from tests.support.programs import without_waiting
from tests.support.waiting import wait_until


def shows(agent: Agent, job_id: str, text: str | None, **more: Any) -> None:
    record = {"jobid": job_id, "stream": 1, "level": 1, "epoch_ms": 5000, **more}
    assert agent.post("open_text", [record if text is None else {**record, "data": text}]).json() == "ok"


def test_a_prompt_is_shown_marked_on_stderr_and_its_line_on_stdout(controller, answering) -> None:
    lines = Lines()
    answered = gevent.event.Event()

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        shows(agent, command["id"], "Proceed? [y/N] ")
        answered.wait()
        shows(agent, command["id"], None)
        lines.send(agent, command["id"], "Proceed? [y/N] yes")
        agent.finish(command["id"], exit_code=0, streams=["Proceed? [y/N] yes\n", ""])

    answering(controller, answer)
    running = Ctl("--url", controller.url, *on_node("--", "job"))
    wait_until(lambda: without_waiting(running.err) == "Proceed? [y/N]  [unfinished]\n", what="the prompt")
    assert running.out == ""
    answered.set()
    assert running.done() == (0, "Proceed? [y/N] yes\n", "Proceed? [y/N]  [unfinished]\n")


def test_text_that_grew_is_shown_again_once_it_stands_still(controller, answering) -> None:
    ended = gevent.event.Event()

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        shows(agent, command["id"], "Pass")
        ended.wait()
        agent.finish(command["id"], exit_code=0, streams=["", ""])

    agent = answering(controller, answer).agent
    running = Ctl("--url", controller.url, *on_node("--id", "j", "--", "job"))
    wait_until(lambda: without_waiting(running.err) == "Pass [unfinished]\n", what="its beginning")
    shows(agent, "j", "Password: ")
    both = "Pass [unfinished]\nPassword:  [unfinished]\n"
    wait_until(lambda: without_waiting(running.err) == both, what="the rest")
    ended.set()
    assert running.done().code == 0


def test_logs_show_it_with_its_time_and_as_json_they_do_not(controller, answering) -> None:
    """Rows of JSON are lines, and are counted by those who read them."""
    taken = gevent.event.Event()

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        shows(agent, command["id"], "one\ntwo", level=7)
        taken.set()

    answering(controller, answer)
    controller.submit(id="j", gid=1, nid=10)
    assert taken.wait(60)
    shown = ctl(controller.url, "logs", "j")
    assert shown.code == 0
    first, second = shown.out.splitlines()
    assert first.endswith(" 1:10 warning   one")
    assert second == "    two [unfinished]"
    assert ctl(controller.url, "logs", "j", "--json").out == ""


def test_statistics_and_results_that_are_open_are_no_text(controller, answering) -> None:
    taken = gevent.event.Event()

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        shows(agent, command["id"], '{"a"', level=20)
        shows(agent, command["id"], "a:1", level=10, stream=2)
        taken.set()

    answering(controller, answer)
    controller.submit(id="j", gid=1, nid=10)
    assert taken.wait(60)
    assert ctl(controller.url, "logs", "j").out == ""
    assert len(json.loads(json.dumps(controller.get("jobs/j/logs")["open"]))) == 2
