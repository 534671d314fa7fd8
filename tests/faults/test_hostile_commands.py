"""Whatever a controller hands out is answered or refused, and the next command is answered."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from greenagent.runtime import procfs
from greenagent.values.arguments import KNOWN_ARGUMENTS
from tests.support.agents import AgentProcess, StartAgent, assert_well
from tests.support.commands import built_in, execute, shell
from tests.support.held_readers import package_that_holds_readers
from tests.support.processes import is_running, memory_of, state_of
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

WRONG: tuple[Any, ...] = (True, "words", "", 1.5, -1, 10**30, -(10**30), [], [[]], [None, 1, {}], {}, {"a": {"b": []}})
TOP = ("gid", "nid", "cmd", "name", "args", "data", "role", "roles", "fanout", "tags")
PERIODS = ("recurring_period",)
"""A number here is no wrong type: the job goes on, and only its failures are reported."""
BUILTINS = ("ping", "kill", "get_msgs", "del_msgs", "get_processes_stats", "get_process_stats", "get_os_info")


def assert_each_answered_once(controller: RecordingController, commands: list[dict[str, Any]]) -> None:
    for command in commands:
        controller.push(command)
    wanted = [command["id"] for command in commands]
    wait_until(lambda: len(controller.results) >= len(wanted), 60, f"{len(wanted)} results")
    assert sorted(result["id"] for result in controller.results) == sorted(wanted)
    for result in controller.results:
        assert result["state"] in ("SUCCESS", "ERROR", "UNKNOWN_CMD", "TIMEOUT"), result
        assert result["state"] != "ERROR" or result["data"], result
        assert "internal error" not in result["data"]


def test_the_wrong_type_in_every_field_is_answered(controller: RecordingController, start_agent: StartAgent) -> None:
    agent = start_agent()
    commands = []
    for key in TOP:
        for number, wrong in enumerate(WRONG):
            commands.append({**built_in(f"top-{key}-{number}", "ping"), key: wrong})
    for key in sorted(KNOWN_ARGUMENTS):
        for number, wrong in enumerate(WRONG):
            if key in PERIODS and isinstance(wrong, (int, float)) and not isinstance(wrong, bool):
                continue
            commands.append(execute(f"arg-{key}-{number}", **{"name": "true", key: wrong}))
    assert_each_answered_once(controller, commands)
    assert_well(agent, controller)


def test_the_wrong_data_for_every_built_in_is_answered(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent()
    fields = ("id", "signal", "jobid", "timefrom", "timeto", "levels", "limit", "domain", "name", "text", "pid")
    datas = ["", "\0", "{", "[" * 100_000, "null", "NaN", '"\\ud800"', json.dumps({"id": "no-such-job"})]
    datas += [json.dumps(wrong) for wrong in WRONG]
    datas += [json.dumps({"id": "no-such-job", field: wrong}) for field in fields for wrong in WRONG]
    commands = [built_in(f"{name}-{number}", name, data) for name in BUILTINS for number, data in enumerate(datas)]
    assert_each_answered_once(controller, commands)
    assert_well(agent, controller)


NO_COMMANDS = (
    b"null",
    b"7",
    b'"execute"',
    b"[]",
    b"{}",
    b'{"cmd": "ping"}',
    b'{"id": null, "cmd": "ping"}',
    b'{"id": {"a": 1}, "cmd": "ping"}',
    b'{"id": "cut',
    b"\xff\xfe{\x00}\x00",
    b"[" * 1_000_000,
    b'{"a":' * 200_000,
)


def test_what_is_no_command_is_said_and_polling_goes_on(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent()
    for number, body in enumerate(NO_COMMANDS, 1):
        controller.push(body)
        wait_until(lambda: agent.stderr.count("a command is refused") >= number, what=f"the refusal of {body[:20]!r}")  # noqa: B023
        controller.push(built_in(f"after-{number}", "ping"))
        controller.wait_for_result(f"after-{number}")
    assert_well(agent, controller)
    wanted = [f"after-{number}" for number in range(1, len(NO_COMMANDS) + 1)]
    assert [result["id"] for result in controller.results] == [*wanted, "still-there"]
    assert agent.stderr.count("a command is refused") == len(NO_COMMANDS)


UNREADABLE = {
    "trailing": (b'"cmd": "ping"} trailing', "not JSON"),
    "cut off": (b'"cmd": "execute", "args": {"name": "tr', "not JSON"),
    "tab": (b'"cmd": "ping", "data": "a\tb"}', "not JSON"),
    "digits": (
        b'"cmd": "execute", "args": {"name": "true", "max_time": ' + b"9" * 5000 + b"}}",
        "too many digits",
    ),
    "deep": (b'"cmd": "ping", "args": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "nested too deeply"),
}
"""What is wrong: the command behind its id, a word of the answer."""


def test_what_is_no_command_but_has_an_id_is_answered_under_it(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent()
    for kind, (rest, reason) in UNREADABLE.items():
        controller.push(b'{"id": "%s", "gid": 1, "nid": 10, ' % kind.encode() + rest)
        result = controller.wait_for_result(kind)
        assert result["state"] == "ERROR", kind
        assert reason in result["data"], kind
    assert_well(agent, controller)


def test_odd_ids_and_texts_are_answered_under_the_id_as_given(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent()
    good = [
        "a/../../../etc/passwd",
        "/",
        "..",
        "a b",
        "%2e%2e",
        "ä€\U0001f600",
        "'; DROP TABLE job; --",
        "x" * 200,
        "٣",
    ]
    bad = ["agent", "x" * 201, "x" * 100_000, "a\nb", "a\0b", "\x1b[2J", "\x85"]
    for job_id in (*good, *bad):
        controller.push(execute(job_id, "echo", job_id.replace("\0", "")))
    controller.push(
        rb'{"id": "half\ud800", "gid": 1, "nid": 10, "cmd": "execute", "args": {"name": "echo", "args": ["\udfff"]}}'
    )
    for job_id in good:
        result = controller.wait_for_result(job_id)
        assert (result["state"], result["streams"][0]) == ("SUCCESS", job_id + "\n")
    for job_id in bad:
        assert controller.wait_for_result(job_id)["state"] == "ERROR"
    assert controller.wait_for_result("half\ufffd")["streams"] == ["\ufffd\n", ""]
    assert_well(agent, controller)
    known = {path.name for path in agent.folder.iterdir()} - {"logs"}
    assert not [name for name in known if name.startswith(("passwd", "x", ".."))]
    assert not (tmp_path / "etc").exists()


def test_half_characters_in_every_text_are_answered(controller: RecordingController, start_agent: StartAgent) -> None:
    """A lone surrogate is valid JSON and no text that could be stored: it counts as U+FFFD wherever it stands."""
    agent = start_agent(max_jobs=200)
    half = "\ud800"
    built_ins = ("id", "signal", "jobid", "domain", "name", "levels", "timefrom", "limit", half)
    commands = [
        built_in(f"{name}-{number}", name, json.dumps(data))
        for name in (
            *BUILTINS,
            "jumpscript",
            "jumpscript_content",
            "bash",
            "get_aggregated_stats",
            "reboot",
            "no" + half,
        )
        for number, data in enumerate(
            [
                half,
                [half],
                *({"id": "x", "jobid": "x", field: wrong} for field in built_ins for wrong in (half, [half])),
            ]
        )
    ]
    for key in sorted(KNOWN_ARGUMENTS):
        if key not in PERIODS:
            commands += [
                execute(f"{key}-{n}", **{"name": "true", key: wrong}) for n, wrong in enumerate((half, [half]))
            ]
    commands += [{**execute(f"top-{key}", "true"), key: half} for key in (*TOP, half)]
    commands.append(execute(f"script{half}", "", cmd="jumpscript_content", data=json.dumps({"content": f"#{half}\n"})))
    for command in commands:
        controller.push(command)
    wanted = sorted(command["id"].replace(half, "\ufffd") for command in commands)
    wait_until(lambda: len(controller.results) >= len(wanted), 60, f"{len(wanted)} results")
    assert sorted(result["id"] for result in controller.results) == wanted
    for result in controller.results:
        assert result["state"] in ("SUCCESS", "ERROR", "UNKNOWN_CMD"), result
        assert half not in json.dumps(result, ensure_ascii=False)
    assert_well(agent, controller)


def test_a_job_with_half_a_character_in_its_id_is_found_by_that_id(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent()
    controller.push(shell("half\ud800", "echo line; sleep 1000"))
    wait_until(lambda: agent.rows("jobid = ?", "half\ufffd"), what="the job's line")
    for number, (name, key) in enumerate([("get_process_stats", "id"), ("get_msgs", "jobid"), ("kill", "id")]):
        controller.push(built_in(f"b{number}", name, json.dumps({key: "half\ud800"})))
        result = controller.wait_for_result(f"b{number}")
        assert (result["state"], result["data"] not in ("", "[]")) == ("SUCCESS", True), result
    assert controller.wait_for_result("half\ufffd")["state"] == "KILLED"
    controller.push(b'{"id": "big\\ud800", "gid": 1, "nid": 10, "cmd": "ping", "data": "' + b"x" * 40_000_000 + b'"}')
    result = controller.wait_for_result("big\ufffd", 60)
    assert "too large" in result["data"]
    assert_well(agent, controller)


def test_a_flood_of_refused_commands_is_answered_and_does_not_fill_our_log(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent()
    ids = [f"bad-{number}" for number in range(100)]
    for command_id in ids:
        controller.push({"id": command_id, "cmd": 7})
    wait_until(lambda: len(controller.results) == 100, 60, "all refusals to be answered")
    assert sorted(result["id"] for result in controller.results) == sorted(ids)
    agent.await_said("more lines like the last are only counted")
    assert 20 <= agent.stderr.count("a command is refused") <= 60, "20 in a minute, and a slow machine takes longer"


@pytest.mark.parametrize(
    ("kind", "first", "flood", "said"),
    [
        ("ended", "echo hi", "echo hi", "delivered again after its end"),
        ("alive", "sleep 1000", "sleep 1000", "delivered again while it lives"),
        ("another", "sleep 1000", "echo another", "A job exists with the same ID"),
        ("unknown", "", "", "unknown command"),
    ],
    ids=lambda value: value.replace(" ", "-"),
)
def test_a_flood_of_repeated_and_unknown_commands_does_not_fill_our_log(
    controller: RecordingController, start_agent: StartAgent, kind: str, first: str, flood: str, said: str
) -> None:
    agent = start_agent()
    if first:
        controller.push(shell("j", first))
        wait_until(lambda: controller.waiting_commands == 0, what="the first command taken")
        controller.push(built_in("p", "ping"))
        controller.wait_for_result("j" if kind == "ended" else "p")
    before = len(agent.stderr.splitlines())
    for number in range(100):
        controller.push(shell("j", flood) if first else built_in(f"u{number}", "no-such-command"))
    wait_until(lambda: controller.waiting_commands == 0, 60, "all commands taken")
    # Of another kind, so that it is said although the first are not any more.
    controller.push({"id": "odd", "cmd": 7})
    wait_until(lambda: "a command is refused" in agent.stderr, what="another line")
    lines = agent.stderr.splitlines()[before:]
    told = sum(said in line for line in lines)
    assert 20 <= told <= 60, "20 in a minute, and a slow machine takes longer"
    more = sum("like the last are only counted" in line or "like the next were left out" in line for line in lines)
    assert 1 <= more <= 5
    assert len(lines) == told + more + 1
    if kind in ("another", "unknown"):
        state = "UNKNOWN_CMD" if kind == "unknown" else "DUPILICATE_ID"
        wait_until(lambda: sum(result["state"] == state for result in controller.results) == 100, 60, "every answer")
    assert_well(agent, controller)


NOT_STARTABLE: tuple[tuple[str, Any], ...] = (
    ("name", "tr\0ue"),
    ("args", ["a\0b"]),
    ("working_dir", "/tmp\0"),
    ("env", ["A=b\0c"]),
    ("env", {"A\0": "b"}),
    ("args", ["x" * 300_000]),
    ("args", ["x" * 50_000] * 200),
    ("env", ["LONG=" + "x" * 4_000_000]),
    ("name", "x" * 5000),
    ("name", "a/" * 3000),
    ("working_dir", "/no/such/folder"),
    ("working_dir", "/etc/passwd"),
)


def test_what_cannot_be_started_is_an_error_with_the_reason(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent()
    for number, (field, value) in enumerate(NOT_STARTABLE):
        case = f"{field} = {value!r:.20}"
        controller.push(execute(f"j{number}", **{"name": "true", field: value}))
        result = controller.wait_for_result(f"j{number}", 30)
        assert result["state"] == "ERROR", case
        assert result["data"], case
        assert "\n" not in result["data"], case
        assert len(result["data"]) < 2000, case
    assert_well(agent, controller)


def test_a_command_of_a_hundred_megabytes_is_refused_without_being_held(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent()
    controller.push(built_in("before", "ping"))
    controller.wait_for_result("before")
    before = memory_of(agent.pid, "VmHWM")
    controller.push(b'{"id": "big", "gid": 1, "nid": 10, "cmd": "execute", "data": "' + b"x" * 100_000_000 + b'"}')
    result = controller.wait_for_result("big", 60)
    assert result["state"] == "ERROR"
    assert "too large" in result["data"]
    assert_well(agent, controller)
    assert memory_of(agent.pid, "VmHWM") - before < 64 * 1024 * 1024


def test_large_results_do_not_stay_in_memory(controller: RecordingController, start_agent: StartAgent) -> None:
    agent = start_agent()
    for number in range(3):
        controller.push(shell(f"large{number}", "printf '20:::'; yes | tr -d '\\n' | head -c 16000000; echo; echo :::"))
        assert len(controller.wait_for_result(f"large{number}", 30)["data"]) == 16_000_000
    wait_until(lambda: memory_of(agent.pid, "VmRSS") < 140 * 1024 * 1024, what="the memory to be given back")
    assert memory_of(agent.pid, "VmHWM") < 200 * 1024 * 1024


def reader_of(agent: AgentProcess) -> int:
    """The pid of its process that reads a large command, once it has stopped."""

    def found() -> int | None:
        for pid in procfs.all_pids():
            process = procfs.read_process(pid)
            if (
                process is not None
                and process.parent == agent.pid
                and b"reading_child" in procfs.read(f"/proc/{pid}/cmdline")
                and state_of(pid) == "T"
            ):
                return pid
        return None

    reader = wait_until(found, what="the process that reads")
    assert reader is not None
    return reader


def test_a_command_that_is_being_read_is_accepted_when_the_agent_is_replaced(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent(python_path=package_that_holds_readers(tmp_path / "installed"))
    controller.push(execute("large", "true", data="x" * 300_000))
    reader = reader_of(agent)
    os.kill(agent.pid, signal.SIGUSR2)
    os.kill(reader, signal.SIGCONT)
    wait_until(lambda: agent.stderr.count("is ready") == 2, 60, "the replacement")
    assert controller.wait_for_result("large")["state"] == "SUCCESS"
    assert not is_running(reader)
    assert "behind" not in agent.stderr
    assert_well(agent, controller)


def test_the_process_that_reads_ends_with_a_killed_agent(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent(python_path=package_that_holds_readers(tmp_path / "installed"))
    controller.push(execute("large", "true", data="x" * 300_000))
    reader = reader_of(agent)
    agent.kill()
    os.kill(reader, signal.SIGCONT)
    wait_until(lambda: not is_running(reader), what="its end")
