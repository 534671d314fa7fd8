"""``greenagent-ctl run``: what it posts, what it prints and how it ends."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pytest

from greenagent.controller.limits import Limits
from tests.support.closed_streams import done_without
from tests.support.ctl import (
    NO_LINES,
    AnsweringAgent,
    Ctl,
    Lines,
    ctl,
    on_node,
    result_of,
)
from tests.support.local_controller import Agent
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("brief_pauses")


def test_run_prints_the_streams_and_exits_as_the_job(controller, answering) -> None:
    agent = answering(controller, result_of(state="ERROR", exit_code=7, streams=["out 1\nout 2\n", "err\n"]))
    done = ctl(controller.url, *on_node("--", "sh", "-c", "x", "--", "-y"))
    assert done == (7, "out 1\nout 2\n", f"{NO_LINES}err\n")
    [command] = agent.commands
    assert command["cmd"] == "execute"
    assert command["args"]["name"] == "sh"
    assert command["args"]["args"] == ["-c", "x", "--", "-y"]
    assert command["args"]["loglevels_ac"] == "*"
    assert command["args"]["log_flush"] == 0.1


def test_not_delivered_is_125(controller) -> None:
    done = ctl(controller.url, *on_node("--", "true"))
    assert done.code == 125
    assert "No matching connected agents found" in done.err
    done = ctl(controller.url, "run", "--role", "nobody", "--id", "x", "--", "true")
    why = "No matching connected agents found: none with role nobody has been here since the controller's start"
    assert (done.code, done.err) == (125, f"greenagent-ctl: job x ended ERROR: {why}\n")


def test_a_built_in_shows_its_data(controller, answering) -> None:
    answering(controller, result_of(data='"pong"', level=20, exit_code=None))
    assert ctl(controller.url, *on_node("--cmd", "ping")) == (0, '"pong"\n', "")


def test_fanout_prefixes_every_line_and_exits_with_the_highest(controller, answering) -> None:
    for nid in (1, 2):
        answering(
            controller,
            lambda agent, command: agent.finish(
                command["id"], state="ERROR", exit_code=agent.nid, streams=[f"from {agent.nid}\nend\n", ""]
            ),
            nid=nid,
            roles=["web"],
        )
    done = ctl(controller.url, "run", "--role", "web", "--fanout", "--", "job")
    assert done.code == 2
    assert sorted(done.out.splitlines()) == ["1:1 end", "1:1 from 1", "1:2 end", "1:2 from 2"]
    assert done.err.splitlines()[-1] == "greenagent-ctl: 2 agents: 0 ok, 2 failed: 1:1 1:2"
    bare = ctl(controller.url, "run", "--role", "web", "--fanout", "--no-prefix", "--", "job")
    assert sorted(bare.out.splitlines()) == ["end", "end", "from 1", "from 2"]
    assert bare.err.count("1:1 greenagent-ctl: ") == done.err.count("1:1 greenagent-ctl: ") > 0, "ours tell whose it is"


def test_a_fanout_tells_who_is_away_and_how_it_went(controller, answering) -> None:
    """It left them out in silence, with exit code 0."""
    Agent(controller, nid=3, roles=["web"]).poll().hang_up()
    away = controller.services.agents.get((1, 3))
    wait_until(lambda: not away.open_polls, what="the poll to end")
    away.last_poll -= 60
    for nid in (1, 2):
        code = nid - 1
        answering(controller, result_of(state="ERROR" if code else "SUCCESS", exit_code=code), nid=nid, roles=["web"])
    wait_until(lambda: controller.live() == {"1:1", "1:2"}, what="the third to count as away")
    fanout = ("run", "--role", "web", "--fanout")
    done = ctl(controller.url, *fanout, "--", "job")
    assert (done.code, done.out) == (1, "")
    first, last = done.err.splitlines()
    assert re.fullmatch(r"greenagent-ctl: away and left out: 1:3 \(last contact \d+ s ago\)", first)
    assert last == "greenagent-ctl: 2 agents: 1 ok, 1 failed: 1:2, 1 away"
    assert ctl(controller.url, *fanout, "--require-all", "--", "job").code == 125
    detached = ctl(controller.url, *fanout, "--detach", "--", "job")
    assert "1:3" in detached.err
    (row,) = ctl(controller.url, "jobs", "--limit", "1").out.splitlines()[1:]
    assert "1:1,1:2 (1 away)" in row
    assert "away and left out: 1:3" in ctl(controller.url, "show", detached.out.strip()).out
    nobody = ctl(controller.url, "run", "--role", "mail", "--fanout", "--", "job").err
    assert nobody.startswith("greenagent-ctl: job ")  # of no agent


def test_every_option_reaches_the_command(controller, answering) -> None:
    agent = answering(controller, result_of(exit_code=0), roles=["web", "db"])
    read, write = os.pipe()
    os.write(write, b"from stdin\n")
    os.close(write)
    given = "run --role web --role db --gid 1 --id my-id --domain d --name n --working-dir /tmp --queue q --max-time 9"
    more = "--max-restart 2 --restart always --env A=1 --env B=x=y --wait-for-agent 60 --data - --cmd ext"
    done = ctl(
        controller.url,
        *given.split(),
        *more.split(),
        "--args-json",
        '{"extra": 1, "domain": "x"}',
        "a",
        "b",
        stdin=read,
    )
    os.close(read)
    assert done.code == 0
    [command] = agent.commands
    assert command == {
        "id": "my-id",
        "cmd": "ext",
        "gid": 1,
        "nid": 0,
        "roles": ["web", "db"],
        "fanout": False,
        "data": "from stdin\n",
        "args": {
            "extra": 1,
            "domain": "d",
            "name": "n",
            "working_dir": "/tmp",
            "queue": "q",
            "max_time": 9,
            "max_restart": 2,
            "restart": "always",
            "env": ["A=1", "B=x=y"],
            "args": ["a", "b"],
            "loglevels_ac": "*",
            "log_flush": 0.1,
        },
    }


def test_detach_prints_the_id(controller, answering) -> None:
    agent = answering(controller, result_of(exit_code=0))
    done = ctl(controller.url, *on_node("--detach", "--", "true"))
    wait_until(lambda: agent.commands)
    assert done == (0, agent.commands[0]["id"] + "\n", "")
    assert agent.commands[0]["args"]["loglevels_ac"] == "*", "so that its lines can be followed"
    assert agent.commands[0]["args"]["log_flush"] == 1


def test_a_known_id_is_refused(controller, answering) -> None:
    answering(controller, result_of(exit_code=0))
    assert ctl(controller.url, *on_node("--id", "x", "--", "true")).code == 0
    done = ctl(controller.url, *on_node("--id", "x", "--", "true"))
    assert done.code == 125
    assert "409" in done.err


@pytest.mark.parametrize("job_id", [".", "..", "...", "../../etc", "-x", "--json", "a/b?c#d%2E", "-- ."])
def test_a_job_of_any_id_is_run_shown_logged_and_killed(controller, answering, job_id: str) -> None:
    """HTTP libraries take "." and ".." in an address for steps, and options begin with a dash."""
    lines = Lines()

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        lines.send(agent, command["id"], "a line")
        agent.finish(command["id"], streams=["a line\n", ""])

    answering(controller, answer)
    url = controller.url
    done = ctl(url, *on_node(f"--id={job_id}", "--", "sh"))
    assert (done.code, done.out) == (0, "a line\n")
    assert ctl(url, "show", "--", job_id).out.startswith(f"job {job_id}: SUCCESS, execute sh\n")
    assert ctl(url, "logs", "--", job_id).out.endswith(" 1:10 stdout    a line\n")
    assert f"job {job_id} has ended already (SUCCESS)" in ctl(url, "kill", "--", job_id).err


NAUGHTY = "line\u2028separator\x0cform\x0bfeed\x1d\x85\rreturn"


def test_only_line_feeds_begin_a_line(controller) -> None:
    """Unicode and ASCII have other separators, which JSON and people's texts hold."""
    value = {"text": NAUGHTY, "more": "x"}
    data = json.dumps(value, ensure_ascii=False)

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        agent.finish(command["id"], data=f"{data}\n{NAUGHTY}\n", level=20, streams=[f"{NAUGHTY}\n", ""])

    agent = AnsweringAgent(controller, answer)
    try:
        done = ctl(controller.url, *on_node("--id", "x", "--", "job"))
        shown = ctl(controller.url, "show", "x").out
    finally:
        agent.stop()
    assert done == (0, f"{NAUGHTY}\n{data}\n{NAUGHTY}\n", NO_LINES)
    assert json.loads(done.out.split("\n")[1]) == value
    assert f"\n  {data}\n  {NAUGHTY}\n  stdout:\n    {NAUGHTY}\n" in shown


