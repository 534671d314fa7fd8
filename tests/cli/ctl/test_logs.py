"""``greenagent-ctl logs``: every line once, also those that come late or after a restart of the controller."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import termios
from collections.abc import Callable
from datetime import datetime
from typing import Any

import gevent
import pytest

from greenagent.cli.ctl import follow
from greenagent.controller.limits import Limits
from greenagent.controller.state import log_lines
from tests.support.controllers import ControllerProcess
from tests.support.ctl import (
    Ctl,
    Lines,
    answers,
    await_looks,
    ctl,
    on_node,
    texts_of,
)
from tests.support.local_controller import Agent, LocalController, plain, start
from tests.support.programs import ROOT, Done, command
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("brief_pauses")
F_SETPIPE_SZ = 1031


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


def followed(controller: LocalController, go_on: Callable[[], None]) -> Done:
    """What ``logs --follow`` made of job x; ``go_on`` begins when it has shown what is there, and waits for more."""

    def begin() -> None:
        await_looks(controller, "x", 3)  # one that moves its place, one that does not, and one that waits
        go_on()

    going_on = gevent.spawn(begin)
    done = ctl(controller.url, "logs", "x", "--follow")
    going_on.get()
    return done


def test_following_goes_on_until_the_last_lines_have_come(controller) -> None:
    """The result overtakes them: the agent uploads lines when they have waited for a while."""
    agent = Agent(controller)
    start(controller, agent, "x")
    lines = Lines()
    lines.send(agent, "x", "one")

    def go_on() -> None:
        agent.finish("x", exit_code=0, streams=["one\ntwo\nthree\n", ""])
        await_looks(controller, "x", 30)
        lines.send(agent, "x", "two")
        await_looks(controller, "x", 40)
        lines.send(agent, "x", "three")

    done = followed(controller, go_on)
    assert (done.code, texts_of(done.out), done.err) == (0, ["one", "two", "three"], "")


def test_lines_on_their_way_are_awaited_and_a_failure_is_told_where_it_was_followed(controller, monkeypatch) -> None:
    """A detached job's lines come up to a second after its result."""
    agent = Agent(controller)
    start(controller, agent, "x")
    lines = Lines()
    lines.send(agent, "x", "one")
    agent.finish("x", "ERROR", exit_code=3, lines={"1": 2}, data="exit code 3")
    monkeypatch.setattr(follow, "UNDER_WAY", 60.0)

    def send_late() -> None:
        await_looks(controller, "x", 3)
        lines.send(agent, "x", "two")

    late = gevent.spawn(send_late)
    assert ctl(controller.url, "logs", "x", "--no-prefix") == (0, "one\ntwo\n", "")
    late.get()
    followed = ctl(controller.url, "logs", "x", "--no-prefix", "--follow")
    assert followed == (0, "one\ntwo\n", "greenagent-ctl: job x on 1:10 ended ERROR: exit code 3\n")


def test_following_shows_lines_that_the_result_does_not_tell_of(controller) -> None:
    agent = Agent(controller)
    start(controller, agent, "x")
    lines = Lines()
    lines.send(agent, "x", "begun", level=7)

    def go_on() -> None:
        agent.finish("x", exit_code=0)
        await_looks(controller, "x", 10)
        lines.send(agent, "x", "ended", level=7)

    done = followed(controller, go_on)
    assert (done.code, texts_of(done.out), done.err) == (0, ["begun", "ended"], "")


def test_following_says_when_not_all_lines_have_come(controller) -> None:
    agent = Agent(controller)
    poll = agent.poll()
    controller.submit(id="-x", gid=1, nid=10)
    poll.command()
    agent.finish("-x", exit_code=0, streams=["never uploaded\n", ""])
    done = ctl(controller.url, "logs", "--follow", "--", "-x")
    assert (done.code, done.out) == (0, "")
    assert done.err == (
        "greenagent-ctl: not all lines of the job are here: 1:10 has not uploaded them, or they went with an earlier"
        " run of the controller, which has them in memory; the end of its output is shown by: greenagent-ctl show --"
        " -x, all of it on 1:10 by: greenagent-logs --job=-x\n"
    )


