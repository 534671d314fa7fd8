"""``greenagent-ctl`` as people see it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from typing import Any

import gevent
import pytest
import trustme
from gevent.pywsgi import WSGIServer

from greenagent.controller.http.tls import served_context
from greenagent.controller.limits import Limits
from tests.controller.ctl import AnsweringAgent, Ctl, Lines, ctl
from tests.controller.support import Agent
from tests.support.certificates import write_authority, write_pair
from tests.support.waiting import wait_until


@pytest.fixture
def answering():
    """Starts agents that answer on their own."""
    started: list[AnsweringAgent] = []

    def start(*args: Any, **options: Any) -> AnsweringAgent:
        started.append(AnsweringAgent(*args, **options))
        return started[-1]

    yield start
    for one in started:
        one.stop()


NO_LINES = (
    'greenagent-ctl: this agent uploads no lines of this job ([logging] type "AC"); showing the end of its result\n'
)


def result_of(**result: Any):
    return lambda agent, command: agent.finish(command["id"], **result)


def on_node(*arguments: str) -> tuple[str, ...]:
    return ("run", "--gid", "1", "--nid", "10", *arguments)


def test_run_prints_the_streams_and_exits_as_the_job(controller, answering) -> None:
    agent = answering(controller, result_of(state="ERROR", exit_code=7, streams=["out 1\nout 2\n", "err\n"]))
    done = ctl(controller.url, *on_node("--", "sh", "-c", "x", "--", "-y"))
    assert done == (7, "out 1\nout 2\n", f"{NO_LINES}err\n")
    [command] = agent.commands
    assert command["cmd"] == "execute"
    assert command["args"]["name"] == "sh"
    assert command["args"]["args"] == ["-c", "x", "--", "-y"]
    assert command["args"]["loglevels_ac"] == "*"
    assert command["args"]["log_flush"] == 1


@pytest.mark.parametrize(
    ("result", "code", "said"),
    [
        ({"exit_code": 0, "streams": ["", ""]}, 0, ""),
        ({"state": "TIMEOUT", "exit_code": None, "signal": "SIGTERM"}, 124, "TIMEOUT: by SIGTERM"),
        ({"state": "KILLED", "exit_code": 0}, 137, "KILLED"),
        ({"state": "ERROR", "exit_code": None, "data": "No such file"}, 1, "ERROR: No such file"),
        ({"state": "ERROR", "exit_code": None, "signal": "SIGSEGV"}, 1, "by SIGSEGV"),
        ({"state": "UNKNOWN_CMD", "exit_code": None}, 1, "UNKNOWN_CMD"),
        ({"state": "ERROR", "exit_code": 126}, 126, ""),
    ],
)
def test_exit_codes(controller, answering, result, code, said) -> None:
    answering(controller, result_of(**result))
    done = ctl(controller.url, *on_node("--", "true"))
    assert done.code == code
    assert (said in done.err) if said else done.err == ""


def test_not_delivered_is_3(controller) -> None:
    done = ctl(controller.url, *on_node("--", "true"))
    assert done.code == 3
    assert "No matching connected agents found" in done.err
    done = ctl(controller.url, "run", "--role", "nobody", "--id", "x", "--", "true")
    assert (done.code, done.err) == (3, "greenagent-ctl: job x ended ERROR: No matching connected agents found\n")


def test_a_built_in_shows_its_data(controller, answering) -> None:
    answering(controller, result_of(data='"pong"', level=20, exit_code=None))
    assert ctl(controller.url, *on_node("--cmd", "ping")) == (0, '"pong"\n', "")


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
    wait_until(lambda: running.out == "first\n" and running.err == "oops\n", what="live output")
    assert running.process.poll() is None
    ended.set()
    assert running.done() == (0, "first\nlast\nnever uploaded\n", "oops\n")


def test_lines_that_come_after_the_result_are_shown_once(controller, answering) -> None:
    lines = Lines()

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        texts = [str(number) for number in range(3000)]
        lines.send(agent, command["id"], *texts[:500])
        agent.finish(command["id"], exit_code=0, streams=["".join(f"{text}\n" for text in texts[-1000:]), ""])
        gevent.sleep(0.3)
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
        gevent.sleep(0.5)
        lines.send(agent, job_id, "r", stamp=3001)
        gevent.sleep(0.5)
        lines.send(agent, job_id, "greenagent: given up after 2 restarts", level=4, stamp=3002)

    answering(controller, answer)
    done = ctl(controller.url, *on_node("--max-restart", "2", "--", "job"))
    assert done == (3, "r\nr\nr\n", "greenagent: given up after 2 restarts\n")


def test_lines_are_followed_as_long_as_they_come(controller, answering) -> None:
    lines = Lines()
    texts = [str(number) for number in range(5000)]

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        agent.finish(command["id"], exit_code=0, streams=["".join(f"{text}\n" for text in texts[-1000:]), ""])
        for begin in range(0, 5000, 1000):
            lines.send(agent, command["id"], *texts[begin : begin + 1000])
            gevent.sleep(1)

    answering(controller, answer)
    done = ctl(controller.url, *on_node("--", "job"))
    assert (done.out.split(), done.err) == (texts, "")


def test_lines_the_controller_has_dropped_are_counted(make_controller, answering) -> None:
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


def test_every_option_reaches_the_command(controller, answering) -> None:
    agent = answering(controller, result_of(exit_code=0), roles=["web", "db"])
    read, write = os.pipe()
    os.write(write, b"from stdin\n")
    os.close(write)
    given = "run --role web --role db --gid 1 --id my-id --domain d --name n --working-dir /tmp --queue q --max-time 9"
    more = "--max-restart 2 --env A=1 --env B=x=y --wait-for-agent 5 --data - --cmd ext"
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
            "env": ["A=1", "B=x=y"],
            "args": ["a", "b"],
            "loglevels_ac": "*",
            "log_flush": 1,
        },
    }


def test_detach_prints_the_id(controller, answering) -> None:
    agent = answering(controller, result_of(exit_code=0))
    done = ctl(controller.url, *on_node("--detach", "--", "true"))
    wait_until(lambda: agent.commands)
    assert done == (0, agent.commands[0]["id"] + "\n", "")
    assert "log_flush" not in agent.commands[0]["args"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--gid", "1", "--nid", "10", "--name", "label", "--", "true"), "--domain labels it"),
        (("run", "--gid", "1", "--nid", "10", "uname", "-a"), "unrecognized arguments: -a: put the command behind --"),
        (("jobs", "--nonsense"), "unrecognized arguments: --nonsense"),
        (("jobs", "--state", "foo"), "--state 'foo' is none of DUPILICATE_ID, ERROR, KILLED, QUEUED, RUNNING, SUCCESS"),
        (("jobs", "--limit", "0"), "'0' is not a positive number"),
        (("jobs", "--limit", "-3"), "'-3' is not a positive number"),
        (("kill", "x", "--signal", "FOO"), "--signal: there is no signal 'FOO'"),
        (("kill", "x", "--signal", "99"), "--signal: there is no signal '99'"),
        (("show", ""), "an empty text is no job's id"),
        (("show", "--", ""), "an empty text is no job's id"),
        (("show",), "give the id of one job"),
        (("kill", "one", "--", "two"), "give the id of one job, not of several"),
        (("logs", "--", "one", "two"), "give the id of one job, not of several"),
        (("show", "a\udcff"), "an argument is not valid UTF-8"),
        (("--url", "http://[::1", "agents"), "is not an http or https address"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_usage_errors_say_what_to_do(controller, arguments, said) -> None:
    controller.submit(id="x", gid=1, nid=10, wait_for_agent=60)
    done = ctl(controller.url, *arguments)
    assert done.code == 2
    assert said in done.err.splitlines()[-1]
    assert controller.state("x") == "QUEUED"


def test_every_option_is_explained() -> None:
    from greenagent.cli.ctl.main import build_parser

    parsers = [build_parser()]
    for parser in parsers:
        for action in parser._actions:
            if isinstance(action.choices, dict):
                parsers.extend(action.choices.values())
            else:
                assert action.help, (parser.prog, action.dest)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--", "true"],
        ["run", "--nid", "1", "--", "true"],
        ["run", "--gid", "1", "--nid", "1"],
        ["run", "--gid", "1", "--nid", "1", "--role", "x", "--", "true"],
        ["run", "--gid", "1", "--nid", "1", "--fanout", "--", "true"],
        ["run", "--gid", "1", "--nid", "1", "--args-json", "[]", "--", "true"],
        ["run", "--gid", "1", "--nid", "1", "--env", "nothing", "--", "true"],
        ["agents", "--", "x"],
        ["jobs", "--since", "soon"],
        ["--ca", "/nonexistent", "agents"],
        ["--token-file", "/nonexistent", "agents"],
        ["--url", "ftp://x", "agents"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_usage_errors_are_2(controller, arguments) -> None:
    done = ctl(controller.url, *arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.err.splitlines()[-1].startswith("greenagent-ctl")


def test_a_known_id_is_refused(controller, answering) -> None:
    answering(controller, result_of(exit_code=0))
    assert ctl(controller.url, *on_node("--id", "x", "--", "true")).code == 0
    done = ctl(controller.url, *on_node("--id", "x", "--", "true"))
    assert done.code == 2
    assert "409" in done.err


def test_a_controller_that_is_away_or_no_controller_is_one_line_and_3(controller) -> None:
    for url in ("http://127.0.0.1:1", "https" + controller.url.removeprefix("http")):
        done = ctl(url, "agents")
        assert done.code == 3
        assert done.err.count("\n") == 1
        assert done.err.startswith(f"greenagent-ctl: cannot reach the controller at {url}: ")
    done = ctl(controller.url + "/1/10/ping?", "agents")
    assert done.code == 3
    assert done.err.count("\n") == 1


def test_agents_jobs_show_and_logs(controller, answering) -> None:
    lines = Lines()

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        lines.send(agent, command["id"], "hello", "world")
        agent.finish(command["id"], exit_code=0, streams=["hello\nworld\n", ""], data="[1]", level=20)

    answering(controller, answer, roles=["web", "db"], slots=4)
    assert ctl(controller.url, *on_node("--id", "x", "--", "true")).out == "hello\nworld\n[1]\n"
    heads, row = ctl(controller.url, "agents").out.splitlines()
    assert heads.split()[0] == "AGENT"
    assert row.split()[:2] == ["1:10", "live"]
    assert row.split()[-1] == "web,db"
    assert json.loads(ctl(controller.url, "agents", "--json").out)["agents"][0]["free_slots"] == 4
    heads, row = ctl(controller.url, "jobs", "--since", "1h", "--state", "success", "--agent", "1:10").out.splitlines()
    assert row.split()[:5] == ["x", "SUCCESS", "1:10", "execute", "true"]
    assert json.loads(ctl(controller.url, "jobs", "--json").out)["jobs"][0]["id"] == "x"
    shown = ctl(controller.url, "show", "x").out
    assert "1:10 SUCCESS, exit code 0" in shown
    assert "    world" in shown
    assert json.loads(ctl(controller.url, "show", "x", "--json").out)["results"][0]["data"] == "[1]"
    logged = ctl(controller.url, "logs", "x").out.splitlines()
    assert [line.split()[1:] for line in logged] == [["1:10", "1", "hello"], ["1:10", "1", "world"]]
    objects = [json.loads(line) for line in ctl(controller.url, "logs", "x", "--json").out.splitlines()]
    assert [one["data"] for one in objects] == ["hello", "world"]
    assert ctl(controller.url, "show", "none").code == 3


def test_logs_follow_until_the_job_ends(controller, answering) -> None:
    lines = Lines()
    ended = gevent.event.Event()

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        lines.send(agent, command["id"], "one")
        ended.wait()
        lines.send(agent, command["id"], "two")
        agent.finish(command["id"], exit_code=0)

    answering(controller, answer)
    assert ctl(controller.url, *on_node("--id", "x", "--detach", "--", "job")).code == 0
    following = Ctl("--url", controller.url, "logs", "x", "--follow")
    wait_until(lambda: "one" in following.out, what="the first line")
    ended.set()
    done = following.done()
    assert done.code == 0
    assert [line.split()[-1] for line in done.out.splitlines()] == ["one", "two"]


def kill_aware(agent: Agent, command: dict[str, Any]) -> None:
    """Runs until it is killed, as the real agent answers a kill."""
    if command["cmd"] == "kill":
        agent.finish(json.loads(command["data"])["id"], state="KILLED", exit_code=None, signal="SIGTERM")
        agent.finish(command["id"], data="true", level=20)


def test_kill(controller, answering) -> None:
    answering(controller, kill_aware)
    assert ctl(controller.url, *on_node("--id", "x", "--detach", "--", "job")).code == 0
    wait_until(lambda: controller.state("x") == "RUNNING")
    assert ctl(controller.url, "kill", "x") == (0, "job x: KILLED\n", "")
    wait_until(lambda: len(json.loads(ctl(controller.url, "jobs", "--all", "--json").out)["jobs"]) == 2)
    assert [job["id"] for job in json.loads(ctl(controller.url, "jobs", "--json").out)["jobs"]] == ["x"]
    assert sorted(job["cmd"] for job in controller.get("jobs")["jobs"]) == ["execute", "kill"]
    again = ctl(controller.url, "kill", "x")
    assert again.code == 2
    assert "ended already" in again.err


def test_kill_says_what_became_of_it(controller, answering) -> None:
    def answer(agent: Agent, command: dict[str, Any]) -> None:
        if command["cmd"] != "kill":
            return
        if "signal" in command["data"]:
            agent.finish(command["id"], data="true", level=20)
        else:
            agent.finish(command["id"], state="ERROR", data="these processes do not end: 4711", exit_code=None)

    answering(controller, answer)
    assert ctl(controller.url, *on_node("--id", "x", "--detach", "--", "job")).code == 0
    wait_until(lambda: controller.state("x") == "RUNNING")
    refused = ctl(controller.url, "kill", "x")
    assert refused == (1, "", "greenagent-ctl: job x: 1:10: these processes do not end: 4711\n")
    assert ctl(controller.url, "kill", "x", "--signal", "HUP") == (0, "job x: signal sent by 1:10\n", "")
    asked = ctl(controller.url, "kill", "x", "--json")
    assert asked.code == 1
    assert [answer["state"] for answer in json.loads(asked.out)["answers"]] == ["ERROR"]
    assert ctl(controller.url, "kill", "x", "--wait", "0") == (0, "job x: told 1:10\n", "")
    assert ctl(controller.url, "kill", "x", "--no-wait") == (0, "job x: told 1:10\n", "")
    assert ctl(controller.url, "kill", "x", "--wait", "-1").code == 2


def test_a_kill_that_comes_as_the_job_ends_by_itself_tells_its_end(controller, answering) -> None:
    def answer(agent: Agent, command: dict[str, Any]) -> None:
        if command["cmd"] == "kill":
            agent.finish(command["id"], state="ERROR", data="there is no job with the id 'x'", exit_code=None)
            agent.finish("x")

    answering(controller, answer)
    assert ctl(controller.url, *on_node("--id", "x", "--detach", "--", "job")).code == 0
    wait_until(lambda: controller.state("x") == "RUNNING")
    assert ctl(controller.url, "kill", "x") == (0, "job x: SUCCESS\n", "")


def test_kill_does_not_wait_for_ever_for_an_agent(controller, answering) -> None:
    answering(controller, lambda agent, command: None)
    assert ctl(controller.url, *on_node("--id", "x", "--detach", "--", "job")).code == 0
    wait_until(lambda: controller.state("x") == "RUNNING")
    late = ctl(controller.url, "kill", "x", "--wait", "0.3")
    assert late == (3, "", "greenagent-ctl: job x: 1:10 did not answer within 0.3 s; it was told\n")


def test_kill_of_a_job_that_no_agent_has_yet(controller) -> None:
    waiting = on_node("--id", "x", "--wait-for-agent", "60", "--detach", "--", "job")
    assert ctl(controller.url, *waiting).code == 0
    assert ctl(controller.url, "kill", "x") == (0, "job x: KILLED\n", "")


def test_ctrl_c_kills_when_not_on_a_terminal(controller, answering) -> None:
    answering(controller, kill_aware)
    running = Ctl("--url", controller.url, *on_node("--id", "x", "--", "job"))
    wait_until(lambda: "x" in [job["id"] for job in controller.get("jobs")["jobs"]])
    wait_until(lambda: controller.state("x") == "RUNNING")
    gevent.sleep(0.2)
    os.kill(running.process.pid, signal.SIGINT)
    done = running.done()
    assert done.code == 137
    assert controller.state("x") == "KILLED"


@pytest.mark.parametrize(
    ("answer", "code", "state"),
    [
        ("l\n", 130, "RUNNING"),
        ("leave\n", 130, "RUNNING"),
        ("\n", 130, "RUNNING"),
        ("\x04", 130, "RUNNING"),
        ("what?\nkeep it\nl\n", 130, "RUNNING"),
        ("k\n", 137, "KILLED"),
        ("?\nkill\n", 137, "KILLED"),
    ],
    ids=["leave", "leave in full", "default", "end of input", "asked again", "kill", "kill in full"],
)
def test_ctrl_c_asks_on_a_terminal(controller, answering, answer, code, state) -> None:
    answering(controller, kill_aware)
    master, slave = pty.openpty()
    running = Ctl("--url", controller.url, *on_node("--id", "x", "--", "job"), stdin=slave, stderr=slave)
    wait_until(lambda: "x" in [job["id"] for job in controller.get("jobs")["jobs"]])
    wait_until(lambda: controller.state("x") == "RUNNING")
    gevent.sleep(0.2)
    os.kill(running.process.pid, signal.SIGINT)
    os.set_blocking(master, False)
    screen = bytearray()

    def asked() -> bool:
        try:
            screen.extend(os.read(master, 4096))
        except BlockingIOError:
            pass
        return b"eave it running? (default: l)" in screen

    wait_until(asked, what="the question")
    os.write(master, answer.encode())
    assert running.done().code == code
    assert controller.state("x") == state
    os.close(master)
    os.close(slave)


def test_a_controller_that_restarts_meanwhile_is_waited_for(tmp_path) -> None:
    from tests.controller.support import ControllerProcess, plain

    state = ("--state", str(tmp_path / "state.db"))
    process = ControllerProcess(tmp_path, *state)
    running = Ctl("--url", process.url, *on_node("--id", "x", "--wait-for-agent", "60", "--", "job"))
    session = plain()
    wait_until(lambda: session.get(f"{process.url}/api/jobs", timeout=5).json()["jobs"], what="the job")
    process.kill()
    process = ControllerProcess(tmp_path, *state, listen=f"127.0.0.1:{process.port}")
    try:
        assert plain().get(f"{process.url}/1/10/cmd", timeout=10).json()["id"] == "x"
        result = {"id": "x", "state": "SUCCESS", "starttime": 1, "exit_code": 0, "streams": ["here\n", ""]}
        plain().post(f"{process.url}/1/10/result", json=result, timeout=10)
        assert running.done() == (
            0,
            "here\n",
            "greenagent-ctl: the controller was away and has no lines of this job yet; showing the end of its result\n",
        )
    finally:
        process.terminate()


def test_lines_lost_with_a_killed_controller_are_shown_once(tmp_path) -> None:
    from tests.controller.support import ControllerProcess, plain

    state = ("--state", str(tmp_path / "state.db"))
    process = ControllerProcess(tmp_path, *state)
    running = Ctl("--url", process.url, *on_node("--id", "x", "--wait-for-agent", "60", "--", "job"))

    def upload(*numbers: int) -> None:
        batch = [{"id": n, "jobid": "x", "level": 1, "data": f"line {n}", "epoch_ms": 1000} for n in numbers]
        assert plain().post(f"{process.url}/1/10/log", json=batch, timeout=10).status_code == 200

    try:
        wait_until(lambda: plain().get(f"{process.url}/api/jobs", timeout=5).json()["jobs"], what="the job")
        assert plain().get(f"{process.url}/1/10/cmd", timeout=10).json()["id"] == "x"
        upload(*range(1, 301))
        wait_until(lambda: "line 300\n" in running.out, what="the first lines")
        process.kill()
        process = ControllerProcess(tmp_path, *state, listen=f"127.0.0.1:{process.port}")
        upload(*range(291, 301), *range(303, 401))  # the batch that was not acknowledged comes again
        streams = ["".join(f"line {number}\n" for number in range(1, 401)), ""]
        result = {"id": "x", "state": "SUCCESS", "starttime": 1, "exit_code": 0, "streams": streams}
        plain().post(f"{process.url}/1/10/result", json=result, timeout=10)
        done = running.done()
    finally:
        process.terminate()
    assert done.out.splitlines() == [f"line {number}" for number in (*range(1, 301), *range(303, 401), 301, 302)]
    assert done.err == (
        "greenagent-ctl: the controller was restarted; lines of stdout of 1:10 that are missing above follow here: 2\n"
    )


def test_a_controller_that_has_forgotten_the_job_is_said(tmp_path) -> None:
    from tests.controller.support import ControllerProcess, plain

    process = ControllerProcess(tmp_path)
    running = Ctl("--url", process.url, *on_node("--id", "x", "--wait-for-agent", "60", "--", "job"))
    try:
        wait_until(lambda: plain().get(f"{process.url}/api/jobs", timeout=5).json()["jobs"], what="the job")
        process.kill()
        process = ControllerProcess(tmp_path, listen=f"127.0.0.1:{process.port}")
        done = running.done()
    finally:
        process.terminate()
    assert (done.code, done.out) == (3, "")
    assert "restarted and has forgotten the job x; it may still run on 1:10" in done.err
    assert "--state" in done.err


def test_tls_and_token_from_options_and_environment(make_controller, tmp_path) -> None:
    authority = trustme.CA()
    chain, key = write_pair(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    ca = write_authority(authority, tmp_path / "ca.pem")
    mine, mine_key = write_pair(authority.issue_cert("me"), tmp_path, "me")
    controller = make_controller(tls=served_context(chain, key, ca), token="secret")
    token = tmp_path / "token"
    token.write_text("secret\n")
    options = {"--ca": ca, "--cert": mine, "--key": mine_key, "--token-file": token}
    given = [str(word) for pair in options.items() for word in pair]
    assert ctl(controller.url, *given, "agents", "--json") == (0, '{"agents": []}\n', "")
    assert ctl(controller.url, "agents", "--json", *given) == (0, '{"agents": []}\n', "")
    environment = {
        "GREENAGENT_CTL_" + name.strip("-").replace("-", "_").upper(): str(value) for name, value in options.items()
    }
    done = Ctl("agents", "--json", GREENAGENT_CTL_URL=controller.url, **environment).done()
    assert done == (0, '{"agents": []}\n', "")
    without_token = ctl(controller.url, *given[:6], "agents")
    assert (without_token.code, without_token.err.count("\n")) == (3, 1)
    assert "token" in without_token.err
    without_ca = ctl(controller.url, "agents")
    assert (without_ca.code, without_ca.err.count("\n")) == (3, 1)
    assert "issuer" in without_ca.err or "self-signed" in without_ca.err


def test_files_that_cannot_be_used_are_usage_errors(controller, tmp_path) -> None:
    authority = trustme.CA()
    mine, key = write_pair(authority.issue_cert("me"), tmp_path, "me")
    other_key = write_pair(authority.issue_cert("other"), tmp_path, "other")[1]
    text = tmp_path / "text"
    text.write_text("nothing of the kind\n")
    damaged = tmp_path / "damaged"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for options, said in (
        (("--ca", text), f"--ca {text} is no PEM file with a certificate"),
        (("--ca", damaged), f"--ca {damaged} is damaged: it cannot be decoded, store it anew"),
        (("--ca", tmp_path), f"--ca {tmp_path} cannot be read: Is a directory"),
        (("--cert", text, "--key", key), f"--cert {text} is no PEM file with a certificate"),
        (("--cert", mine, "--key", text), f"--key {text} is no PEM file with a private key"),
        (("--cert", mine), f"--cert {mine} is no PEM file with a private key"),
        (("--cert", mine, "--key", other_key), f"--key {other_key} does not match --cert {mine}"),
        (("--cert", damaged, "--key", key), f"--cert {damaged} is damaged: it cannot be decoded, store it anew"),
    ):
        done = ctl(controller.url, *(str(option) for option in options), "agents")
        assert done == (2, "", f"greenagent-ctl: {said}\n")


def test_http_on_a_tls_port_and_a_wrong_token_are_told(make_controller, tmp_path) -> None:
    authority = trustme.CA()
    chain, key = write_pair(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    ca = write_authority(authority, tmp_path / "ca.pem")
    secure = make_controller(tls=served_context(chain, key, None), token="secret")
    done = ctl("http" + secure.url.removeprefix("https"), "agents")
    assert done.code == 3
    assert done.err.endswith("it closed the connection: if it speaks TLS, the URL must begin with https\n")
    token = tmp_path / "token"
    token.write_text("another\n")
    wrong = ctl(secure.url, "--ca", str(ca), "--token-file", str(token), "agents")
    missing = ctl(secure.url, "--ca", str(ca), "agents")
    assert (wrong.code, missing.code) == (3, 3)
    assert "the token is not that of this controller: look at --token-file" in wrong.err
    assert "wants its token: give --token-file" in missing.err


def test_environment_proxies_are_not_used(controller) -> None:
    done = ctl(controller.url, "agents", http_proxy="http://127.0.0.1:1", HTTP_PROXY="http://127.0.0.1:1")
    assert done.code == 0


def test_a_reader_that_goes_away_is_no_traceback(controller) -> None:
    for number in range(300):
        controller.submit(id=f"{number}-{'x' * 150}", gid=1, nid=10, wait_for_agent=60)
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        [sys.executable, "-m", "greenagent.cli.ctl", "--url", controller.url, "jobs", "--limit", "1000"],
        stdout=write,
        stderr=subprocess.PIPE,
        cwd=os.getcwd(),
    )
    os.close(write)
    wait_until(lambda: process.poll() is not None, what="greenagent-ctl to end")
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_run_whose_reader_goes_away_says_that_the_job_goes_on(controller, answering) -> None:
    lines = Lines()
    answering(controller, lambda agent, command: lines.send(agent, command["id"], "one"))
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        [sys.executable, "-m", "greenagent.cli.ctl", "--url", controller.url, *on_node("--id", "x", "--", "job")],
        stdout=write,
        stderr=subprocess.PIPE,
        cwd=os.getcwd(),
    )
    os.close(write)
    wait_until(lambda: process.poll() is not None, what="greenagent-ctl to end")
    assert process.stderr is not None
    assert process.stderr.read() == b"greenagent-ctl: job x goes on; end it with: greenagent-ctl kill x\n"
    process.stderr.close()
    assert process.returncode == 1
    assert controller.state("x") == "RUNNING"


@pytest.mark.parametrize("arguments", [("jobs",), ("agents", "--json")], ids=" ".join)
def test_output_that_cannot_be_written_is_one_line(controller, arguments) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.Popen(
            [sys.executable, "-m", "greenagent.cli.ctl", "--url", controller.url, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=os.getcwd(),
        )
    wait_until(lambda: done.poll() is not None, what="greenagent-ctl to end")
    assert done.stderr is not None
    assert done.stderr.read() == b"greenagent-ctl: cannot write the output: No space left on device\n"
    done.stderr.close()
    assert done.returncode == 1


def test_lines_no_longer_kept_are_told_once_and_in_the_end(make_controller) -> None:
    controller = make_controller(Limits(log_lines_per_job=2500))
    agent = Agent(controller)
    poll = agent.poll()
    controller.submit(id="x", gid=1, nid=10)
    poll.command()
    lines = Lines()
    lines.send(agent, "x", *(str(number) for number in range(4000)))
    following = Ctl("--url", controller.url, "logs", "x", "--follow")
    wait_until(lambda: following.out.endswith(" 3999\n"), what="the lines so far")
    lines.send(agent, "x", *(str(number) for number in range(4000, 8000)))
    wait_until(lambda: following.out.endswith(" 7999\n"), what="the lines after")
    agent.finish("x")
    done = following.done()
    assert len(done.out.splitlines()) == 5000
    assert done.err == "greenagent-ctl: 3000 older lines are no longer kept here\n"


def test_ctl_needs_no_gevent() -> None:
    code = "import sys, greenagent.cli.ctl.main; sys.exit('gevent' in sys.modules or 'falcon' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=os.getcwd(), timeout=30).returncode == 0


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
    assert ctl(url, "logs", "--", job_id).out.endswith(" 1:10  1 a line\n")
    assert f"job {job_id} has ended already (SUCCESS)" in ctl(url, "kill", "--", job_id).err


@pytest.mark.parametrize("job_id", [".", "..", "-9"])
def test_a_living_job_of_any_id_is_killed(controller, answering, job_id: str) -> None:
    def answer(agent: Agent, command: dict[str, Any]) -> None:
        if command["cmd"] == "kill":
            agent.finish(command["id"], cmd="kill")
            agent.finish(json.loads(command["data"])["id"], state="KILLED")

    answering(controller, answer)
    assert ctl(controller.url, *on_node("--detach", f"--id={job_id}", "--", "sh")).code == 0
    assert ctl(controller.url, "kill", "--", job_id) == (0, f"job {job_id}: KILLED\n", "")


@pytest.mark.parametrize("body", ['{"jobs": [{}]}', '{"id": 7}', '{"jobs": 3, "id": "x", "lines": {}}', "{}"])
def test_an_answer_that_is_not_understood_is_one_line(body: str) -> None:
    """Another version, or something else that answers with JSON."""

    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])
        return [body.encode()]

    server = WSGIServer(("127.0.0.1", 0), application, log=None)
    server.start()
    try:
        for command in ("jobs", "agents", "top --once", "show x", "logs x", "kill x", "run --gid 1 --nid 2 -- x"):
            done = ctl(f"http://127.0.0.1:{server.server_port}", *command.split())
            assert done.code == 3, (command, done)
            assert done.err.startswith("greenagent-ctl: what answers at http://127.0.0.1:"), command
            assert done.err.count("\n") == 1
    finally:
        server.stop()