def test_a_command_that_is_too_large_is_refused_with_125(make_controller, tmp_path) -> None:
    controller = make_controller(Limits(job_body=10_000))
    text = tmp_path / "text"
    text.write_text("x" * 20_000)
    with text.open("rb") as stdin:
        done = Ctl("--url", controller.url, *on_node("--data", "-", "--", "true"), stdin=stdin).done()
    assert (done.code, done.out) == (125, "")
    assert done.err.endswith("refuses (413): the body is larger than 10000 bytes\n")


def test_data_that_never_ends_is_refused_and_does_not_fill_the_memory(controller) -> None:
    with open("/dev/zero", "rb") as stdin:
        done = Ctl("--url", controller.url, *on_node("--data", "-", "--", "true"), stdin=stdin).done()
    assert done == (125, "", "greenagent-ctl: --data -: stdin has more than 32 MiB: let the job read a file instead\n")


def test_what_a_job_says_on_stderr_does_not_go_to_stdout(controller, tmp_path) -> None:
    def answer(agent: Agent, command: dict[str, Any]) -> None:
        agent.finish(command["id"], exit_code=0, streams=["to stdout\n", "to stderr\n"])

    agent = AnsweringAgent(controller, answer)
    try:
        done = done_without(tmp_path, (2,), "ctl", "--url", controller.url, *on_node("--", "job"))
    finally:
        agent.stop()
    assert done == (0, "to stdout\n", "")