def test_following_loses_no_line_when_the_controller_restarts_under_a_paused_reader(tmp_path) -> None:
    state = ("--state", str(tmp_path / "state.db"))
    process = ControllerProcess(tmp_path, *state)
    session = plain()
    job = {"id": "x", "cmd": "execute", "gid": 1, "nid": 10, "args": {"name": "job"}, "wait_for_agent": 60}
    assert session.post(f"{process.url}/api/jobs", json=job, timeout=60).status_code == 202
    assert session.get(f"{process.url}/1/10/cmd", timeout=60).json()["id"] == "x"

    def upload(*numbers: int) -> None:
        batch = [{"id": n, "jobid": "x", "level": 1, "data": f"{'.' * 200} {n}", "epoch_ms": 1000} for n in numbers]
        assert plain().post(f"{process.url}/1/10/log", json=batch, timeout=60).status_code == 200

    upload(*range(1, 901))
    read, write = os.pipe()
    size = fcntl.fcntl(read, F_SETPIPE_SZ, 4096)
    program = command("ctl", "--url", process.url, "logs", "x", "--follow")
    errors = (tmp_path / "errors").open("wb")
    following = subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=write, stderr=errors, cwd=ROOT)
    os.close(write)
    got = bytearray()

    def waiting_bytes() -> int:
        return int.from_bytes(fcntl.ioctl(read, termios.FIONREAD, b"\0\0\0\0"), sys.byteorder)

    def numbers() -> list[int]:
        while True:
            try:
                data = os.read(read, 65536)
            except BlockingIOError:
                break
            if not data:
                break
            got.extend(data)
        return [int(line.split()[-1]) for line in got.decode().splitlines(keepends=True) if line.endswith("\n")]

    try:
        wait_until(lambda: waiting_bytes() > size - 250, what="the pipe to be full")
        process.kill()
        process.start()
        upload(*range(891, 911))  # the batch that was not acknowledged comes again
        os.set_blocking(read, False)
        wait_until(lambda: numbers()[-1:] == [910], what="the new lines")
        upload(*range(911, 921))
        wait_until(lambda: numbers()[-1:] == [920], what="further lines")
        result = {"id": "x", "state": "SUCCESS", "starttime": 1, "exit_code": 0, "streams": ["", ""]}
        plain().post(f"{process.url}/1/10/result", json=result, timeout=60)
        wait_until(lambda: following.poll() is not None, what="its end")
        assert numbers() == [*range(1, 921)]
    finally:
        following.kill()
        process.stop()
        os.close(read)
        errors.close()
    assert following.poll() == 0
    assert (tmp_path / "errors").read_text() == (
        "greenagent-ctl: the controller was restarted meanwhile: lines it had until then may be missing above\n"
    )


def test_following_waits_for_a_controller_that_restarts_but_not_for_one_that_is_not_there(tmp_path) -> None:
    state = ("--state", str(tmp_path / "state.db"))
    process = ControllerProcess(tmp_path, *state)
    job = {"id": "x", "cmd": "execute", "gid": 1, "nid": 10, "args": {"name": "job"}, "wait_for_agent": 60}
    try:
        assert plain().post(f"{process.url}/api/jobs", json=job, timeout=60).status_code == 202
        assert plain().get(f"{process.url}/1/10/cmd", timeout=60).json()["id"] == "x"
        line = {"id": 1, "jobid": "x", "level": 1, "data": "one", "epoch_ms": 1000}
        assert plain().post(f"{process.url}/1/10/log", json=[line], timeout=60).status_code == 200
        following = Ctl("--url", process.url, "logs", "x", "--follow", "--json")
        wait_until(lambda: "one" in following.out, what="the first line")
        process.kill()
        away = ctl(process.url, "logs", "x", "--follow")
        assert (away.code, away.err.count("\n")) == (125, 1)
        process.start()
        line = {"id": 2, "jobid": "x", "level": 1, "data": "two", "epoch_ms": 1000}
        assert plain().post(f"{process.url}/1/10/log", json=[line], timeout=60).status_code == 200
        result = {"id": "x", "state": "SUCCESS", "starttime": 1, "exit_code": 0, "streams": ["one\ntwo\n", ""]}
        plain().post(f"{process.url}/1/10/result", json=result, timeout=60)
        done = following.done()
    finally:
        process.stop()
    assert [json.loads(line)["data"] for line in done.out.splitlines()] == ["one", "two"]
    assert done.code == 0


