"""A command of any size and shape that a poll brings is read, or refused in words, and holds up nothing else."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from greenagent.agent import command_reader
from greenagent.runtime import reading_process
from greenagent.uplink.http import COMMAND_LIMIT
from greenagent.values.command import MAX_MEMBERS
from tests.support.calibration import takes_at_most
from tests.support.commands import shell
from tests.support.held_readers import hold_readers
from tests.support.holds import HELD, longest_hold
from tests.support.inside import InsideAgent
from tests.support.processes import is_running, state_of
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

MIB = 1024 * 1024
EXTENSION = '[extensions.listed]\nbinary = "true"\nargs = ["{x}"]'


@pytest.fixture
def controller() -> Iterator[RecordingController]:
    with RecordingController() as controller:
        yield controller


@pytest.fixture
def inside(tmp_path: Path, controller: RecordingController, monkeypatch: pytest.MonkeyPatch) -> Iterator[InsideAgent]:
    monkeypatch.setattr(reading_process, "SECONDS", 60)  # that it is not read for long is not what most tests are about
    with InsideAgent(tmp_path, {"main": controller.url}, kill_grace=0.5, more=EXTENSION) as inside:
        yield inside


def command(command_id: str, args: str = '{"name": "true"}', data: str = "", cmd: str = "execute") -> bytes:
    """``args`` as JSON text."""
    texts = {"id": f'"{command_id}"', "gid": "1", "nid": "10", "cmd": f'"{cmd}"', "args": args}
    texts["data"] = json.dumps(data, ensure_ascii=False)
    return ("{" + ", ".join(f'"{key}": {text}' for key, text in texts.items()) + "}").encode()


def args(**members: str) -> str:
    """Members as JSON texts."""
    return "{" + ", ".join(f'"{key}": {text}' for key, text in {"name": '"true"', **members}.items()) + "}"


def many(number: int, member: str) -> str:
    return "[" + ",".join([member] * number) + "]"


FEW = MAX_MEMBERS - 10
TAKEN: dict[str, Callable[[], bytes]] = {
    "numbers as arguments": lambda: command("j", args(args=many(FEW, "1.5"))),
    "variables": lambda: command("j", args(env=json.dumps({f"key{n}": n for n in range(FEW)}))),
    "lists in each other": lambda: command("j", args(x=many(FEW // 150, "[" * 148 + "]" * 148))),
    "remembered": lambda: command("j", args(x=many(FEW // 2, '{"a":1}'), max_time="-1")),
    "a long text": lambda: command("j", args(max_time="-1"), data="a line of it\n" * MIB),
    "a long script": lambda: command(
        "j",
        data=json.dumps({"content": "def action(x): return len(x)\n" + "# a line\n" * MIB, "args": {"x": "a"}}),
        cmd="jumpscript_content",
    ),
}
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "members": (lambda: command("j", args(x=many(3 * MIB, "[]"))), "more than 100000 members"),
    "members at last": (lambda: command("j", args(args=many(MAX_MEMBERS, '"a"'))), "more than 100000 members"),
    "depth that can be read": (lambda: command("j", args(x="[" * 250 + "]" * 250)), "nested too deeply"),
    "members of data": (
        lambda: command("j", data=many(2 * MIB, "[]"), cmd="jumpscript_content"),
        "data of jumpscript_content is too large: it has more than 100000 members",
    ),
    "data of a built-in": (
        lambda: command("j", data=many(MIB, "[]"), cmd="kill"),
        "data of kill is longer than 65536 characters",
    ),
    "parts of an argument": (
        lambda: command("j", args(x=json.dumps("..a " * MIB)), cmd="listed"),
        "args.x: no program takes an argument that long",
    ),
    "parts of arguments": (
        lambda: command("j", args(x='"x"', args=many(17, json.dumps("a/.. " * 26_000))), cmd="listed"),
        "argument list too long",
    ),
    "no JSON": (lambda: command("j", "[" * MIB), "the command is"),
}


@pytest.mark.parametrize("make", TAKEN.values(), ids=TAKEN)
def test_a_command_that_is_taken_holds_up_nothing(
    inside: InsideAgent, controller: RecordingController, make: Callable[[], bytes]
) -> None:
    body = make()
    assert len(body) <= COMMAND_LIMIT
    with longest_hold(inside) as longest:
        controller.push(body)
        wait_until(lambda: any(post.endpoint == "result" for post in controller.posts), 60, "the result")
    assert takes_at_most(longest[0], HELD)


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_command_that_is_refused_holds_up_nothing_and_the_next_is_taken(
    inside: InsideAgent, controller: RecordingController, make: Callable[[], bytes], reason: str
) -> None:
    body = make()
    assert len(body) <= COMMAND_LIMIT
    with longest_hold(inside) as longest:
        controller.push(body)
        result = controller.wait_for_result("j", 60)
    assert result["state"] == "ERROR"
    assert reason in result["data"]
    assert takes_at_most(longest[0], HELD)
    controller.push(command("next"))
    assert controller.wait_for_result("next")["state"] == "SUCCESS"


def reader_of(inside: InsideAgent) -> int:
    """The pid of the process that reads a command, once it has stopped: see ``hold_readers``."""
    process = inside.agent.command_reader._process
    pid = wait_until(
        lambda: process._child and state_of(process._child.pid) == "T" and process._child.pid, what="the reader"
    )
    assert pid
    return pid


LARGE = args(x=json.dumps("a" * 300_000))


def test_a_small_command_needs_no_other_process(inside: InsideAgent, controller: RecordingController) -> None:
    inside.agent.command_reader.close()
    inside.agent.command_reader._process._start = None  # type: ignore[assignment]
    controller.push(command("j", args(args=many(5000, '"a"'))))
    assert controller.wait_for_result("j")["state"] == "SUCCESS"


def test_meanwhile_the_agent_works_and_nobody_takes_the_process_for_a_jobs(
    inside: InsideAgent, controller: RecordingController, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_readers(monkeypatch)
    controller.push(command("j", LARGE))
    reader = reader_of(inside)
    assert inside.agent.connections.links["main"].poller is not None
    assert inside.agent.connections.links["main"].poller.heartbeat.activity == "reading a command"
    inside.agent.orphan_reaper.check()
    inside.agent.orphan_reaper.check()
    inside.accept(shell("k", "ls /proc/self/fd"))
    streams = controller.wait_for_result("k")["streams"]
    assert streams == ["0\n1\n2\n3\n", ""]  # 3 is the folder that it lists
    assert is_running(reader)
    os.kill(reader, signal.SIGCONT)
    assert controller.wait_for_result("j")["state"] == "SUCCESS"
    assert not is_running(reader)
    assert inside.agent.spawner.children.live() == []


def test_a_command_whose_reader_was_killed_is_read_by_another(
    inside: InsideAgent, controller: RecordingController, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as held:
        hold_readers(held)
        controller.push(command("j", LARGE))
        reader = reader_of(inside)
    os.kill(reader, signal.SIGKILL)
    assert controller.wait_for_result("j")["state"] == "SUCCESS"


def test_a_command_whose_readers_are_all_killed_is_refused(
    inside: InsideAgent, controller: RecordingController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_reader, "PAUSES", (0.01,))
    hold_readers(monkeypatch)
    controller.push(command("j", LARGE))
    first = reader_of(inside)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not is_running(first), what="its end")
    second = wait_until(lambda: (found := reader_of(inside)) != first and found, what="another")
    os.kill(second, signal.SIGKILL)
    assert "the process that reads it was ended" in controller.wait_for_result("j")["data"]


def test_a_command_that_takes_too_long_is_refused(
    inside: InsideAgent, controller: RecordingController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_process, "SECONDS", 0.2)
    hold_readers(monkeypatch)
    controller.push(command("j", LARGE))
    assert controller.wait_for_result("j")["data"] == "the command takes too long to be read"
    assert inside.agent.spawner.children.live() == [], "it was ended"


def test_a_command_that_is_being_read_when_the_agent_stops_runs_at_its_next_start(
    tmp_path: Path, controller: RecordingController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_process, "SECONDS", 60)
    hold_readers(monkeypatch)
    with InsideAgent(tmp_path, {"main": controller.url}, kill_grace=60) as inside:
        controller.push(command("j", LARGE))
        reader = reader_of(inside)
        stopping = gevent.spawn(inside.stop)
        wait_until(lambda: inside.agent.admission.stopping, what="the stop")
        os.kill(reader, signal.SIGCONT)
        stopping.get(timeout=60)
        assert not is_running(reader)
    assert controller.results == []
    with InsideAgent(tmp_path, {"main": controller.url}):
        assert controller.wait_for_result("j")["state"] == "SUCCESS"