def test_data_from_a_stdin_that_cannot_be_read_is_refused(controller, tmp_path) -> None:
    arguments = ("--url", controller.url, *on_node("--wait-for-agent", "60", "--data", "-", "--", "cat"))
    done = done_without(tmp_path, (0,), "ctl", *arguments)
    assert done == (125, "", "greenagent-ctl: --data -: stdin is closed\n")
    with open(os.devnull, "wb") as only_written:
        done = Ctl(*arguments, stdin=only_written).done()
    assert done == (125, "", "greenagent-ctl: --data -: stdin cannot be read: Bad file descriptor\n")
    assert controller.get("jobs")["jobs"] == []


def test_data_that_is_no_text_is_refused_and_not_changed(controller, tmp_path) -> None:
    """It came to the job with U+FFFD in the place of what no UTF-8 has."""
    (tmp_path / "bytes").write_bytes(b"\xc3\xa4\xff\xfe\0")
    with (tmp_path / "bytes").open("rb") as stdin:
        done = Ctl("--url", controller.url, *on_node("--data", "-", "--", "od", "-c"), stdin=stdin).done()
    assert (done.code, done.out, done.err.count("\n")) == (125, "", 1)
    assert done.err.startswith("greenagent-ctl: --data -: byte 3 of stdin is no UTF-8 text")
    assert controller.get("jobs")["jobs"] == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["echo", "a", "--json"], ["a", "--json"]),
        (["echo", "a", "--id", "foo", "b"], ["a", "--id", "foo", "b"]),
        (["--env=A=1", "--data=-x", "sh", "-c", "true", "--", "-y", "--"], ["-c", "true", "--", "-y", "--"]),
        (["--", "-x", "--", "--nid"], ["--", "--nid"]),
    ],
    ids=" ".join,
)
def test_what_stands_behind_the_first_word_belongs_to_the_command(controller, answering, given, words) -> None:
    """``echo a --json`` ran ``echo a`` and printed JSON."""
    agent = answering(controller, result_of(exit_code=0))
    assert ctl(controller.url, *on_node("--max-time", "9", *given)).code == 0
    [command] = agent.commands
    assert command["args"]["args"] == words
    assert command["args"]["max_time"] == 9


def test_what_nothing_reads_is_named(controller, answering) -> None:
    """A slip of a key ran the job without its time limit, and without a word."""
    agent = answering(controller, result_of(exit_code=0))
    done = ctl(controller.url, *on_node("--args-json", '{"max_tme": 2, "max_restart": -1}', "--", "sleep", "3"))
    assert done.code == 0
    assert done.err == (
        "greenagent-ctl: warning: args.max_restart is negative and counts as 0; restart = 'always' has no limit\n"
        "greenagent-ctl: warning: 'max_tme' is not a known run argument, did you mean 'max_time'?\n"
    )
    own = ctl(controller.url, *on_node("--cmd", "mine", "--args-json", '{"any": "key"}'))
    assert (own.code, own.err) == (0, "")
    assert len(agent.commands) == 2
    answer = controller.submit(gid=1, nid=10, args={"name": "ls", "arg": ["-l"]}, max_time=3, fan_out=True)
    assert answer["warnings"] == [
        "'max_time' is not a known key of a command, put it into 'args'",
        "'fan_out' is not a known key of a command, did you mean 'fanout'?",
        "'arg' is not a known run argument, did you mean 'args'?",
    ]
    many = controller.submit(gid=1, nid=10, cmd="ping", args={f"key {number}": "x" for number in range(50)})
    assert many["warnings"][-1] == "40 more keys are not known"


def test_a_stdin_that_is_not_passed_on_is_said(controller, answering) -> None:
    """``cat file | greenagent-ctl run -- cat`` printed nothing, without a hint."""
    answering(controller, result_of(exit_code=0))
    read, write = os.pipe()
    os.write(write, b"text\n")
    os.close(write)
    piped = ctl(controller.url, *on_node("cat"), stdin=read)
    os.close(read)
    hint = "greenagent-ctl: the job does not get our stdin: --data - passes it on\n"
    assert piped == (0, "", hint)
    assert ctl(controller.url, *on_node("cat"), stdin="a file").err == "", "it may be the script that runs it"