def test_dropped_lines_are_told_beside_json_too(make_controller) -> None:
    controller = make_controller(Limits(log_lines_per_job=10))
    agent = Agent(controller)
    poll = agent.poll()
    controller.submit(id="x", gid=1, nid=10)
    poll.command()
    Lines().send(agent, "x", *(str(number) for number in range(25)))
    done = ctl(controller.url, "logs", "x", "--json")
    assert [json.loads(line)["data"] for line in done.out.splitlines()] == [str(number) for number in range(15, 25)]
    assert done == (0, done.out, "greenagent-ctl: 15 older lines are no longer kept here\n")


def test_following_a_job_that_the_controller_does_not_know_is_told(controller) -> None:
    """An agent's own start-up tasks, whose lines it uploads, were never posted here."""
    Lines().send(Agent(controller), "own", "a-line")
    done = ctl(controller.url, "logs", "own", "--follow")
    assert (done.code, texts_of(done.out)) == (0, ["a-line"])
    assert done.err == (
        "greenagent-ctl: the controller has lines of the job own but does not know it:"
        " that it has ended cannot be told\n"
    )


def test_lines_no_longer_kept_are_told_once_and_in_the_end(make_controller, monkeypatch) -> None:
    monkeypatch.setattr(log_lines, "TURN", 4000)  # nobody sees some of them in between
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


def test_lines_are_asked_for_as_in_greenagent_logs(controller) -> None:
    """It had none of these options, and showed neither dates nor names of levels."""
    agent = Agent(controller)
    start(controller, agent, "x")
    lines = Lines()
    moments = ("2026-11-26T23:59:59.000", "2026-11-27T00:00:00.250", "2026-11-27T00:00:00.500", "2026-11-27T12:00:00")
    printed = ((1, "begun"), (7, "slow disk"), (2, "broken\nno space"), (12, "done"))
    for moment, (level, text) in zip(moments, printed, strict=True):
        lines.send(agent, "x", text, level=level, stamp=int(datetime.fromisoformat(moment).timestamp() * 1000))
    agent.finish("x", lines={"1": 1, "2": 1, "7": 1, "12": 1})
    assert ctl(controller.url, "logs", "x").out.splitlines() == [
        "2026-11-26 23:59:59.000 1:10 stdout    begun",
        "2026-11-27 00:00:00.250 1:10 warning   slow disk",
        "2026-11-27 00:00:00.500 1:10 stderr    broken",
        "    no space",
        "2026-11-27 12:00:00.000 1:10 level 12  done",
    ]
    for options, shown in (
        (("--tail", "2"), "broken|no space|done"),
        (("--tail", "0"), ""),
        (("--tail", "9", "-f"), "begun|slow disk|broken|no space|done"),
        (("--level", "warning,1"), "begun|slow disk"),
        (("--level", "1-7", "--tail", "1"), "broken|no space"),
        (("--grep", "^(b|d)o?e?"), "begun|broken|no space|done"),
        (("--grep", "disk$", "--follow"), "slow disk"),
        (("--since", "2026-11-27", "--until", "2026-11-27T00:00:00"), "slow disk|broken|no space"),
    ):
        done = ctl(controller.url, "logs", "x", "--no-prefix", *options)
        assert done == (0, "".join(f"{text}\n" for text in shown.split("|") if text), ""), options
    (line,) = ctl(controller.url, "logs", "x", "--json", "--tail", "1").out.splitlines()
    assert json.loads(line)["data"] == "done"


def test_of_a_job_without_lines_is_said_why(controller) -> None:
    """It printed nothing, with exit code 0 and without a word."""
    agent = Agent(controller)
    for job_id in ("silent", "kept", "lost", "late", "runs", "waits", "printed", "absent", "first", "cut"):
        start(controller, agent, job_id)
    start(controller, agent, "asked", cmd="ping")
    controller.submit(id="queued", gid=1, nid=11, wait_for_agent=60)
    agent.finish("silent", "ERROR", exit_code=9, lines={}, streams=["", ""])
    agent.finish("kept", exit_code=0, lines={}, streams=["one\n", ""])
    agent.finish("lost", exit_code=0, lines={"1": 2}, lost=2, streams=["one\ntwo\n", ""])
    agent.finish("late", exit_code=0, lines={"1": 1}, streams=["one\n", ""])
    agent.finish("asked", cmd="ping", data='"pong"', level=20)
    agent.finish("absent", "ERROR", reason="not_found", data="cannot start nope: not found", exit_code=None)
    agent.finish("first", "KILLED", reason="never_began", data="killed before its first run", exit_code=None)
    agent.finish("cut", "ERROR", lines={}, data="cut off: the agent was killed\nand more", exit_code=None)
    controller.submit(id="away", gid=1, nid=11, wait_for_agent=60)
    assert ctl(controller.url, "kill", "away", "--no-wait").code == 0
    agent.post("waiting", [{"id": "waits", "waits": True}])
    Lines().send(agent, "printed", "one")
    begins = "greenagent-ctl: no lines of job "
    for job_id, said in (
        ("silent", "silent: it printed nothing (1:10 ERROR, exit code 9)"),
        (
            "kept",
            'kept: its agent uploads none ([logging] type "AC"); the end of its output is shown by:'
            " greenagent-ctl show kept (1:10 SUCCESS, exit code 0)",
        ),
        ("lost", "lost: all 2 are lost, its agent could not store them (1:10 SUCCESS, exit code 0)"),
        ("runs", "runs: it runs, and none has come yet (1:10)"),
        ("waits", "waits: it waits for its turn (1:10)"),
        ("asked", "asked: ping is a built-in command, which has none (1:10 SUCCESS)"),
        ("absent", "absent: it never ran: cannot start nope: not found (1:10 ERROR)"),
        ("first", "first: it never ran: killed before its first run (1:10 KILLED)"),
        ("cut", "cut: it printed nothing; cut off: the agent was killed (1:10 ERROR)"),
        ("away", "away: killed before any agent had it (1:11 KILLED)"),
        ("queued", "queued: it has not begun (1:11)\ngreenagent-ctl: waiting for 1:11 (last contact never)"),
    ):
        assert ctl(controller.url, "logs", job_id) == (0, "", f"{begins}{said}\n")
    late = ctl(controller.url, "logs", "late")
    assert "not all lines of the job are here: 1:10 has not uploaded them" in late.err
    assert late.err.count("\n") == 1
    narrow = ctl(controller.url, "logs", "printed", "--grep", "two")
    assert narrow == (0, "", f"{begins}printed match the rest of the question\n")
    assert ctl(controller.url, "logs", "--follow", "silent").err == ctl(controller.url, "logs", "silent").err


def test_stamps_no_calendar_has_are_shown_as_unknown() -> None:
    line = '{"gid": 1, "nid": 1, "id": %d, "level": 1, "data": "text", "epoch": %s, "epoch_ms": %s000, "number": %d}'
    stamps = ("1" + "0" * 17, "1" + "0" * 400, "-1" + "0" * 17)
    lines = ",".join(line % (number, stamp, stamp, number) for number, stamp in enumerate(stamps, 1))
    page = f'{{"lines": [{lines}], "next": 3, "dropped": 0, "finished": true, "run": "r"}}'
    with answers({"logs": page, "x": '{"id": "x", "results": []}'}) as url:
        done = ctl(url, "logs", "x")
        assert done == (0, "---------- --:--:--.000 1:1 stdout    text\n" * 3, "")


def test_lines_that_went_with_an_earlier_run_of_the_controller_are_missed(tmp_path) -> None:
    """It printed nothing, with exit code 0 and without a word."""
    process = ControllerProcess(tmp_path, "--state", str(tmp_path / "state.db"))
    try:
        command = {"id": "x", "cmd": "execute", "gid": 1, "nid": 10, "args": {"name": "a"}, "wait_for_agent": 60}
        assert process.post(command) == 202
        assert plain().get(f"{process.url}/1/10/cmd", timeout=60).json()["id"] == "x"
        batch = [{"id": 1, "jobid": "x", "level": 1, "data": "one", "epoch_ms": 1000}]
        assert plain().post(f"{process.url}/1/10/log", json=batch, timeout=60).status_code == 200
        result = {"id": "x", "state": "SUCCESS", "starttime": 1, "exit_code": 0, "streams": ["one\n", ""]}
        plain().post(f"{process.url}/1/10/result", json={**result, "lines": {"1": 1}}, timeout=60)
        whole = process.ctl("logs", "x")
        assert (whole.code, texts_of(whole.out), whole.err) == (0, ["one"], "")
        process.kill()
        process.start()
        done = process.ctl("logs", "x")
    finally:
        process.kill()
    assert (done.code, done.out) == (0, "")
    assert "not all lines of the job are here: 1:10 has not uploaded them, or they went with an earlier run" in done.err
    assert done.err.endswith("show x, all of it on 1:10 by: greenagent-logs --job x\n")
